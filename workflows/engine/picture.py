"""The DAG as a picture: a box a step, with its state and duration.

Layered from top to bottom as Sugiyama et al. (1981) do it: every step one row below the last of its inputs,
an invisible point in each row that an edge passes, rows ordered by the mean place of the neighbours. Edges
that follow from longer ways (the transitive reduction's complement) are left out.
"""

import io
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflows.engine.step import Step, closure, producer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
# Inches.
_HEIGHT, _ROW, _GAP, _CHARACTER, _MARGIN = 0.42, 0.82, 0.22, 0.072, 0.3
_SWEEPS = 8
_PIXELS = 16_000
"""At most, on a side: a wider picture is drawn smaller, for matplotlib refuses it."""

Node = str | tuple[str, str, int]
"""A step's name, or the point at which an edge passes a row."""


@dataclass(frozen=True)
class Box:
    """What is shown of one step."""

    state: str = "waiting"
    duration_s: float | None = None

    def __str__(self) -> str:
        return self.state if self.duration_s is None else f"{self.state}, {_seconds(self.duration_s)}"


def draw(steps: Iterable[Step], boxes: Mapping[str, Box], title: str) -> bytes:
    """A PNG of `figure`."""
    image = io.BytesIO()
    figure(steps, boxes, title).savefig(image, format="png")
    return image.getvalue()


def figure(steps: Iterable[Step], boxes: Mapping[str, Box], title: str) -> "Figure":
    """The steps and all that they are made of.

    Args:
        boxes: by step name; a step without one has not begun.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path

    ordered = closure(steps)
    rows, ways = _rows(ordered)
    labels = {step.name: str(boxes.get(step.name, Box())) for step in ordered}
    wide = _CHARACTER * max(len(text) for text in (*labels, *labels.values())) + 0.2
    x = _places(rows, ways, wide)
    y = {node: -row * _ROW for row, nodes in enumerate(rows) for node in nodes}
    left, right = min(x.values()) - wide / 2 - _MARGIN, max(x.values()) + wide / 2 + _MARGIN
    bottom, top = -(len(rows) - 1) * _ROW - _HEIGHT / 2 - _MARGIN, _HEIGHT / 2 + _MARGIN + 0.3

    wide_and_high = (right - left, top - bottom)
    drawn = Figure(figsize=wide_and_high, dpi=min(110.0, _PIXELS / max(wide_and_high)))
    FigureCanvasAgg(drawn)
    axes = drawn.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))  # one unit is one inch
    axes.axis("off")
    axes.text((left + right) / 2, top - 0.25, title, ha="center", va="center", fontsize=11)
    for way in ways:
        points, codes = [(x[way[0]], y[way[0]] - _HEIGHT / 2)], [Path.MOVETO]
        for node in way[1:]:
            end = y[node] + _HEIGHT / 2 if isinstance(node, str) else y[node]
            bend = (points[-1][1] + end) / 2
            points += [(points[-1][0], bend), (x[node], bend), (x[node], end)]
            codes += [Path.CURVE4] * 3
        arrow = FancyArrowPatch(path=Path(points, codes), arrowstyle="-|>", mutation_scale=9, color="#666666")
        axes.add_patch(arrow)
    for name, label in labels.items():
        corner = (x[name] - wide / 2, y[name] - _HEIGHT / 2)
        colour = _COLOURS[boxes.get(name, Box()).state]
        axes.add_patch(
            FancyBboxPatch(
                corner, wide, _HEIGHT, "round,pad=0,rounding_size=0.07", facecolor=colour, edgecolor="#333333"
            )
        )
        axes.text(x[name], y[name] + 0.09, name, ha="center", va="center", fontsize=8, weight="bold")
        axes.text(x[name], y[name] - 0.09, label, ha="center", va="center", fontsize=7.5)
    return drawn


def _rows(ordered: list[Step]) -> tuple[list[list[Node]], list[list[Node]]]:
    """The nodes of every row, and every edge as the nodes on its way."""
    import networkx as nx

    graph = nx.DiGraph()
    for step in ordered:
        graph.add_node(step.name)
        graph.add_edges_from((producer(source).name, step.name) for source in step.inputs.values())
    row = {name: number for number, layer in enumerate(nx.topological_generations(graph)) for name in layer}
    for name in graph:
        if not graph.in_degree(name) and graph.out_degree(
            name
        ):  # a source stands just above its first consumer
            row[name] = min(row[after] for after in graph.successors(name)) - 1
    rows: list[list[Node]] = [[] for _ in range(max(row.values()) + 1)]
    for name, number in row.items():
        rows[number].append(name)
    ways: list[list[Node]] = []
    for before, after in nx.transitive_reduction(graph).edges:
        passing: list[Node] = [(before, after, number) for number in range(row[before] + 1, row[after])]
        for number, node in enumerate(passing, row[before] + 1):
            rows[number].append(node)
        ways.append([before, *passing, after])
    return rows, ways


def _places(rows: list[list[Node]], ways: list[list[Node]], wide: float) -> dict[Node, float]:
    """Horizontal centre of every node: near the mean of its neighbours, and none upon another."""
    near: dict[Node, list[Node]] = {node: [] for nodes in rows for node in nodes}
    for way in ways:
        for one, other in itertools.pairwise(way):
            near[one].append(other)
            near[other].append(one)
    x: dict[Node, float] = {node: float(place) for nodes in rows for place, node in enumerate(nodes)}

    def settle(nodes: list[Node]) -> None:
        wanted = {
            node: sum(x[other] for other in near[node]) / len(near[node]) if near[node] else x[node]
            for node in nodes
        }
        nodes.sort(key=wanted.__getitem__)
        half = {node: (wide if isinstance(node, str) else 0.0) / 2 + _GAP / 2 for node in nodes}
        place = -float("inf")
        shift = 0.0
        for node in nodes:
            place = max(wanted[node], place + half[node])
            x[node] = place
            shift += (place - wanted[node]) / len(nodes)
            place += half[node]
        for node in nodes:  # pushed to the right only: take the mean of that back
            x[node] -= shift

    for sweep in range(_SWEEPS):
        for nodes in rows if sweep % 2 == 0 else reversed(rows):
            settle(nodes)
    return x


def _seconds(value: float) -> str:
    if value < 100:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s"
