"""What a reranker learns from: a positive, to which the answer is yes, and negatives, to which it is no.

A row stays a row of the pair table: one document with the label yes, and as many with no as it has negatives.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.corpus.digests import digests
from components.corpus.schema import PAIRS, PAIRS_FILE, REJECTED_FILE
from components.corpus.tables import TableWriter, pieces_of, read_batches, read_piece
from components.model.embedder import Precision
from components.model.inference import inference_reranker
from components.monitor import Monitor
from components.pairs.filters.scores import check_numbers, empty_side
from components.pairs.piecewise import compute_pieces
from components.pairs.table import REJECTED, read_pairs
from components.search.workers import Workers
from components.storage import Folder

RERANKING = pa.schema([*PAIRS, pa.field("teacher_scores", pa.list_(pa.float32()))])
"""A pair table; the teacher's logits are of the positive, then of the negatives."""
REJECTED_DOCUMENTS_FILE = "rejected/negatives/negatives.parquet"
REJECTED_DOCUMENTS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("document", pa.string()),
        pa.field("document_id", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""Negatives that were taken out of a row; not rows that were turned away, hence a folder of their own."""
ROWS_AT_ONCE = 2048
_LEAST = 1e-6  # of a teacher's score and of 1 less it, so that its logit is finite


def prepare_reranking(
    *,
    pairs: Folder,
    output: Folder,
    monitor: Monitor,
    state: Folder,
    negatives_per_positive: int | None = None,
    keep_without_negatives: bool = True,
    teacher: Folder | None = None,
    precision: Precision = "float32",
    tokens_per_batch: int = 8192,
    num_workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> dict[str, float]:
    """Make of positives and mined negatives the labelled rows that a reranker is trained on.

    In memory are 16 bytes a pair; texts are read in pieces.

    Args:
        pairs: `pairs.parquet` in the schema PAIRS, with negatives.
        negatives_per_positive: the first so many negatives of a row stay, the hardest as mining leaves them; 1 gives
            as many labels of yes as of no. None: all of them, and the loss weighs the labels.
        keep_without_negatives: a row that has no negative teaches yes alone; False rejects it (`no_negative`), as
            losses over the documents of a query can learn nothing from it.
        teacher: reranker directory; its logit of every document goes into `teacher_scores`, for distillation.
        precision: in which the teacher computes.
        output: `pairs.parquet` (RERANKING), `rejected/rejected.parquet` (rows: `empty_query`, `empty_positive`,
            `no_negative`) and `rejected/negatives/` (negatives: `empty`, `answers_the_query`, as a positive
            of the same query in another row, `repeated` in its row).
        state: what survives an attempt: what the teacher has scored is not scored again.
        tokens_per_batch, num_workers, num_cpus, num_gpus: of the teacher's workers.

    Returns: rows_in, rows_out, rejected_<reason>, documents_yes, documents_no, rejected_negative_<reason>,
        rows_without_negatives.

    Raises:
        ValueError: no pairs, every label would be yes, or the teacher gives a score that is no number.
    """
    if negatives_per_positive is not None and negatives_per_positive < 1:
        raise ValueError(
            f"rerank-data: negatives_per_positive is {negatives_per_positive}; it must be 1 or more, or null"
        )
    known = _known_answers(pairs)
    if not len(known):
        raise ValueError("rerank-data: there are no pairs")
    cleaned = state / "cleaned" if teacher is not None else output
    counts = _write_cleaned(
        pairs, known, negatives_per_positive, keep_without_negatives, cleaned, output, monitor
    )
    if not counts["documents_no"]:
        raise ValueError(
            f"rerank-data: every label is yes: none of {counts['rows_in']} pairs has a negative that can be used; "
            "mine some first (`do: mine`)"
        )
    if teacher is not None:
        workers = Workers(num_workers, num_cpus, num_gpus)
        _add_teacher_scores(cleaned, teacher, precision, tokens_per_batch, workers, state, output, monitor)
    numbers = {name: float(counts[name]) for name in sorted(counts)}
    monitor.metrics(numbers)
    return numbers


def _known_answers(pairs: Folder) -> np.ndarray:
    """int64, sorted: of every pair, query and positive by their texts, and by their ids."""
    keys = [
        _keys(table, table["positive"], table["positive_id"])
        for table in read_batches(
            pairs, PAIRS_FILE, ["query", "positive", "query_id", "positive_id"], ROWS_AT_ONCE
        )
    ]
    return np.unique(np.concatenate(keys)) if keys else np.empty(0, dtype=np.int64)


def _keys(queries: pa.Table, documents: pa.ChunkedArray, document_ids: pa.ChunkedArray) -> np.ndarray:
    """int64 [2 N]: by text, then by id; row by row."""
    sides = (("query", documents), ("query_id", document_ids))
    return np.concatenate(
        [
            _digests(pc.binary_join_element_wise(queries[query], pc.fill_null(document, ""), "\x1f"))
            for query, document in sides
        ]
    )


def _digests(texts: pa.ChunkedArray) -> np.ndarray:
    return digests(texts.to_pylist())


def _write_cleaned(
    pairs: Folder,
    known: np.ndarray,
    most: int | None,
    keep_without: bool,
    cleaned: Folder,
    output: Folder,
    monitor: Monitor,
) -> Counter[str]:
    counts: Counter[str] = Counter(rows_in=0, rows_out=0, documents_yes=0, documents_no=0)
    with ExitStack() as stack:
        rows = stack.enter_context(TableWriter(cleaned, PAIRS_FILE, RERANKING))
        rejected = stack.enter_context(TableWriter(output, REJECTED_FILE, REJECTED))
        documents = stack.enter_context(TableWriter(output, REJECTED_DOCUMENTS_FILE, REJECTED_DOCUMENTS))
        for table in read_pairs(pairs, ROWS_AT_ONCE):
            kept, left_out, reasons = _clean(table, known, most)
            if left_out.num_rows:
                documents.write(left_out)
            counts.update(f"rejected_negative_{reason}" for reason in left_out["reason"].to_pylist())
            count_N = pc.list_value_length(kept["negatives"]).to_numpy()
            reasons = [
                reason or ("no_negative" if not (count or keep_without) else None)
                for reason, count in zip(reasons, count_N, strict=True)
            ]
            good = pa.array([reason is None for reason in reasons])
            bad = table.filter(pc.invert(good))
            if bad.num_rows:
                why = [reason for reason in reasons if reason]
                rejected.write(bad.append_column("reason", pa.array(why)).cast(REJECTED))
                counts.update(f"rejected_{reason}" for reason in why)
            rows.write(kept.filter(good))
            count_N = count_N[good.to_numpy(zero_copy_only=False)]
            counts["rows_in"] += table.num_rows
            counts["rows_out"] += len(count_N)
            counts["documents_yes"] += len(count_N)
            counts["documents_no"] += int(count_N.sum())
            counts["rows_without_negatives"] += int((count_N == 0).sum())
            monitor.progress(counts["rows_in"], None, "pairs")
    return counts


def _clean(
    table: pa.Table, known: np.ndarray, most: int | None
) -> tuple[pa.Table, pa.Table, list[str | None]]:
    """Rows with the negatives that can be used (RERANKING), those that cannot, and why a row is turned away."""
    flat = _negatives(table)
    text = flat["document"]
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(text), ""), True).to_numpy(zero_copy_only=False)
    by_text, by_id = np.split(np.isin(_keys(flat, text, flat["document_id"]), known), 2)
    has_id = pc.fill_null(pc.not_equal(flat["document_id"], ""), False).to_numpy(zero_copy_only=False)
    row = flat["row"].to_numpy()
    text_digest = _digests(pc.fill_null(text, ""))
    _, first = np.unique(np.stack([row, text_digest]), axis=1, return_index=True)
    again = np.ones(len(row), dtype=bool)
    again[first] = False
    reason = np.full(len(row), "", dtype=object)
    reason[again], reason[by_text | (by_id & has_id)], reason[blank] = (
        "repeated",
        "answers_the_query",
        "empty",
    )
    good = reason == ""
    left_out = flat.append_column("reason", pa.array(reason, pa.string())).filter(pa.array(~good))
    kept = flat.filter(pa.array(good))
    row = row[good]
    if most is not None:
        within = np.arange(len(row)) - np.searchsorted(row, row)
        kept, row = kept.filter(pa.array(within < most)), row[within < most]
    offsets = pa.array(np.searchsorted(row, np.arange(table.num_rows + 1)).astype(np.int32))
    columns = {name: table[name] for name in table.column_names}
    columns["negatives"] = pa.ListArray.from_arrays(offsets, kept["document"].combine_chunks())
    columns["negative_ids"] = pa.ListArray.from_arrays(offsets, kept["document_id"].combine_chunks())
    columns["teacher_scores"] = pa.nulls(table.num_rows, RERANKING.field("teacher_scores").type)
    return (
        pa.table([columns[name] for name in RERANKING.names], schema=RERANKING),
        left_out.select(REJECTED_DOCUMENTS.names).cast(REJECTED_DOCUMENTS),
        empty_side(table),
    )


def _negatives(table: pa.Table) -> pa.Table:
    """One row a negative: row of the pair, pair_id, query, query_id, document, document_id.

    Raises:
        ValueError: a row has more negatives than ids of them or fewer.
    """
    found: dict[str, list] = {name: [] for name in ("row", "document", "document_id")}
    lists = (table[name].to_pylist() for name in ("pair_id", "negatives", "negative_ids"))
    for row, (pair_id, texts, ids) in enumerate(zip(*lists, strict=True)):
        texts = texts or []
        ids = ids or [""] * len(texts)
        if len(texts) != len(ids):
            raise ValueError(
                f"pair {pair_id} has {len(texts)} negatives but {len(ids)} negative_ids; give each negative one "
                "id, or none at all"
            )
        found["row"] += [row] * len(texts)
        found["document"] += texts
        found["document_id"] += [name or "" for name in ids]
    row_N = pa.array(found["row"], pa.int64())
    of_pair = table.select(["pair_id", "query", "query_id"]).take(row_N)
    return pa.table(
        {
            "row": row_N,
            **{name: of_pair[name] for name in of_pair.column_names},
            "document": pa.array(found["document"], pa.string()),
            "document_id": pa.array(found["document_id"], pa.string()),
        }
    )


def _add_teacher_scores(
    cleaned: Folder,
    teacher: Folder,
    precision: Precision,
    tokens_per_batch: int,
    workers: Workers,
    state: Folder,
    output: Folder,
    monitor: Monitor,
) -> None:
    pieces = pieces_of(cleaned, PAIRS_FILE)
    load = partial(_load_teacher, teacher, precision, tokens_per_batch)
    logits = compute_pieces(pieces, load, state / "teacher-scores", monitor, workers)
    with TableWriter(output, PAIRS_FILE, RERANKING) as rows:
        for piece, logit_N in zip(pieces, logits, strict=True):
            for table in read_piece(piece):
                offsets = _document_offsets(table)
                column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(logit_N[: offsets[-1]]))
                logit_N = logit_N[offsets[-1] :]
                at = table.column_names.index("teacher_scores")
                rows.write(table.set_column(at, RERANKING.field("teacher_scores"), column).cast(RERANKING))


def _load_teacher(
    teacher: Folder, precision: Precision, tokens_per_batch: int, device: str
) -> Callable[[pa.Table], np.ndarray]:
    with teacher.local() as directory:
        reranker = inference_reranker(directory, precision, device)

    def logits(table: pa.Table) -> np.ndarray:
        queries, documents, instructions = (list(each) for each in zip(*_documents(table), strict=True))
        score_D = reranker.score(queries, documents, instructions, tokens_per_batch)
        score_D = check_numbers(score_D, queries, "rerank-data: the teacher").astype(np.float64)
        score_D = np.clip(score_D, _LEAST, 1 - _LEAST)
        return (np.log(score_D) - np.log1p(-score_D)).astype(np.float32)

    return logits


def _documents(table: pa.Table) -> Iterator[tuple[str, str, str | None]]:
    for row in table.select(["query", "positive", "negatives", "instruction"]).to_pylist():
        for document in (row["positive"], *(row["negatives"] or [])):
            yield row["query"], document, row["instruction"]


def _document_offsets(table: pa.Table) -> np.ndarray:
    """int32 [N + 1]: where the documents of a row begin, its positive among them."""
    count_N = 1 + pc.fill_null(pc.list_value_length(table["negatives"]), 0).to_numpy()
    return np.concatenate([[0], np.cumsum(count_N)]).astype(np.int32)
