"""What must never be a negative of a query: its known positives, and every copy of one."""

from collections import defaultdict
from collections.abc import Iterable

import pyarrow as pa

from components.corpus.duplicates import normalise
from components.corpus.schema import passage


class KnownPositives:
    """Known positives of queries, and the documents that are copies of them.

    A query's positives are those of all pairs and judgements that carry its id, or its text under another id.
    A copy is a document whose text, with its title or without, equals that of a positive (case, white space
    and Unicode forms aside: `normalise`).

    Args:
        documents: the corpus, schema DOCUMENTS; results are row numbers of it.
        pairs: schema PAIRS, all that are known.
        queries, qrels: labelled queries and their judgements, schemas QUERIES and QRELS.
    """

    def __init__(self, documents: pa.Table, pairs: pa.Table, queries: pa.Table, qrels: pa.Table) -> None:
        self._row_of = {key: row for row, key in enumerate(documents["document_id"].to_pylist())}
        self._texts_of_row: list[tuple[str, ...]] = []
        self._rows_of_text: dict[str, set[int]] = defaultdict(set)
        bodies = zip(documents["title"].to_pylist(), documents["text"].to_pylist(), strict=True)
        for row, (title, text) in enumerate(bodies):
            forms = tuple(dict.fromkeys((normalise(text), normalise(passage(title, text)))))
            self._texts_of_row.append(forms)
            for form in forms:
                self._rows_of_text[form].add(row)

        self._ids: dict[str, set[str]] = defaultdict(set)  # query id or normalised query text -> document ids
        self._texts: dict[str, set[str]] = defaultdict(set)  # the same -> normalised texts of positives
        columns = ("query_id", "query", "positive_id", "positive")
        for query_id, query, positive_id, positive in zip(
            *(pairs[name].to_pylist() for name in columns), strict=True
        ):
            for key in _keys(query_id, query):
                self._ids[key].add(positive_id)
                self._texts[key].add(normalise(positive))
        text_of = dict(zip(queries["query_id"].to_pylist(), queries["text"].to_pylist(), strict=True))
        judged = (qrels[name].to_pylist() for name in ("query_id", "document_id", "score"))
        for query_id, document_id, score in zip(*judged, strict=True):
            if score > 0:
                for key in _keys(query_id, text_of.get(query_id)):
                    self._ids[key].add(document_id)

    def of(self, query_id: str, query: str) -> tuple[set[int], set[int]]:
        """Rows of the corpus: the query's known positives, and the copies of them beside those."""
        keys = _keys(query_id, query)
        positives = {
            self._row_of[document_id]
            for key in keys
            for document_id in self._ids.get(key, ())
            if document_id in self._row_of
        }
        texts = {text for key in keys for text in self._texts.get(key, ())}
        texts.update(form for row in positives for form in self._texts_of_row[row])
        return positives, {row for text in texts for row in self._rows_of_text.get(text, ())} - positives

    def first_of_copies(self, rows: Iterable[int]) -> list[int]:
        """The rows in their order, without those whose passage stood before."""
        return list({self._texts_of_row[row][-1]: row for row in reversed(list(rows))}.values())[::-1]


def _keys(query_id: str, query: str | None) -> list[str]:
    return [f"id:{query_id}"] + ([f"text:{normalise(query)}"] if query is not None else [])
