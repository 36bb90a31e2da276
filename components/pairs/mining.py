"""Hard negatives: the documents that a model ranks high for a query and that do not answer it."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from components.corpus.schema import DOCUMENTS, PAIRS, QRELS, QUERIES, conform, passage
from components.model.embedder import DTYPES, Embedder, Precision
from components.monitor import Monitor
from components.pairs.audit import Mined, audit, collect_cases, estimate_false_negatives, most_suspicious
from components.pairs.figures import score_histogram
from components.pairs.known import KnownPositives
from components.pairs.vectors import cosines, encode_documents, encode_queries
from components.search.exact import top_k
from components.storage import Folder

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Rules:
    """Which candidates may become negatives."""

    negatives_per_query: int
    first_rank: int
    end_rank: int
    relative_margin: float
    sampling: Literal["top", "random"]
    seed: int


def mine_negatives(
    *,
    pairs: Folder,
    split: Folder,
    model: Folder,
    negatives_per_query: int,
    window: list[int],
    relative_margin: float,
    sampling: Literal["top", "random"] = "top",
    seed: int = 0,
    precision: Precision = "float32",
    output: Folder,
    monitor: Monitor,
    tokens_per_batch: int = 8192,
) -> dict[str, float]:
    """Fill the negatives of every pair from the training documents, ranked exactly by a model.

    For each query the corpus is ranked. The query's known positives are taken out (`known.KnownPositives`:
    all pairs and training judgements, by query id and by query text) with every copy of their text. Of the
    ranks `window` of what is left, those stay that score below `relative_margin` times the pair's own
    positive; of them come the negatives. A row that finds fewer than asked is kept with what there is.

    Args:
        pairs: `pairs.parquet` in the schema PAIRS.
        split: output of `split_documents`; `train/` is read.
        model: model directory.
        negatives_per_query: how many at most.
        window: ranks to draw from, counted from 0: the first, and one past the last.
        relative_margin: a negative scores below this share of the positive's score (TopK-PercPos of
            NV-Retriever, arXiv 2407.15831, which takes 0.95).
        sampling: `top`: the highest ranks; `random`: a sample seeded by `seed` and the pair's id.
        precision: in which the model computes.
        output: `pairs.parquet` with `negatives` (passages, best rank first), `negative_ids` and `score`.
        tokens_per_batch: padded tokens in one forward pass.

    Returns: rows_in, rows_out, negatives, score_mean_positive, score_mean_negative, share_short (rows with
        fewer than asked), share_without (rows with none), share_<rule> (of the candidates down to the end of
        the window: those that were a known_positive, a copy, or within the margin) and, where it can be
        told, estimated_false_negative_rate (`audit.estimate_false_negatives`).

    Raises:
        ValueError: a setting that cannot be used, no pairs, or no documents.
    """
    rules = _check_rules(negatives_per_query, window, relative_margin, sampling, seed)
    table = conform(pairs.read_table("pairs.parquet"), PAIRS)
    train = split / "train"
    documents = conform(train.read_table("documents.parquet"), DOCUMENTS)
    for name, rows in (("pairs", table.num_rows), ("training documents", documents.num_rows)):
        if not rows:
            raise ValueError(f"mine: there are no {name}")
    known = KnownPositives(
        documents,
        table,
        conform(train.read_table("queries.parquet"), QUERIES),
        conform(train.read_table("qrels.parquet"), QRELS),
    )

    with model.local() as directory:
        embedder = Embedder.load(directory, DTYPES[precision])
    titles, texts = documents["title"].to_pylist(), documents["text"].to_pylist()
    passages = [passage(title, text) for title, text in zip(titles, texts, strict=True)]
    positives = table["positive"].to_pylist()
    text_VD, row_of = encode_documents(embedder, [*passages, *positives], tokens_per_batch, monitor)
    document_MD = text_VD[[row_of[text] for text in passages]]
    positive_ND = text_VD[[row_of[text] for text in positives]]
    query_UD, query_row_N = encode_queries(
        embedder, table["query"].to_pylist(), table["instruction"].to_pylist(), tokens_per_batch, monitor
    )
    query_ND = query_UD[query_row_N]
    score_N = cosines(query_ND, positive_ND)

    mined = _mine(table, known, query_ND, document_MD, score_N, rules, monitor)
    ids = documents["document_id"].to_pylist()
    for name, values in (
        ("negatives", [[passages[row] for row in rows] for rows in mined.rows]),
        ("negative_ids", [[ids[row] for row in rows] for rows in mined.rows]),
        ("score", score_N.tolist()),
    ):
        column = pa.array(values, PAIRS.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), PAIRS.field(name), column)
    output.write_table("pairs.parquet", table)

    cases = collect_cases(table, mined, query_ND, positive_ND, document_MD, score_N)
    monitor.artifact("suspicious_negatives.csv", most_suspicious(cases, table, mined, passages))
    negative_scores = np.concatenate([*mined.scores, np.empty(0, np.float32)])
    monitor.figure(
        "mined_scores.png",
        score_histogram("Cosine with the query", {"positives": score_N, "mined negatives": negative_scores}),
    )
    numbers = audit(table, mined, score_N, negative_scores, negatives_per_query)
    numbers |= estimate_false_negatives(cases)
    monitor.metrics(numbers)
    return numbers


def _check_rules(
    negatives_per_query: int, window: list[int], relative_margin: float, sampling: Any, seed: int
) -> Rules:
    if negatives_per_query < 1:
        raise ValueError(f"mine: negatives_per_query must be at least 1; it is {negatives_per_query}")
    if len(window) != 2 or not 0 <= window[0] < window[1]:
        raise ValueError(f"mine: window must be two ranks, the first below the second; it is {list(window)}")
    if not 0 < relative_margin <= 1:
        raise ValueError(f"mine: relative_margin must be above 0 and at most 1; it is {relative_margin}")
    if sampling not in ("top", "random"):
        raise ValueError(f"mine: sampling must be 'top' or 'random'; it is {sampling!r}")
    return Rules(negatives_per_query, window[0], window[1], relative_margin, sampling, seed)


def _mine(
    table: pa.Table,
    known: KnownPositives,
    query_ND: np.ndarray,
    document_MD: np.ndarray,
    score_N: np.ndarray,
    rules: Rules,
    monitor: Monitor,
) -> Mined:
    """Negatives of every row. Only `_ROWS_AT_ONCE` rows are ranked at a time."""
    mined = Mined()
    query_ids, queries, pair_ids = (table[name].to_pylist() for name in ("query_id", "query", "pair_id"))
    for start in range(0, len(queries), _ROWS_AT_ONCE):
        rows = range(start, min(start + _ROWS_AT_ONCE, len(queries)))
        barred = [known.of(query_ids[row], queries[row]) for row in rows]
        # Deep enough that the window is full when all that is barred stands in front of it.
        depth = rules.end_rank + max(len(positives) + len(copies) for positives, copies in barred)
        scores_QK, documents_QK = top_k(query_ND[rows.start : rows.stop], document_MD, depth)
        for row, (positives, copies), scores_K, documents_K in zip(
            rows, barred, scores_QK, documents_QK, strict=True
        ):
            chosen = _choose(
                documents_K,
                scores_K,
                float(score_N[row]),
                positives,
                copies,
                pair_ids[row],
                known,
                rules,
                mined,
            )
            place = {int(document): rank for rank, document in enumerate(documents_K)}
            mined.rows.append(chosen)
            mined.scores.append(scores_K[[place[document] for document in chosen]])
        monitor.progress(rows.stop, len(queries), "pairs")
    return mined


def _choose(
    documents_K: np.ndarray,
    scores_K: np.ndarray,
    positive_score: float,
    positives: set[int],
    copies: set[int],
    pair_id: str,
    known: KnownPositives,
    rules: Rules,
    mined: Mined,
) -> list[int]:
    """The negatives of one row, best rank first; what was excluded is counted in `mined`."""
    window: dict[int, float] = {}
    rank = 0
    for document, score in zip(documents_K.tolist(), scores_K.tolist(), strict=True):
        if rank == rules.end_rank:
            break
        mined.candidates += 1
        if document in positives:
            mined.excluded["known_positive"] += 1
        elif document in copies:
            mined.excluded["copy"] += 1
        else:
            rank += 1
            if score >= rules.relative_margin * positive_score:
                mined.excluded["margin"] += 1
            elif rank > rules.first_rank:
                window[document] = score
    candidates = known.first_of_copies(window)
    if rules.sampling == "top" or len(candidates) <= rules.negatives_per_query:
        return candidates[: rules.negatives_per_query]
    # Seeded by the pair, so that a row's sample does not depend on the rows around it.
    generator = np.random.default_rng([rules.seed, *pair_id.encode()])
    picked = generator.choice(len(candidates), rules.negatives_per_query, replace=False)
    return [candidates[place] for place in sorted(picked)]
