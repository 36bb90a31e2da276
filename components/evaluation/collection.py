"""A test collection: the documents, queries and judgements that a retrieval system is evaluated on."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from components.corpus.schema import DOCUMENTS, QRELS, QUERIES, conform, passage
from components.evaluation.metrics import Qrels, with_relevant
from components.storage import Folder


@dataclass(frozen=True)
class Collection:
    """What a system sees (passages, queries) and what it is judged by (qrels).

    Attributes:
        document_ids, passages: the corpus, M of each; a passage is title, space, text.
        query_ids, queries: the N queries that have a relevant document, sorted by id.
        qrels: relevance by query id and document id, of those queries.
        queries_left_out: how many queries had no relevant document, or no text, and are not among the N.
    """

    document_ids: list[str]
    passages: list[str]
    query_ids: list[str]
    queries: list[str]
    qrels: Qrels
    queries_left_out: int

    @property
    def digest(self) -> str:
        """sha256 of documents, queries and judgements: two scores compare only where it is the same."""
        qrels = ((query, d, str(level)) for query in self.qrels for d, level in self.qrels[query].items())
        kinds: dict[str, Iterable[tuple[str, ...]]] = {
            "document": zip(self.document_ids, self.passages, strict=True),
            "query": zip(self.query_ids, self.queries, strict=True),
            "qrel": qrels,
        }
        sha = hashlib.sha256()
        for kind, rows in kinds.items():
            for row in sorted(rows):
                sha.update("\x1f".join((kind, *row)).encode("utf-8", "surrogatepass") + b"\x1e")
        return sha.hexdigest()

    @property
    def relevant_outside(self) -> int:
        """How many relevant documents the corpus does not hold; they count as missed by every system."""
        corpus = set(self.document_ids)
        judgements = (judgement for judged in self.qrels.values() for judgement in judged.items())
        return sum(level > 0 and document_id not in corpus for document_id, level in judgements)


def read_collection(split: Folder) -> Collection:
    """The evaluation side of a split: evaluation/{documents,queries,qrels}.parquet.

    Raises:
        ValueError: a table does not fit its schema, the corpus is empty, or no query has a relevant document.
    """
    return _collection(
        conform(split.read_table("evaluation/documents.parquet"), DOCUMENTS),
        conform(split.read_table("evaluation/queries.parquet"), QUERIES),
        conform(split.read_table("evaluation/qrels.parquet"), QRELS),
        where=split.uri,
    )


def read_beir(folder: Folder, split: str) -> Collection:
    """A folder in BEIR's layout: corpus.jsonl, queries.jsonl, and the judgements of one split in qrels/.

    Raises:
        ValueError: a file is missing or malformed, the corpus is empty, or no query has a relevant document.
    """
    missing = [n for n in ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv") if not folder.exists(n)]
    if missing:
        raise ValueError(f"{folder.uri} has not {', '.join(missing)}, which BEIR's layout asks for")
    documents = _jsonl(folder, "corpus.jsonl", ["_id", "title", "text"])
    queries = _jsonl(folder, "queries.jsonl", ["_id", "text"])
    with folder.open(f"qrels/{split}.tsv") as file:
        qrels = pyarrow.csv.read_csv(
            file,
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t"),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={"query-id": pa.string(), "corpus-id": pa.string(), "score": pa.int32()}
            ),
        )
    return _collection(
        documents.rename_columns(["document_id", "title", "text"]),
        queries.rename_columns(["query_id", "text"]),
        qrels.select(["query-id", "corpus-id", "score"]).rename_columns(["query_id", "document_id", "score"]),
        where=folder.uri,
    )


def _jsonl(folder: Folder, name: str, columns: list[str]) -> pa.Table:
    schema = pa.schema([(column, pa.string()) for column in columns])
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    with folder.open(name) as file:
        try:
            return pyarrow.json.read_json(file, parse_options=options).select(columns)
        except (pa.ArrowInvalid, KeyError) as error:
            fields = ", ".join(columns)
            raise ValueError(f"{folder.path(name)} is not JSON lines with {fields}: {error}") from error


def _collection(documents: pa.Table, queries: pa.Table, qrels: pa.Table, where: str) -> Collection:
    if not documents.num_rows:
        raise ValueError(f"the evaluated corpus in {where} is empty")
    judged: dict[str, dict[str, int]] = {}
    for row in qrels.select(["query_id", "document_id", "score"]).to_pylist():
        judged.setdefault(row["query_id"], {})[row["document_id"]] = row["score"]
    texts = dict(zip(queries["query_id"].to_pylist(), queries["text"].to_pylist(), strict=True))
    usable = {query: levels for query, levels in with_relevant(judged).items() if texts.get(query)}
    if not usable:
        raise ValueError(f"no query in {where} has a text and a relevant document")
    query_ids = sorted(usable)
    return Collection(
        document_ids=documents["document_id"].to_pylist(),
        passages=[
            passage(title, text or "")
            for title, text in zip(documents["title"].to_pylist(), documents["text"].to_pylist(), strict=True)
        ],
        query_ids=query_ids,
        queries=[texts[query] for query in query_ids],
        qrels=usable,
        queries_left_out=len(judged.keys() | texts.keys()) - len(usable),
    )
