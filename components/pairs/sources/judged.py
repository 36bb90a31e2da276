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
    queries_of: dict[str, list[str]] = defaultdict(list)
    for query_id, document_id, score in judgements:
        if score > 0:
            queries_of[document_id].append(query_id)
        else:
            yield _row(query_id, queries.get(query_id), document_id, None, None, "not_relevant")
    for document in documents:
        document_id = document["document_id"]
        for query_id in queries_of.pop(document_id, ()):
            text = passage(document["title"], document["text"])
            query = queries.get(query_id)
            reason = "no_such_query" if query is None else None
            yield _row(query_id, query, document_id, text, document["language"], reason)
    for document_id, query_ids in queries_of.items():
        for query_id in query_ids:
            yield _row(query_id, queries.get(query_id), document_id, None, None, "no_such_document")


def _row(
    query_id: str,
    query: str | None,
    document_id: str,
    positive: str | None,
    language: str | None,
    reason: str | None,
) -> Row:
    return {
        "query": query,
        "positive": positive,
        "query_id": query_id,
        "positive_id": document_id,
        "language": language,
        "reason": reason,
    }
