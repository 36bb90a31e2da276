"""The plots of the report. Colours by Okabe and Ito, which colour-blind readers can tell apart."""

import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
