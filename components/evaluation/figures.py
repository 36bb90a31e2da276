"""The plots of the report. Colours by Okabe and Ito, which colour-blind readers can tell apart."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from components.evaluation.systems_table import LEVEL, ComparisonTable, SetTable
from components.evaluation.table import Row, figures, title

BLUE, SKY, VERMILION, GREY, INK = "#0072B2", "#56B4E9", "#D55E00", "#999999", "#1f2328"

_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8c959f",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlelocation": "left",
    "svg.fonttype": "path",  # the page looks the same on a machine without the font
}
_LOW_TO_HIGH = mpl.colormaps["cividis_r"]
_BEHIND_TO_AHEAD = LinearSegmentedColormap.from_list("behind to ahead", [VERMILION, "#ffffff", BLUE])
_WIDTH = 6.2  # inches: about what a phone shows without shrinking the letters below reading size


def to_svg(figure: Figure) -> bytes:
    """The figure as an SVG file: same figure, same bytes."""
    sink = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "embedloom"} | _STYLE):
        figure.savefig(sink, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return sink.getvalue()


@mpl.rc_context(_STYLE)
def stages(rows: list[Row], metric: str = "ndcg@10") -> Figure:
    """A bar for each system with its 95 % interval; baseline grey, last one dark."""
    figure = Figure(figsize=(_WIDTH, 0.9 + 0.55 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    intervals = [row.metrics[metric] for row in rows]
    mean = np.array([interval.mean for interval in intervals])
    error = np.array([[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]])
    axes.barh(
        [row.name for row in rows],
        mean,
        xerr=error,
        color=[GREY if not row.p else BLUE if row is rows[-1] else SKY for row in rows],
        error_kw={"ecolor": INK, "elinewidth": 1.2, "capsize": 4},
        height=0.62,
    )
    farthest = max(interval.high for interval in intervals)
    for at, interval in enumerate(intervals):
        axes.text(interval.high + 0.02 * farthest, at, figures(interval), va="center", fontsize=10)
    room = farthest * 1.42  # for the figures behind the bars
    axes.set_xticks([tick for tick in MaxNLocator(6).tick_values(0, room) if tick <= min(1, room)])
    axes.set_xlim(0, room)
    axes.invert_yaxis()
    axes.set_xlabel(f"{title(metric)}, mean and 95 % interval over {rows[0].queries:,} queries")
    return figure


@mpl.rc_context(_STYLE)
def scores(kept: np.ndarray, rejected: np.ndarray, step: str) -> Figure:
    """How pairs were scored by a filter: those kept and those turned away, stacked."""
    figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(
        [rejected, kept],
        bins=np.histogram_bin_edges(np.concatenate([kept, rejected]), bins=40).tolist(),
        stacked=True,
        color=[VERMILION, BLUE],
        label=[f"rejected ({len(rejected):,})", f"kept ({len(kept):,})"],
    )
    axes.legend(frameon=False)
    axes.set_xlabel("score of query and positive")
    axes.set_ylabel("pairs")
    axes.set_title(step)
    return figure


@mpl.rc_context(_STYLE)
def losses(step_S: np.ndarray, loss_S: np.ndarray, stage: str) -> Figure:
    """Training loss by step; with many steps, a running mean over a twentieth of them on top."""
    figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
    axes = figure.add_subplot()
    window = len(loss_S) // 20
    if window < 3:
        axes.plot(step_S, loss_S, color=BLUE, linewidth=1.6, marker="o" if len(loss_S) < 3 else None)
    else:
        smooth_S = np.convolve(loss_S, np.full(window, 1 / window), mode="valid")
        axes.plot(step_S, loss_S, color=SKY, linewidth=0.8, label="each step")
        axes.plot(
            step_S[window - 1 :], smooth_S, color=BLUE, linewidth=2, label=f"mean of the last {window} steps"
        )
        axes.legend(frameon=False)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title(stage)
    return figure


@mpl.rc_context(_STYLE)
def angles(angle_T: np.ndarray, step: str) -> Figure:
    """The angle between what was merged, one point a tensor, in the order of the model."""
    figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(np.arange(len(angle_T)), angle_T, s=16, color=BLUE)
    median = np.median(angle_T)
    axes.plot([0, len(angle_T)], [median, median], color=VERMILION, linewidth=1.4, linestyle="--")
    axes.text(len(angle_T), median, "  median", color=VERMILION, va="center", fontsize=10)
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.02 * len(angle_T), 1.16 * len(angle_T))
    axes.set_xlabel("tensor, in the order of the model")
    axes.set_ylabel("angle, degrees")
    axes.set_title(step)
    return figure


@mpl.rc_context(_STYLE)
def systems(one: SetTable) -> Figure:
    """A point for each system with its 95 % interval: dark where it differs from the baseline, which is grey."""
    figure = Figure(figsize=(_WIDTH, 1.0 + 0.34 * len(one.figures)), layout="constrained")
    axes = figure.add_subplot()
    for at, each in enumerate(one.figures):
        value = each.value
        colour = GREY if each.p is None else BLUE if each.p < LEVEL else SKY
        error = [[value.mean - value.low], [value.high - value.mean]]
        axes.errorbar(
            value.mean, at, xerr=error, fmt="s" if each.p is None else "o", color=colour, ecolor=INK,
            elinewidth=1.2, capsize=3, markersize=7,
        )  # fmt: skip
    axes.set_yticks(range(len(one.figures)), [each.system for each in one.figures])
    axes.set_ylim(len(one.figures) - 0.5, -0.5)
    axes.grid(axis="x", color="#e4e8ec")
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{one.name if one.metric == one.name else title(one.metric)}, mean and 95 % interval")
    return figure


@mpl.rc_context(_STYLE)
def pairs(one: SetTable) -> Figure:
    """Every pair: how far the system of the row is ahead of that of the column; a ring where that may be chance."""
    names = [each.system for each in one.figures]
    size = max(_WIDTH, 1.6 + 0.38 * len(names))
    figure = Figure(figsize=(size, size - 0.6), layout="constrained")
    axes = figure.add_subplot()
    ahead_SS = np.zeros((len(names), len(names)))
    for pair in one.pairs:
        first, second = names.index(pair.first), names.index(pair.second)
        ahead_SS[first, second], ahead_SS[second, first] = pair.difference.mean, -pair.difference.mean
        if pair.p >= LEVEL:
            axes.plot([second, first], [first, second], "o", color=INK, fillstyle="none", markersize=5)
    most = max(float(np.abs(ahead_SS).max()), 1e-9)
    shown = axes.imshow(ahead_SS, cmap=_BEHIND_TO_AHEAD, vmin=-most, vmax=most)
    figure.colorbar(shown, shrink=0.7, label="ahead by")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    return figure


@mpl.rc_context(_STYLE)
def sweep(one: SetTable, points: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Parallel coordinates: a line for each system from value to value, then to its figure; the higher, the darker."""
    fields = list(next(iter(points.values())))
    figure = Figure(figsize=(max(_WIDTH, 1.9 * (len(fields) + 1)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    lowest, highest = (of(each.value.mean for each in one.figures) for of in (min, max))
    heights = {each.system: (each.value.mean - lowest) / max(highest - lowest, 1e-9) for each in one.figures}
    ways: dict[str, list[float]] = {system: [] for system in points}
    for at, field in enumerate(fields):
        values = list(dict.fromkeys(str(point[field]) for point in points.values()))
        places = dict(zip(values, np.linspace(0, 1, len(values)), strict=True))
        # A little apart, so that no line hides another.
        for (system, point), aside in zip(points.items(), np.linspace(-0.03, 0.03, len(points)), strict=True):
            ways[system].append(places[str(point[field])] + aside)
        _axis(axes, at, places)
    _axis(axes, len(fields), {f"{lowest:.3f}": 0.0, f"{highest:.3f}": 1.0})
    for system, height in sorted(heights.items(), key=lambda each: each[1]):
        colour = _LOW_TO_HIGH(height)
        axes.plot(
            [*ways[system], height], color=colour, linewidth=1.2 + 1.6 * height, marker="o", markersize=4
        )
    axes.set_xlim(-0.45, len(fields) + 0.45)
    axes.set_xticks(range(len(fields) + 1), [*(field.replace(".", ".\n") for field in fields), one.name])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    return figure


def _axis(axes: Axes, at: int, places: Mapping[str, float]) -> None:
    """A vertical axis of parallel coordinates, with words at its places."""
    axes.axvline(at, color="#8c959f", linewidth=1, zorder=0)
    for word, height in places.items():
        axes.annotate(
            word, (at, height), (7, 8), textcoords="offset points", fontsize=10, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )  # fmt: skip


@mpl.rc_context(_STYLE)
def costs(table: ComparisonTable) -> Figure:
    """The figure of the first set, which is the average if there is one, against the seconds of training."""
    figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for system, each in zip(table.systems, table.sets[0].figures, strict=True):
        axes.plot(system.cost.seconds, each.value.mean, "o", color=GREY if each.p is None else BLUE)
        axes.annotate(
            system.name,
            (system.cost.seconds, each.value.mean),
            (5, 3),
            textcoords="offset points",
            fontsize=9,
        )
    axes.margins(x=0.15)
    axes.grid(color="#e4e8ec")
    axes.set_axisbelow(True)
    axes.set_xlabel("seconds of training")
    axes.set_ylabel(table.sets[0].name)
    return figure
