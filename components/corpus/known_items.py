"""Queries with known answers for documents that have none: known-item search.

A query is taken out of a document, its title or its first sentence, and what is left of the document is its answer.
Nobody asked it: such queries lie nearer to the documents' words than people's do.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Literal, get_args

import pyarrow as pa

from components.corpus.chunks import BOUNDARIES
from components.corpus.schema import DOCUMENTS, QRELS, QUERIES, conform, content_id
from components.corpus.tables import TableWriter, count_rows, read_batches
from components.corpus.words import normalise, words
from components.monitor import Monitor
from components.storage import Folder

MADE_FROM = "made-from-"
"""So the split of the judgements begins; what the queries are made from follows."""
FEWEST_WORDS, MOST_WORDS = 2, 40
"""Of a query."""
READ_CHARACTERS = 1000
"""A first sentence ends before that."""

Part = Literal["title", "first_sentence"]
PARTS: tuple[Part, ...] = get_args(Part)


def make_known_items(
    *, documents: Folder, query: Part, max_documents: int, output: Folder, monitor: Monitor
) -> dict[str, float]:
    """Take a query out of each document that has one, and judge what is left to be its answer.

    A query that several documents give is one query, relevant to each; more than `max_documents` of them, and it says
    too little ("Introduction"): those documents stay whole and unjudged. So do those without a query and those of which
    nothing would be left.

    Args:
        documents: folder with documents.parquet, and no judgements.
        query: `title`: it is taken off the document, also where it is the text's first line. `first_sentence`: it is
            taken off the text, the title stays.

    Returns:
        documents, queries, qrels, and unjudged_<reason> (`no_query`, `too_common`, `nothing_left`).

    Raises:
        ValueError: there are judgements already, or no query is found.
    """
    if count_rows(documents, "qrels.parquet"):
        raise ValueError(
            "the documents come with queries and judgements, which are better than any made of them; take "
            "`known_items` out of the recipe"
        )
    times: Counter[str] = Counter()
    for row in _rows(documents):
        asked, _ = take_out(row, query)
        if asked is not None:
            times[content_id(normalise(asked))] += 1
    queries: dict[str, str] = {}
    judged: dict[str, list[str]] = defaultdict(list)
    counts: Counter[str] = Counter()
    with TableWriter(output, "documents.parquet", DOCUMENTS) as writer:
        writer.write(DOCUMENTS.empty_table())
        for batch in read_batches(documents, "documents.parquet"):
            rows = conform(batch, DOCUMENTS).to_pylist(maps_as_pydicts="strict")
            for at, row in enumerate(rows):
                asked, rest = take_out(row, query)
                query_id = "" if asked is None else content_id(normalise(asked))
                if asked is None:
                    counts["unjudged_no_query"] += 1
                elif times[query_id] > max_documents:
                    counts["unjudged_too_common"] += 1
                elif not words(rest["text"]):
                    counts["unjudged_nothing_left"] += 1
                else:
                    rows[at] = rest
                    queries.setdefault(query_id, asked)
                    judged[query_id].append(row["document_id"])
            writer.write(pa.Table.from_pylist(rows, schema=DOCUMENTS))
        total = writer.rows
    if not queries:
        why = ", ".join(f"{count} {reason.removeprefix('unjudged_')}" for reason, count in counts.items())
        raise ValueError(
            f"`known_items.query` is {query}, and none of the {total} documents gives one ({why}); try the other part, "
            f"or bring queries: a BEIR folder (queries.jsonl, qrels/SPLIT.tsv)"
        )
    split = MADE_FROM + query.replace("_", "-")
    qrels = [
        {"query_id": query_id, "document_id": document_id, "score": 1, "split": split}
        for query_id, document_ids in judged.items()
        for document_id in document_ids
    ]
    asked_rows = [{"query_id": query_id, "text": text} for query_id, text in queries.items()]
    output.write_table("queries.parquet", pa.Table.from_pylist(asked_rows, schema=QUERIES))
    output.write_table("qrels.parquet", pa.Table.from_pylist(qrels, schema=QRELS))
    numbers = {"documents": float(total), "queries": float(len(queries)), "qrels": float(len(qrels))}
    numbers |= {reason: float(count) for reason, count in sorted(counts.items())}
    monitor.metrics(numbers)
    return numbers


def take_out(row: dict[str, Any], query: Part) -> tuple[str | None, dict[str, Any]]:
    """The query of a document (`title`, `text`), None if it has none, and the document without it."""
    text = row["text"].strip()
    if query == "title":
        asked = row["title"]
        first, _, below = text.partition("\n")
        if asked and normalise(first) == normalise(asked):
            text = below.strip()
        rest = row | {"title": None, "text": text}
    else:
        ends = [found for boundary in BOUNDARIES[:2] if (found := boundary.search(text[:READ_CHARACTERS]))]
        end = min((found.end() for found in ends), default=0)
        asked, rest = text[:end].strip(), row | {"text": text[end:].strip()}
    if not asked or not FEWEST_WORDS <= len(words(asked)) <= MOST_WORDS:
        return None, row
    return " ".join(asked.split()), rest


def _rows(documents: Folder) -> Iterator[dict[str, Any]]:
    for batch in read_batches(documents, "documents.parquet", ["title", "text"]):
        yield from batch.to_pylist()
