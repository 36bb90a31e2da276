"""Train, synthesis and evaluation: no answer to an evaluation query, or near-copy of it, is trained on.

Texts pass through; of each document its id and its group are held, and queries and judgements whole.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.corpus.duplicates import GROUPS
from components.corpus.schema import DOCUMENTS, QRELS, QUERIES, conform, content_id
from components.corpus.spool import reordered
from components.corpus.tables import TableWriter, read_batches
from components.corpus.words import normalise
from components.monitor import Monitor
from components.storage import Folder

# Of a corpus that is small for the sizes asked for: the share of its documents and queries that is held out.
LARGEST_EVALUATION_SHARE = 0.25
SORTED_ROWS = 8192
"""Documents that are sorted in memory at a time, or more where there would be over MOST_PARTS parts."""
MOST_PARTS = 256
"""Files that are written at once."""


def split_documents(
    *,
    documents: Folder,
    duplicates: Folder,
    evaluation_queries: int,
    evaluation_documents: int,
    training_documents: int | None,
    synthesis_documents: int,
    evaluation_split: str | None,
    seed: int,
    output: Folder,
    monitor: Monitor,
) -> dict[str, float]:
    """Write train/, evaluation/ (documents, queries and qrels each) and synthesis/documents.parquet.

    With `evaluation_split` (a corpus that comes with its own split, as BEIR's): evaluation is that split's
    queries over the whole corpus, and `evaluation_queries` and `evaluation_documents` do not count. Training
    has the corpus without the documents that answer those queries and without their near-copies, and the
    other splits' judgements on what is left.

    Without it: whole groups are held out. A group is a duplicate group, joined with those that share a query
    text with it. Groups are taken in the order of a seeded hash of their id, so that one more document moves
    few others: first groups with queries until `evaluation_queries` are found, then any until there are
    `evaluation_documents`. A group that does not fit goes to training. Evaluation takes at most a quarter of
    the documents and of the queries; what is asked beyond that is cut to it. Queries of held-out documents
    beyond the number asked for are used nowhere.

    In both cases training keeps one document of each duplicate group, its first; evaluation keeps all. No
    query text stands on both sides. Synthesis documents are the first of the training documents in hash
    order.

    Args:
        documents: output of `read_documents`.
        duplicates: output of `group_duplicates`; of documents that have gone since it may still know.
        training_documents: at most so many; None: all that are left.

    Returns:
        documents, queries and pairs of both sides, synthesis_documents, train_copies_left_out, and what was
        asked for (`evaluation_documents_asked`, `evaluation_queries_asked`) beside what there is.

    Raises:
        ValueError: no query can be held out, the split is unknown, or nothing is left to train on.
    """
    queries = conform(documents.read_table("queries.parquet"), QUERIES)
    qrels = conform(documents.read_table("qrels.parquet"), QRELS)
    groups = conform(duplicates.read_table("groups.parquet"), GROUPS)
    corpus_ids = [
        document_id
        for batch in read_batches(documents, "documents.parquet", ["document_id"])
        for document_id in batch["document_id"].to_pylist()
    ]
    ids = set(corpus_ids)
    grouped = dict(_pairs(groups, "document_id", "group_id"))
    if not ids <= grouped.keys():
        raise ValueError(
            f"{len(ids - grouped.keys())} of the {len(ids)} documents stand in no group: not of one input"
        )
    group_of = {document_id: grouped[document_id] for document_id in ids}
    text_of = {query_id: normalise(text) for query_id, text in _pairs(queries, "query_id", "text")}

    if evaluation_split is None:
        evaluation_ids, held = _hold_out(
            group_of, qrels, text_of, evaluation_queries, evaluation_documents, seed
        )
        evaluation_qrels = _only(qrels, "query_id", held)
        train_ids, train_qrels = ids - evaluation_ids, qrels
    else:
        splits = sorted(set(qrels["split"].to_pylist()))
        if evaluation_split not in splits:
            raise ValueError(
                f"`evaluation_split` is `{evaluation_split}`; there is {', '.join(splits) or 'no judgement'}"
            )
        evaluation_ids = ids
        evaluation_qrels = _only(qrels, "split", {evaluation_split})
        answers = {group_of[document] for document in evaluation_qrels["document_id"].to_pylist()}
        train_ids = {document for document in ids if group_of[document] not in answers}
        train_qrels = _only(qrels, "split", set(splits) - {evaluation_split})

    first_of: dict[str, str] = {}
    for document, group in group_of.items():
        first_of[group] = min(document, first_of.get(group, document))
    copies = {document for document in train_ids if first_of[group_of[document]] != document}
    train_order = _hash_order(train_ids - copies, seed)[:training_documents]
    if not train_order:
        raise ValueError(
            f"none of the {len(ids)} documents is left to train on; give more, or hold out fewer"
        )
    held_texts = {text_of[query] for query in evaluation_qrels["query_id"].to_pylist()}
    free_queries = {query for query, text in text_of.items() if text not in held_texts}
    train_qrels = _only(_only(train_qrels, "document_id", train_order), "query_id", free_queries)

    for side, side_ids, side_qrels in (
        ("train", train_order, train_qrels),
        ("evaluation", evaluation_ids, evaluation_qrels),
    ):
        _write_documents(documents, corpus_ids, side_ids, output, f"{side}/documents.parquet")
        output.write_table(
            f"{side}/queries.parquet", _only(queries, "query_id", side_qrels["query_id"].to_pylist())
        )
        output.write_table(f"{side}/qrels.parquet", side_qrels)
    synthesis = train_order[:synthesis_documents]
    _write_documents(documents, corpus_ids, synthesis, output, "synthesis/documents.parquet")

    numbers = {
        "train_documents": float(len(train_order)),
        "train_queries": float(len(set(train_qrels["query_id"].to_pylist()))),
        "train_pairs": float(train_qrels.num_rows),
        "train_copies_left_out": float(len(copies)),
        "synthesis_documents": float(len(synthesis)),
        "evaluation_documents": float(len(evaluation_ids)),
        "evaluation_queries": float(len(set(evaluation_qrels["query_id"].to_pylist()))),
        "evaluation_pairs": float(evaluation_qrels.num_rows),
    }
    if evaluation_split is None:
        numbers["evaluation_documents_asked"] = float(evaluation_documents)
        numbers["evaluation_queries_asked"] = float(evaluation_queries)
    monitor.metrics(numbers)
    return numbers


def _hold_out(
    group_of: dict[str, str],
    qrels: pa.Table,
    text_of: dict[str, str],
    num_queries: int,
    num_documents: int,
    seed: int,
) -> tuple[set[str], set[str]]:
    """The documents and the queries of an evaluation by whole groups."""
    judged = list(_pairs(qrels, "query_id", "document_id"))
    if not judged:
        raise ValueError(
            "no source has labelled queries, so none can be held out for evaluation; "
            "add a BEIR folder (queries.jsonl, qrels/SPLIT.tsv) or docstrings://LIBRARY"
        )
    # A query text is a node like a group: whatever it answers to is joined by it.
    links: nx.Graph = nx.Graph()
    links.add_nodes_from(("group", group) for group in group_of.values())
    links.add_edges_from(
        (("text", text_of[query]), ("group", group_of[document])) for query, document in judged
    )
    unit_of = {}
    for component in nx.connected_components(links):
        name = min(name for kind, name in component if kind == "group")
        unit_of.update({group: name for kind, group in component if kind == "group"})
    documents_of: dict[str, set[str]] = defaultdict(set)
    queries_of: dict[str, set[str]] = defaultdict(set)
    for document, group in group_of.items():
        documents_of[unit_of[group]].add(document)
    for query, document in judged:
        queries_of[unit_of[group_of[document]]].add(query)

    total = len({query for query, _ in judged})
    num_queries = min(num_queries, int(LARGEST_EVALUATION_SHARE * total))
    num_documents = min(num_documents, int(LARGEST_EVALUATION_SHARE * len(group_of)))
    order = _hash_order(documents_of, seed)
    documents: set[str] = set()
    queries: list[str] = []
    for unit in order:
        if (
            len(queries) < num_queries
            and queries_of[unit]
            and _fits(documents_of[unit], documents, num_documents)
        ):
            documents |= documents_of[unit]
            queries += _hash_order(queries_of[unit], seed)
    for unit in order:
        if not documents_of[unit] <= documents and _fits(documents_of[unit], documents, num_documents):
            documents |= documents_of[unit]
    if not queries:
        raise ValueError(
            f"no query can be held out of {total} queries and {len(group_of)} documents: evaluation may take "
            f"{num_queries} queries and {num_documents} documents "
            f"(at most {LARGEST_EVALUATION_SHARE:.0%} of each) "
            f"in whole groups of near-copies; ask for more, or give more documents"
        )
    return documents, set(queries[:num_queries])


def _write_documents(
    documents: Folder, corpus_ids: Sequence[str], chosen: Iterable[str], output: Folder, name: str
) -> None:
    """The documents with the ids that are chosen, sorted by id, a part of them in memory at a time.

    Args:
        corpus_ids: of all documents, in their order.
    """
    wanted = set(chosen)
    is_wanted = np.fromiter((key in wanted for key in corpus_ids), dtype=bool, count=len(corpus_ids))
    ids = [key for key in corpus_ids if key in wanted]
    place = np.empty(len(ids), dtype=np.int64)
    place[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))

    def tables() -> Iterator[pa.Table]:
        row = 0
        for batch in read_batches(documents, "documents.parquet"):
            mask = is_wanted[row : row + batch.num_rows]
            row += batch.num_rows
            if mask.any():
                yield conform(batch.filter(pa.array(mask)), DOCUMENTS)

    with (
        tempfile.TemporaryDirectory(prefix="embedloom-split-") as scratch,
        TableWriter(output, name, DOCUMENTS) as writer,
    ):
        writer.write(DOCUMENTS.empty_table())
        if ids:
            starts = range(0, len(ids), max(SORTED_ROWS, len(ids) // MOST_PARTS))
            for part in reordered(tables(), DOCUMENTS, place, starts, Path(scratch)):
                writer.write(part)


def _fits(more: set[str], chosen: set[str], limit: int) -> bool:
    return len(chosen) + len(more) <= limit


def _hash_order(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: content_id(str(seed), name))


def _only(table: pa.Table, column: str, values: Iterable[str]) -> pa.Table:
    """The rows whose `column` is one of `values`, sorted by id so that no order of the input shows."""
    kept = table.filter(pc.is_in(table[column], pa.array(list(values), pa.string())))
    keys = [name for name in ("query_id", "document_id", "split") if name in table.column_names]
    return kept.sort_by([(key, "ascending") for key in keys])


def _pairs(table: pa.Table, first: str, second: str) -> Iterable[tuple]:
    return zip(table[first].to_pylist(), table[second].to_pylist(), strict=True)
