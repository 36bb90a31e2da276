"""What every filter leaves behind: the pairs it kept, those it turned away with score and reason, the figures."""

import numpy as np
import pyarrow as pa

from components.corpus.schema import PAIRS
from components.monitor import Monitor
from components.pairs.figures import score_histogram
from components.pairs.filters.scores import empty_side
from components.pairs.piecewise import ROWS_AT_ONCE
from components.pairs.table import PairWriter, read_pairs
from components.storage import Folder

BELOW_CUT = "below_cut"


def write_cut(
    pairs: Folder, score_N: np.ndarray, cut: float, what: str, output: Folder, monitor: Monitor
) -> dict[str, float]:
    """Keep what scores at least `cut`; the rest of `write_outcome`.

    Returns: as `write_outcome`, and cut.

    Raises:
        ValueError: nothing is kept.
    """
    kept_N = score_N >= cut  # false for NaN
    if not kept_N.any():
        best = np.nanmax(score_N)
        raise ValueError(
            f"filter: threshold {cut} keeps none of {len(score_N)} pairs, whose best is {best:.3f}"
        )
    numbers = write_outcome(pairs, score_N, kept_N, BELOW_CUT, what, output, monitor, cut)
    monitor.metrics({"cut": cut})
    return numbers | {"cut": cut}


def write_outcome(
    pairs: Folder,
    score_N: np.ndarray,
    kept_N: np.ndarray,
    reason: str,
    what: str,
    output: Folder,
    monitor: Monitor,
    cut: float | None = None,
) -> dict[str, float]:
    """Write `pairs.parquet` and `rejected/rejected.parquet`, both with the score as `measured`, and draw the scores.

    Args:
        score_N: float32, of all pairs; NaN: could not be scored.
        kept_N: bool.
        reason: why a pair that could be scored is turned away.
        what: a score is, for the figure.
        cut: drawn into the figure.

    Returns: rows_in, rows_out, rejected_<reason> (`reason`, `empty_query`, `empty_positive`, `score_is_nan`),
        kept_share, score_mean_kept, score_mean_rejected (of those that have a score, if there are).
    """
    start = 0
    with PairWriter(output) as writer:
        for piece in read_pairs(pairs, ROWS_AT_ONCE):
            rows = slice(start, start + piece.num_rows)
            start += piece.num_rows
            field = PAIRS.field("measured")
            column = pa.array(score_N[rows], field.type)
            piece = piece.set_column(piece.schema.get_field_index(field.name), field, column)
            writer.keep(piece.filter(pa.array(kept_N[rows])))
            rejected = piece.filter(pa.array(~kept_N[rows]))
            scores = rejected["measured"].to_numpy()
            writer.reject(
                rejected,
                [
                    empty or ("score_is_nan" if np.isnan(score) else reason)
                    for empty, score in zip(empty_side(rejected), scores, strict=True)
                ],
            )
    scored_N = ~np.isnan(score_N)
    score_K, score_R = score_N[kept_N], score_N[~kept_N & scored_N]
    monitor.figure(
        "filter_scores.png",
        score_histogram(
            f"{what}: pairs kept and rejected", {"kept": score_K, "rejected": score_R}, cut, what
        ),
    )
    numbers = writer.numbers() | {
        "kept_share": float(kept_N.mean()),
        "score_mean_kept": float(score_K.mean()),
    }
    if len(score_R):
        numbers["score_mean_rejected"] = float(score_R.mean())
    monitor.metrics(numbers)
    return numbers
