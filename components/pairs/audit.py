"""What was mined, looked at: scores, shares, the cases that a person should see."""

import csv
import io
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from components.pairs.vectors import cosines

_SUSPICIOUS_SHOWN = 20


@dataclass
class Mined:
    """What was found, row by row of the pair table, and the counts behind the audit."""

    rows: list[list[int]] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    excluded: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("known_positive", "copy", "margin"), 0)
    )
    candidates: int = 0


@dataclass(frozen=True)
class Cases:
    """One entry a mined negative."""

    row: np.ndarray
    """Row of the pair table."""
    place: np.ndarray
    """Place among the row's negatives."""
    score: np.ndarray
    """Cosine with the query."""
    to_positive: np.ndarray
    """Cosine with the row's positive."""
    own_score: np.ndarray
    """Mean cosine of the document with the queries whose positive it is; NaN if it is nobody's."""


def collect_cases(
    table: pa.Table,
    mined: Mined,
    query_ND: np.ndarray,
    positive_ND: np.ndarray,
    document_MD: np.ndarray,
    score_N: np.ndarray,
) -> Cases:
    """The mined negatives one by one; `table` holds their ids already."""
    own: dict[str, list[float]] = defaultdict(list)
    for positive_id, score in zip(table["positive_id"].to_pylist(), score_N.tolist(), strict=True):
        own[positive_id].append(score)
    counts = [len(rows) for rows in mined.rows]
    row_C = np.repeat(np.arange(len(counts)), counts)
    place_C = np.concatenate([*(np.arange(count) for count in counts), np.empty(0, np.int64)])
    document_C = np.concatenate([*(np.array(rows, np.int64) for rows in mined.rows), np.empty(0, np.int64)])
    to_positive_C = np.empty(len(row_C), np.float32)
    for start in range(0, len(row_C), 65536):  # vectors gathered at once
        part = slice(start, start + 65536)
        to_positive_C[part] = cosines(positive_ND[row_C[part]], document_MD[document_C[part]])
    ids = [document_id for found in table["negative_ids"].to_pylist() for document_id in found]
    own_C = np.array([np.mean(own[key]) if key in own else np.nan for key in ids])
    scores_C = np.concatenate([*mined.scores, np.empty(0, np.float32)])
    return Cases(row_C, place_C, scores_C, to_positive_C, own_C)


def estimate_false_negatives(cases: Cases) -> dict[str, float]:
    """An estimate, by the model's own eyes, of the share of mined negatives that answer the query.

    Of the mined negatives that are the positive of other queries: the share that scores higher with this
    query than, on average, with those that it is known to answer. Empty where no mined negative is anybody's
    positive.
    """
    judged = ~np.isnan(cases.own_score)
    if not judged.any():
        return {}
    nearer = cases.score[judged] > cases.own_score[judged]
    return {"estimated_false_negative_rate": float(nearer.mean())}


def most_suspicious(cases: Cases, table: pa.Table, mined: Mined, passages: list[str]) -> bytes:
    """CSV of the negatives that are nearest to their pair's positive: near-copies that no rule caught."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        ["query", "positive", "negative", "score_positive", "score_negative", "cosine_positive_negative"]
    )
    for case in np.argsort(-cases.to_positive, kind="stable")[:_SUSPICIOUS_SHOWN]:
        row = int(cases.row[case])
        negative = passages[mined.rows[row][int(cases.place[case])]]
        numbers = (table["score"][row].as_py(), cases.score[case], cases.to_positive[case])
        writer.writerow(
            [
                table["query"][row].as_py(),
                table["positive"][row].as_py()[:300],
                negative[:300],
                *(f"{number:.4f}" for number in numbers),
            ]
        )
    return text.getvalue().encode()


def audit(
    table: pa.Table, mined: Mined, score_N: np.ndarray, negative_scores: np.ndarray, negatives_per_query: int
) -> dict[str, float]:
    counts = np.array([len(rows) for rows in mined.rows])
    numbers = {
        "rows_in": float(table.num_rows),
        "rows_out": float(table.num_rows),
        "negatives": float(counts.sum()),
        "score_mean_positive": float(score_N.mean()),
        "share_short": float((counts < negatives_per_query).mean()),
        "share_without": float((counts == 0).mean()),
    }
    if len(negative_scores):
        numbers["score_mean_negative"] = float(negative_scores.mean())
    return numbers | {f"share_{rule}": count / mined.candidates for rule, count in mined.excluded.items()}
