"""Of every row of a pair table a few numbers in memory; its texts in files, each once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.corpus.digests import digests
from components.corpus.schema import DOCUMENTS, PAIRS, QRELS, QUERIES, conform, passage
from components.corpus.tables import read_batches
from components.corpus.words import normalise
from components.pairs.known import NO_TEXT, Answers, Documents
from components.pairs.lookup import Lookup
from components.search.shards import TableShards, write_tables
from components.storage import Folder

QUERY_TEXTS = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("instruction", pa.string())])
DOCUMENT_TEXTS = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("text", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class PairIndex:
    """N pairs of U queries; 48 bytes a pair, 16 a query, 8 a negative, and `answers`.

    A query is told by its id, its text and its instruction. A text is told by a reference: the row of the corpus
    whose passage it is, or -1 - its row among the texts outside of it.
    """

    query_N: np.ndarray
    """int64, number of the pair's query."""
    positive_N: np.ndarray
    """int64, reference of the positive."""
    in_corpus_N: np.ndarray
    """bool: the corpus holds the positive, by its id or by its text."""
    negative_J: np.ndarray
    """int64, references of the negatives that came with the pairs, pair by pair."""
    negatives_N: np.ndarray
    """int64, how many of them a pair has."""
    id_U: np.ndarray
    """int64, hash of a query's id."""
    text_U: np.ndarray
    """int64, hash of its normalised text."""
    answers: Answers
    queries: TableShards
    """QUERY_TEXTS, U rows."""
    outside: TableShards
    """DOCUMENT_TEXTS: positives and negatives that are no passage of the corpus, each once."""
    pairs: TableShards
    """PAIRS, N rows."""

    def __len__(self) -> int:
        return len(self.query_N)


def index_pairs(
    pairs: Folder,
    train: Folder,
    documents: Documents,
    scratch: Folder,
    rows_per_shard: int,
    pairs_per_shard: int,
    with_negatives: bool,
) -> PairIndex:
    """Read a pair table and the training judgements.

    Args:
        pairs: `pairs.parquet`, a file or a folder of files, in the schema PAIRS.
        train: `queries.parquet` and `qrels.parquet`.
        scratch: takes the texts; what an earlier attempt finished there is kept.
        rows_per_shard, pairs_per_shard: rows of a file of texts, and of pairs.
        with_negatives: those that come with the pairs are wanted too.

    Raises:
        ValueError: there is no pair.
    """
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("key", "id", "text", "answer", "form", "count")
    }
    texts: list[np.ndarray] = []
    for piece in _pieces(pairs, "pairs.parquet", PAIRS):
        query_ids, queries, instructions, positives = (
            piece[name].to_pylist() for name in ("query_id", "query", "instruction", "positive")
        )
        negatives = _negatives(piece, with_negatives)
        keys = zip(query_ids, queries, instructions, strict=True)
        # Distinct fields, so that no two keys are one text; None is not the empty instruction.
        columns["key"].append(digests([repr(key) for key in keys]))
        columns["id"].append(_hash_ids(query_ids))
        columns["text"].append(_hash_forms(queries))
        columns["answer"].append(digests(piece["positive_id"].to_pylist()))
        columns["form"].append(digests([normalise(text) for text in positives]))
        columns["count"].append(np.array([len(found) for found in negatives], dtype=np.int64))
        texts.append(digests(_in_sequence(positives, negatives)))
    if not texts:
        raise ValueError("mine: there are no pairs")
    held = {name: np.concatenate(parts) for name, parts in columns.items()}

    query_N, first_U = _number(held["key"])
    text_T = np.concatenate(texts)
    reference_T = documents.first_row_of_texts(text_T)
    elsewhere_T = np.flatnonzero(reference_T < 0)
    number_T, first_V = _number(text_T[elsewhere_T])
    reference_T[elsewhere_T] = -1 - number_T
    start_N = np.cumsum(1 + held["count"]) - 1 - held["count"]
    is_positive_T = np.zeros(len(text_T), dtype=bool)
    is_positive_T[start_N] = True
    positive_N = reference_T[start_N]

    in_corpus_N = positive_N >= 0
    in_corpus_N[documents.rows_of_ids(held["answer"])[0]] = True
    in_corpus_N[documents.rows_of_forms(held["form"])[0]] = True
    outside = _outside(pairs, elsewhere_T[first_V], with_negatives)
    return PairIndex(
        query_N=query_N,
        positive_N=positive_N,
        in_corpus_N=in_corpus_N,
        negative_J=reference_T[~is_positive_T],
        negatives_N=held["count"],
        id_U=held["id"][first_U],
        text_U=held["text"][first_U],
        answers=_answers(held, positive_N, *_judged(train)),
        queries=write_tables(_queries(pairs, first_U), scratch / "queries", rows_per_shard),
        outside=write_tables(outside, scratch / "outside", rows_per_shard),
        pairs=write_tables(_pieces(pairs, "pairs.parquet", PAIRS), scratch / "pairs", pairs_per_shard),
    )


def _answers(
    held: dict[str, np.ndarray], positive_N: np.ndarray, judged_query_J: np.ndarray, judged_id_J: np.ndarray
) -> Answers:
    """What pairs and judgements state, each once: of a class all pairs state the same."""
    without_J = np.full(len(judged_query_J), NO_TEXT)
    stated = [
        np.concatenate([held["id"], held["text"], judged_query_J]),
        np.concatenate([held["answer"], held["answer"], judged_id_J]),
        np.concatenate([held["form"], held["form"], without_J]),
        np.concatenate([positive_N, positive_N, without_J]),
    ]
    order = np.lexsort(stated[::-1])
    stated = [column[order] for column in stated]
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.any([column[1:] != column[:-1] for column in stated], axis=0)
    return Answers(*(column[first] for column in stated))


def _number(key_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal keys by one number, in the order in which they first stand; and where each first stands."""
    _, first_U, number_N = np.unique(key_N, return_index=True, return_inverse=True)
    order = np.argsort(first_U)
    rank_U = np.empty_like(order)
    rank_U[order] = np.arange(len(order))
    return rank_U[number_N], first_U[order]


def _queries(pairs: Folder, first_U: np.ndarray) -> Iterator[pa.Table]:
    """The rows with the first mention of each query, as QUERY_TEXTS."""
    row = 0
    for piece in _pieces(pairs, "pairs.parquet", PAIRS):
        mine = first_U[np.searchsorted(first_U, row) : np.searchsorted(first_U, row + piece.num_rows)] - row
        chosen = piece.take(pa.array(mine))
        yield pa.table([chosen["query"], chosen["instruction"]], schema=QUERY_TEXTS)
        row += piece.num_rows


def _outside(pairs: Folder, first_V: np.ndarray, with_negatives: bool) -> Iterator[pa.Table]:
    """The texts that stand at these places in the sequence of all rows' positive and negatives."""
    place = 0
    for piece in _pieces(pairs, "pairs.parquet", PAIRS):
        texts = _in_sequence(piece["positive"].to_pylist(), _negatives(piece, with_negatives))
        mine = first_V[np.searchsorted(first_V, place) : np.searchsorted(first_V, place + len(texts))] - place
        chosen = [texts[number] for number in mine.tolist()]
        yield pa.table([[""] * len(chosen), [None] * len(chosen), chosen], schema=DOCUMENT_TEXTS)
        place += len(texts)


def _negatives(piece: pa.Table, wanted: bool) -> list[list[str]]:
    if not wanted:
        return [[]] * piece.num_rows
    return [found or [] for found in piece["negatives"].to_pylist()]


def _in_sequence(positives: list[str], negatives: list[list[str]]) -> list[str]:
    return [text for row in zip(positives, negatives, strict=True) for text in (row[0], *row[1])]


def _judged(train: Folder) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of query and document of the judgements above 0, by the query's id and once more by its text."""
    ids, forms = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for piece in _pieces(train, "queries.parquet", QUERIES):
        ids.append(_hash_ids(piece["query_id"].to_pylist()))
        forms.append(_hash_forms(piece["text"].to_pylist()))
    form_of, by_id = np.concatenate(forms), Lookup(np.concatenate(ids))
    queries, documents = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for piece in _pieces(train, "qrels.parquet", QRELS):
        relevant = piece.filter(pc.greater(piece["score"], 0))
        query, document = (relevant[name].to_pylist() for name in ("query_id", "document_id"))
        query_J, document_J = _hash_ids(query), digests(document)
        which, places = by_id.find(query_J)
        queries += [query_J, form_of[places]]
        documents += [document_J, document_J[which]]
    return np.concatenate(queries), np.concatenate(documents)


def _pieces(folder: Folder, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
    return (conform(batch, schema) for batch in read_batches(folder, name))


def _hash_ids(ids: list[str]) -> np.ndarray:
    return digests([f"id:{key}" for key in ids])


def _hash_forms(texts: list[str]) -> np.ndarray:
    return digests([f"text:{normalise(text)}" for text in texts])


def read_documents(split: Folder) -> Iterator[pa.Table]:
    """The training documents by id, title and passage."""
    for piece in _pieces(split / "train", "documents.parquet", DOCUMENTS):
        titles, texts = piece["title"].to_pylist(), piece["text"].to_pylist()
        passages = [passage(title, text) for title, text in zip(titles, texts, strict=True)]
        yield pa.table([piece["document_id"], piece["title"], pa.array(passages)], schema=DOCUMENT_TEXTS)
