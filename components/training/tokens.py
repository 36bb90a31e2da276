"""Training rows as token numbers: every distinct text is tokenised once and stored once.

`tokenise_pairs` writes two small tables, `texts.parquet` and then `rows.parquet`, each whole or not at all;
`read_training_rows` opens them.
Identities for the duplicate rule: two queries are one if their texts or their ids are equal, two documents
likewise (a mined negative may carry a document's id and another rendering of its text).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.corpus.schema import conform
from components.model.embedder import Embedder
from components.storage import Folder
from components.training.batch import Ragged, WorkerBatch

TRAINED_ON = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("positive", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("positive_id", pa.string(), nullable=False),
        pa.field("negatives", pa.list_(pa.string())),
        pa.field("negative_ids", pa.list_(pa.string())),
        pa.field("instruction", pa.string()),
    ]
)
"""What training reads of a pair table."""


@dataclass(frozen=True)
class TrainingRows:
    """The pairs of a stage. R rows over T distinct texts.

    Attributes:
        pair_ids: [R].
        queries, positives: int64 [R], numbers of texts.
        negatives: for each row numbers of texts, any number of them.
        known_positives: for each row identities of the other documents that answer its query.
        tokens: for each text its token ids, template and end token included.
        identities: int64 [T], of the query or document that the text is.
    """

    pair_ids: list[str]
    queries: np.ndarray
    positives: np.ndarray
    negatives: Ragged
    known_positives: Ragged
    tokens: Ragged
    identities: np.ndarray

    def __len__(self) -> int:
        return len(self.pair_ids)


def tokenise_pairs(
    pairs: list[pa.Table],
    embedder: Embedder,
    negatives_per_query: int,
    query_length: int | None,
    document_length: int | None,
    output: Folder,
) -> None:
    """Tokenise pair tables as the embedder's EncodingSpec says and write `texts.parquet` and `rows.parquet`.

    Args:
        pairs: tables with the columns TRAINED_ON, joined in this order.
        negatives_per_query: the first so many hard negatives of a row are taken; a row may have fewer.
        query_length, document_length: tokens of the longest text, end token included; None: the spec's.

    Raises:
        ValueError: no row at all, or a row whose lists of negatives and of their ids differ in length.
    """
    table = pa.concat_tables([conform(part, TRAINED_ON) for part in pairs])
    if not table.num_rows:
        raise ValueError("no training pairs: every pair table of the stage is empty")
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    negatives = [(texts or [])[:negatives_per_query] for texts in columns["negatives"]]
    negative_ids = [
        ids[:negatives_per_query] if ids else [""] * len(texts)
        for ids, texts in zip(columns["negative_ids"], negatives, strict=True)
    ]
    for pair_id, texts, ids in zip(columns["pair_id"], negatives, negative_ids, strict=True):
        if len(texts) != len(ids):
            raise ValueError(f"pair {pair_id} has {len(texts)} negatives but {len(ids)} negative_ids")
    owner = [row for row, texts in enumerate(negatives) for _ in texts]
    flat_negatives = [text for texts in negatives for text in texts]

    # A query's text is its wording under its instruction; its identity is the wording alone.
    query_text, distinct_queries = _number(zip(columns["instruction"], columns["query"], strict=True))
    document_text, distinct_documents = _number([*columns["positive"], *flat_negatives])
    query_identity = _identities(
        columns["query"] + [wording for _, wording in distinct_queries],
        columns["query_id"] + [""] * len(distinct_queries),
    )
    document_identity = _identities(
        [*columns["positive"], *flat_negatives],
        [*columns["positive_id"], *(i for ids in negative_ids for i in ids)],
    )
    rows = table.num_rows
    identities = np.zeros(len(distinct_queries) + len(distinct_documents), dtype=np.int64)
    identities[: len(distinct_queries)] = query_identity[rows:]
    identities[len(distinct_queries) + document_text] = document_identity

    tokens: list[list[int]] = [[] for _ in distinct_queries]
    for instruction in sorted({instruction for instruction, _ in distinct_queries}, key=str):
        numbers = [n for n, (other, _) in enumerate(distinct_queries) if other == instruction]
        wordings = [distinct_queries[n][1] for n in numbers]
        for number, ids in zip(
            numbers, embedder.tokenize(wordings, "query", instruction, query_length), strict=True
        ):
            tokens[number] = ids
    tokens += embedder.tokenize(distinct_documents, "document", length=document_length)

    answers: dict[int, set[int]] = {}
    for query, document in zip(query_identity[:rows], document_identity[:rows], strict=True):
        answers.setdefault(int(query), set()).add(int(document))
    known = [
        sorted(answers[int(query)] - {int(document)})
        for query, document in zip(query_identity[:rows], document_identity[:rows], strict=True)
    ]
    numbered = len(distinct_queries) + document_text
    negative_numbers: list[list[int]] = [[] for _ in range(rows)]
    for row, number in zip(owner, numbered[rows:].tolist(), strict=True):
        negative_numbers[row].append(number)

    _write(
        output,
        "texts.parquet",
        pa.table({"tokens": pa.array(tokens, pa.list_(pa.int32())), "identity": pa.array(identities)}),
    )
    _write(
        output,
        "rows.parquet",
        pa.table(
            {
                "pair_id": table.column("pair_id"),
                "query": pa.array(query_text),
                "positive": pa.array(numbered[:rows]),
                "negatives": pa.array(negative_numbers, pa.list_(pa.int64())),
                "known_positives": pa.array(known, pa.list_(pa.int64())),
            }
        ),
    )


def read_training_rows(folder: Folder) -> TrainingRows:
    """Open what `tokenise_pairs` wrote."""
    texts, rows = folder.read_table("texts.parquet"), folder.read_table("rows.parquet")
    return TrainingRows(
        pair_ids=rows.column("pair_id").to_pylist(),
        queries=rows.column("query").to_numpy(),
        positives=rows.column("positive").to_numpy(),
        negatives=_ragged(rows.column("negatives")),
        known_positives=_ragged(rows.column("known_positives")),
        tokens=_ragged(texts.column("tokens")),
        identities=texts.column("identity").to_numpy(),
    )


def worker_batch(rows: TrainingRows, own: np.ndarray, batch: np.ndarray) -> WorkerBatch:
    """The rows `own` of the global batch `batch`, numbers of rows both."""
    negatives = rows.negatives.take(own)
    texts = np.concatenate([rows.queries[own], rows.positives[own], negatives.values])
    lengths = rows.tokens.lengths
    documents = [rows.positives[batch], rows.negatives.take(batch).values]
    return WorkerBatch(
        task="",
        rows=own,
        tokens=rows.tokens.take(texts),
        identities=rows.identities[texts],
        negative_rows=np.repeat(np.arange(len(own)), negatives.lengths),
        known_positives=rows.known_positives.take(own),
        global_tokens=int(sum(lengths[part].sum() for part in (rows.queries[batch], *documents))),
    )


def _write(folder: Folder, name: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    folder.write(name, sink.getvalue().to_pybytes())


def _ragged(column: pa.ChunkedArray) -> Ragged:
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return Ragged(values=lists.flatten().to_numpy(), offsets=offsets - offsets[0])


def _number(values: Iterable) -> tuple[np.ndarray, list]:
    """The number of each value among the distinct ones, and those in the order of their first appearance."""
    numbers: dict = {}
    numbered = np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
    return numbered, list(numbers)


def _identities(texts: list[str], ids: list[str]) -> np.ndarray:
    """One number for all that share a text or an id, directly or through others; an empty id is none."""
    text_number, distinct_texts = _number(texts)
    id_number, distinct_ids = _number(ids)
    linked = np.array([bool(value) for value in ids], dtype=bool)
    nodes = len(distinct_texts) + len(distinct_ids)
    edges = (text_number[linked], len(distinct_texts) + id_number[linked])
    graph = coo_array((np.ones(len(edges[0]), dtype=np.int8), edges), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][text_number].astype(np.int64)
