"""Queries and the documents that are judged relevant to them, as labelled pairs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from components.corpus.schema import passage
from components.pairs.sources.kinds import Row


def judged_rows(
    documents: Iterable[Row], queries: Mapping[str, str], judgements: Iterable[tuple[str, str, int]]
) -> Iterator[Row]:
    """One row a judgement, the positive as title and text, in the order of the documents.

    In memory are the judgements and the queries, never the documents. A judgement that cannot be used is a row
    with a reason: `not_relevant`, `no_such_query`, `no_such_document`.

    Args:
        documents: `document_id, title, text, language`.
        queries: texts by id.
        judgements: query id, document id, score; relevant is what is above 0.
    """
    judged: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for query_id, document_id, score in judgements:
        if score > 0:
            judged[document_id].append((query_id, score))
        else:
            yield _row(query_id, queries.get(query_id), document_id, score, reason="not_relevant")
    for document in documents:
        document_id = document["document_id"]
        for query_id, score in judged.pop(document_id, ()):
            text = passage(document["title"], document["text"])
            query = queries.get(query_id)
            reason = "no_such_query" if query is None else None
            yield _row(query_id, query, document_id, score, text, document["language"], reason)
    for document_id, of_document in judged.items():
        for query_id, score in of_document:
            yield _row(query_id, queries.get(query_id), document_id, score, reason="no_such_document")


def _row(
    query_id: str,
    query: str | None,
    document_id: str,
    score: int,
    positive: str | None = None,
    language: str | None = None,
    reason: str | None = None,
) -> Row:
    return {
        "query": query,
        "positive": positive,
        "query_id": query_id,
        "positive_id": document_id,
        "score": float(score),
        "language": language,
        "reason": reason,
    }
