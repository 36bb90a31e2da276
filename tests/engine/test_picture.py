import io
import itertools

import matplotlib.image

from workflows.engine.picture import Box, draw, figure
from workflows.engine.step import Step

_STATES = ("computed", "reused", "running", "failed", "killed", "skipped", "waiting")


def _dag() -> list[Step]:
    """Fifteen steps, in the shape of the workflow."""
    steps: dict[str, Step] = {}

    def add(name: str, *inputs: str) -> None:
        steps[name] = Step(name, "m:f", inputs={key.replace("-", "_"): steps[key] for key in inputs})

    add("documents")
    add("duplicates", "documents")
    add("split", "documents", "duplicates")
    add("base")
    add("writer")
    add("synthetic", "split", "writer")
    add("filtered", "synthetic", "base")
    add("weak", "filtered", "base")
    add("mined", "filtered", "split", "weak")
    add("supervised", "mined", "weak")
    add("merged", "supervised", "weak")
    for model in ("base", "weak", "merged"):
        add(f"evaluate-{model}", "split", model)
    add("report", "evaluate-base", "evaluate-weak", "evaluate-merged", "documents", "split")
    assert len(steps) == 15
    return list(steps.values())


def test_every_box_is_readable() -> None:
    boxes = {
        step.name: Box(state, 12.3) for step, state in zip(_dag(), itertools.cycle(_STATES), strict=False)
    }
    drawn = figure(_dag(), boxes, "docs-search")
    renderer = drawn.canvas.get_renderer()
    texts = drawn.axes[0].texts
    assert {text.get_text() for text in texts} >= {"documents", "computed, 12.3 s", "report", "docs-search"}
    extents = [text.get_window_extent(renderer) for text in texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(extents, 2))
    canvas = drawn.bbox
    assert all(canvas.x0 <= each.x0 and each.x1 <= canvas.x1 for each in extents)
    assert all(canvas.y0 <= each.y0 and each.y1 <= canvas.y1 for each in extents)
    assert min(each.height for each in extents) >= 8  # pixels


def test_it_is_a_png_of_the_states_colours() -> None:
    image = matplotlib.image.imread(io.BytesIO(draw(_dag(), {"weak": Box("failed")}, "x")))
    colours = {tuple(round(255 * float(value)) for value in pixel[:3]) for row in image for pixel in row}
    assert (0xD5, 0x5E, 0x00) in colours  # vermillion of Okabe and Ito
    assert (0x00, 0x9E, 0x73) not in colours


def test_a_dag_of_many_steps_side_by_side_is_drawn_smaller() -> None:
    """At full size its picture would have more pixels on a side than matplotlib takes."""
    start = Step("start", "m:f")
    many = [Step(f"a-system-with-a-long-name.evaluate-{n}", "m:f", inputs={"x": start}) for n in range(220)]
    height, width, _ = matplotlib.image.imread(io.BytesIO(draw(many, {}, "x"))).shape
    assert 15_000 < width <= 16_000
    assert height < width
