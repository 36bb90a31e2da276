"""What was mined, looked at: scores, shares, the cases that a person should see, and how many are likely wrong.

How many negatives answer their query after all cannot be read off the model's scores: where the model ranks
badly, what does not answer stands as high as what does. What can be seen is a document that says what a known
positive says. How near a document comes to a positive by chance is learnt from documents behind those that were mined,
and what is nearer than chance explains is counted (`estimate_false_negatives`).
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from matplotlib.figure import Figure

from components.pairs.candidates import Candidates
from components.pairs.figures import counted_histogram

SUSPICIOUS_SHOWN = 20
SHOWN_CHARACTERS = 300
SCORE_EDGES = np.linspace(-1, 1, 401)
WORD_EDGES = np.linspace(0, 1, 201)
PARTIAL_EDGES = np.linspace(-1, 1, 401)
LEAST_CONTROLS = 200
# Of what is near by chance one in a thousand passes; 3.09 standard deviations above the mean of a normal.
_CHANCE = 0.001
_DEVIATIONS = 3.0902
# The centre of the controls tells their spread; their upper tail may hold positives that nobody knows.
_MIDDLE, _UPPER, _UPPER_DEVIATIONS = 0.5, 0.9, 1.2816


@dataclass(frozen=True)
class BlockAudit:
    """What one block of pairs adds to the audit. All arrays, so that it can be kept on disk.

    Attributes:
        counts: float64 [len(COUNTS)].
        positive_scores, negative_scores: int64 histograms over SCORE_EDGES.
        control_words, control_partials: int64 histograms of the controls' nearness to the positives, over WORD_EDGES
            and PARTIAL_EDGES.
        mined: int64 [words, partial], histogram of the mined negatives' nearness, known positives and copies
            aside.
        suspicion: float64 [at most SUSPICIOUS_SHOWN], of the cases below, falling.
        cases: texts [as many, len(CASE)].
    """

    counts: np.ndarray
    positive_scores: np.ndarray
    negative_scores: np.ndarray
    control_words: np.ndarray
    control_partials: np.ndarray
    mined: np.ndarray
    suspicion: np.ndarray
    cases: np.ndarray


COUNTS = (
    "rows",
    "kept",
    "negatives",
    "short",
    "without",
    "positive_sum",
    "negative_sum",
    "candidates",
    "known_positive",
    "copy",
    "near_copy",
    "margin",
    "veto",
    "dropped",
    "judged",
    "judged_known",
)
CASE = (
    "query",
    "positive",
    "negative",
    "score_positive",
    "score_negative",
    "words_in_common",
    "cosine_positive_negative",
)


def examine(
    candidates: Candidates,
    places: list[np.ndarray],
    mined_B: np.ndarray,
    kept_scores: np.ndarray,
    kept_B: np.ndarray,
    excluded: Counter[str],
    negatives_per_query: int,
) -> tuple[BlockAudit, np.ndarray, np.ndarray]:
    """The audit of a block, without the texts of its cases, and which those are.

    Args:
        places: of the negatives of each pair among its candidates.
        mined_B: bool, pairs whose negatives were mined now.
        kept_scores: float32, present scores of the negatives that the other pairs keep.
        kept_B: int64, how many each pair keeps.
        excluded: by rule, candidates of the pairs that were mined; `dropped`, negatives that they came with.

    Returns: the audit, and pair and place of its most suspicious cases, int64 each.
    """
    pair_C = np.repeat(np.arange(len(places)), [len(found) for found in places])
    place_C = np.concatenate([*places, np.empty(0, np.int64)])
    at_C = (pair_C, place_C)
    score_C = candidates.score_BK[at_C]
    scores = np.concatenate([score_C, kept_scores])
    known_C = candidates.known_BK[at_C]
    words_C, partial_C = candidates.words_BK[at_C], candidates.partial_BK[at_C]
    unknown_C = ~known_C

    there_BK = candidates.row_BK >= 0
    control_BK = there_BK & mined_B[:, None] & ~candidates.known_BK & _behind(places, there_BK.shape[1])
    negatives_B = np.bincount(pair_C, minlength=len(places)) + kept_B
    passed_over_B2 = candidates.passed_over_B[mined_B]
    counts = {
        "rows": len(places),
        "kept": (~mined_B).sum(),
        "negatives": len(scores),
        "short": (negatives_B < negatives_per_query).sum(),
        "without": (negatives_B == 0).sum(),
        "positive_sum": candidates.positive_score_B.sum(dtype=np.float64),
        "negative_sum": scores.sum(dtype=np.float64),
        "candidates": there_BK[mined_B].sum() + passed_over_B2.sum(),
        "known_positive": passed_over_B2[:, 0].sum(),
        "copy": passed_over_B2[:, 1].sum(),
        "judged": len(score_C),
        "judged_known": known_C.sum(),
        **excluded,
    }
    # A known answer comes before any that is only near one.
    suspicion_C = np.maximum(words_C, candidates.cosine_BK[at_C]) + 2.0 * known_C
    worst = np.argsort(-suspicion_C, kind="stable")[:SUSPICIOUS_SHOWN]
    audit = BlockAudit(
        counts=np.array([counts[name] for name in COUNTS], dtype=np.float64),
        positive_scores=_histogram(candidates.positive_score_B, SCORE_EDGES),
        negative_scores=_histogram(scores, SCORE_EDGES),
        control_words=_histogram(candidates.words_BK[control_BK], WORD_EDGES),
        control_partials=_histogram(candidates.partial_BK[control_BK], PARTIAL_EDGES),
        mined=np.histogram2d(
            np.clip(words_C[unknown_C], 0, 1),
            partial_C[unknown_C],
            bins=(WORD_EDGES, PARTIAL_EDGES),
        )[0].astype(np.int64),
        suspicion=suspicion_C[worst],
        cases=np.empty((0, len(CASE)), dtype=np.str_),
    )
    return audit, pair_C[worst], place_C[worst]


def _behind(places: list[np.ndarray], width: int) -> np.ndarray:
    """bool [B, K]: ranks behind the last one mined, or the lower half where that is more.

    Chance brings a document the nearer to a positive the higher it ranks, so the controls begin as high as they can.
    """
    first_B = [min(int(found.max()) + 1, width // 2) if len(found) else width // 2 for found in places]
    return np.arange(width) >= np.array(first_B, dtype=np.int64)[:, None]


def merge_audits(audits: Iterable[BlockAudit]) -> BlockAudit:
    """The audit of all blocks; the cases are the most suspicious of all."""
    total: dict[str, np.ndarray] = {}
    for audit in audits:
        for field in fields(BlockAudit):
            value = getattr(audit, field.name)
            if field.name not in total:
                total[field.name] = value
            elif field.name in ("suspicion", "cases"):
                total[field.name] = np.concatenate([total[field.name], value])
            else:
                total[field.name] = total[field.name] + value
        worst = np.argsort(-total["suspicion"], kind="stable")[:SUSPICIOUS_SHOWN]
        total |= {name: total[name][worst] for name in ("suspicion", "cases")}
    return BlockAudit(**total)


def estimate_false_negatives(audit: BlockAudit) -> float | None:
    """Share of the mined negatives that answer their query, as far as that can be seen.

    Counted are known positives and copies of one, where their exclusion is switched off, and of the others those
    that are nearer to a known positive of their query than chance explains, by words in common or by cosine. The
    null distribution is empirical (Efron, "Large-scale simultaneous hypothesis testing: the choice of a null
    hypothesis", JASA 2004): from the ranks behind the mined, the logarithm of the share of words and the cosine
    each taken as normal, with centre and spread from their 50 % and 90 % quantiles, so that a tail of positives
    among the controls does not move it. The share beyond 0.1 % of the null, less that 0.1 %, estimates how many
    say what a positive says (Storey, JRSS-B 2002). It is too high where a collection has pages of one pattern
    that differ in what they are about (the functions of a manual), and too low where a document answers in words
    that no known positive has and the model does not put it near one.

    Returns: the share; None where there are too few controls or no negative was mined.
    """
    counts = dict(zip(COUNTS, audit.counts, strict=True))
    if audit.control_words.sum() < LEAST_CONTROLS or not counts["judged"]:
        return None
    words_at, partial_at = _middles(WORD_EDGES), _middles(PARTIAL_EDGES)
    words = np.exp(_beyond_chance(np.log(words_at), audit.control_words))
    partial = _beyond_chance(partial_at, audit.control_partials)
    near = (words_at > words)[:, None] | (partial_at > partial)[None, :]
    judged = audit.mined.sum()
    excess = max(0.0, (audit.mined[near].sum() - 2 * _CHANCE * judged) / (1 - 2 * _CHANCE))
    return float((counts["judged_known"] + excess) / counts["judged"])


def summarise(audit: BlockAudit) -> dict[str, float]:
    """The numbers of the step."""
    counts = dict(zip(COUNTS, audit.counts.tolist(), strict=True))
    rows, candidates = max(counts["rows"], 1), max(counts["candidates"], 1)
    numbers = {
        "rows_in": counts["rows"],
        "rows_out": counts["rows"],
        "rows_kept": counts["kept"],
        "negatives_dropped": counts["dropped"],
        "negatives": counts["negatives"],
        "score_mean_positive": counts["positive_sum"] / rows,
        "share_short": counts["short"] / rows,
        "share_without": counts["without"] / rows,
    }
    if counts["negatives"]:
        numbers["score_mean_negative"] = counts["negative_sum"] / counts["negatives"]
    rules = ("known_positive", "copy", "near_copy", "margin", "veto")
    numbers |= {f"share_{rule}": counts[rule] / candidates for rule in rules}
    if (estimate := estimate_false_negatives(audit)) is not None:
        numbers["estimated_false_negative_rate"] = estimate
    return numbers


def suspicious_table(audit: BlockAudit) -> bytes:
    """CSV of the negatives that come nearest to a known positive of their query."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(CASE)
    writer.writerows(audit.cases.tolist())
    return text.getvalue().encode()


def audit_figure(audit: BlockAudit) -> Figure:
    """Histograms of the cosines of the queries with their positives and with their negatives."""
    scores = {"positives": audit.positive_scores, "mined negatives": audit.negative_scores}
    return counted_histogram("Cosine with the query", scores, SCORE_EDGES)


def _histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]


def _middles(edges: np.ndarray) -> np.ndarray:
    return (edges[1:] + edges[:-1]) / 2


def _beyond_chance(values: np.ndarray, counts: np.ndarray) -> float:
    """The value that a normal through the 50 % and 90 % quantiles of a histogram leaves below its upper 0.1 %."""
    share = np.cumsum(counts) / counts.sum()
    middle, upper = (float(values[np.searchsorted(share, quantile)]) for quantile in (_MIDDLE, _UPPER))
    return middle + _DEVIATIONS * (upper - middle) / _UPPER_DEVIATIONS
