"""Figures of what was filtered and mined."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_HATCHES = ("", "//", "..", "xx")


def score_histogram(
    title: str, scores: Mapping[str, np.ndarray], cut: float | None = None, what: str = "cosine"
) -> Figure:
    """Histograms of scores (`what` says which) on one axis, with the value at which pairs were cut."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    filled = [values for values in scores.values() if len(values)]
    low = min((float(values.min()) for values in filled), default=0.0)
    high = max((float(values.max()) for values in filled), default=1.0)
    edges = np.linspace(low, max(high, low + 1e-6), 41)
    for (name, values), colour, hatch in zip(scores.items(), _COLOURS, _HATCHES, strict=False):
        label = f"{name} ({len(values):,})"
        axes.hist(
            values, edges.tolist(), alpha=0.55, color=colour, edgecolor=colour, hatch=hatch, label=label
        )
    if cut is not None:
        axes.axvline(cut, color="black", linestyle="--", label=f"cut at {cut:.3f}")
    axes.set(title=title, xlabel=what, ylabel="count")
    axes.legend()
    return figure


def counted_histogram(title: str, counts: Mapping[str, np.ndarray], edges: np.ndarray) -> Figure:
    """Histograms of cosines that are counted already, on one axis.

    Args:
        counts: int64 [bins] by name.
        edges: [bins + 1].
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for (name, values), colour, hatch in zip(counts.items(), _COLOURS, _HATCHES, strict=False):
        label = f"{name} ({int(values.sum()):,})"
        axes.stairs(values, edges, fill=True, alpha=0.55, color=colour, hatch=hatch, label=label)
    filled = np.flatnonzero(sum(counts.values()))
    if len(filled):
        axes.set_xlim(edges[filled[0]], edges[filled[-1] + 1])
    axes.set(title=title, xlabel="cosine", ylabel="count")
    axes.legend()
    return figure
