"""The DAG as a picture: a box a step, with its state and duration."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

from workflows.engine.step import Step, closure, producer

# Okabe and Ito's colours, told apart with any colour vision; the state is also written in the box.
_COLOURS = {
    "computed": "#009E73",
    "reused": "#56B4E9",
    "running": "#F0E442",
    "failed": "#D55E00",
    "killed": "#CC79A7",
    "skipped": "#BBBBBB",
    "waiting": "#FFFFFF",
}


@dataclass(frozen=True)
class Box:
    """What is shown of one step."""

    state: str = "waiting"
    duration_s: float | None = None


def draw(steps: list[Step], boxes: Mapping[str, Box], title: str) -> bytes:
    """A PNG. Left to right: inputs before their consumers, one column a topological layer.

    Args:
        boxes: by step name; a step without one has not begun.
    """
    import networkx as nx
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    graph = nx.DiGraph()
    for step in closure(steps):
        graph.add_node(step.name)
        graph.add_edges_from((producer(source).name, step.name) for source in step.inputs.values())
    layers = [list(layer) for layer in nx.topological_generations(graph)]
    place: dict[str, tuple[float, float]] = {}
    for column, layer in enumerate(layers):
        # Rows follow the mean height of a step's inputs, which keeps most edges from crossing.
        def height(name: str) -> float:
            above = [place[before][1] for before in graph.predecessors(name)]
            return -sum(above) / len(above) if above else 0.0

        layer.sort(key=height)
        for row, name in enumerate(layer):
            place[name] = (column, (len(layer) - 1) / 2 - row)
    tallest = max(len(layer) for layer in layers)
    figure = Figure(figsize=(min(2.1 * len(layers) + 0.4, 60), min(0.95 * tallest + 1.0, 40)), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    for before, after in graph.edges:
        (x0, y0), (x1, y1) = place[before], place[after]
        bend = 0.0 if y0 == y1 and x1 - x0 == 1 else 0.12 if y0 <= y1 else -0.12
        axes.annotate(
            "",
            xy=(x1 - 0.41, y1),
            xytext=(x0 + 0.41, y0),
            arrowprops={
                "arrowstyle": "-|>",
                "color": "#777777",
                "connectionstyle": f"arc3,rad={bend}",
                "lw": 0.9,
            },
            zorder=1,
        )
    for name, (x, y) in place.items():
        box = boxes.get(name, Box())
        duration = "" if box.duration_s is None else f"  {_seconds(box.duration_s)}"
        axes.text(
            *(x, y, f"{name}\n{box.state}{duration}"),
            ha="center",
            va="center",
            fontsize=8,
            zorder=2,
            bbox={"boxstyle": "round,pad=0.45", "facecolor": _COLOURS[box.state], "edgecolor": "#333333"},
        )
    axes.set_title(title, fontsize=10, y=1.0, pad=-14)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_ylim(-tallest / 2 - 0.2, tallest / 2 + 0.3)
    axes.axis("off")
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _seconds(value: float) -> str:
    if value < 100:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s"
