"""What must never be a negative of a query: its known positives, and every copy of one."""

from dataclasses import dataclass

import numpy as np

from components.pairs.lookup import Lookup

MOST_LINKS = 2**23
"""Of what is known of the queries that are looked at together; some hundred bytes each."""
NO_TEXT = np.iinfo(np.int64).min
"""In place of a reference where a judgement names a document and brings no text."""


class Documents:
    """A corpus by the hashes of its ids and texts, 80 bytes a document.

    Args:
        id_M, exact_M, passage_M, body_M: int64, columns of `profiles.PROFILE`.
    """

    def __init__(
        self, id_M: np.ndarray, exact_M: np.ndarray, passage_M: np.ndarray, body_M: np.ndarray
    ) -> None:
        self.passage_M, self.body_M = passage_M, body_M
        self._ids, self._texts = Lookup(id_M), Lookup(exact_M)
        self._forms = Lookup(np.concatenate([passage_M, body_M]))

    def __len__(self) -> int:
        return len(self.passage_M)

    def repeated_id(self) -> tuple[int, int] | None:
        """Two rows of one id, if there are such."""
        return self._ids.repeated()

    def rows_of_ids(self, id_W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the wanted that are there, and their rows."""
        return self._ids.find(id_W)

    def first_row_of_texts(self, exact_W: np.ndarray) -> np.ndarray:
        """The first row whose passage is the wanted text, letter by letter; -1: there is none."""
        which, rows = self._texts.find(exact_W)
        first_W = np.full(len(exact_W), -1, dtype=np.int64)
        first_W[which[::-1]] = rows[::-1]
        return first_W

    def rows_of_forms(self, form_W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `rows_of_ids`, of normalised texts: rows whose text has that form with or without its title."""
        which, places = self._forms.find(form_W)
        return which, places % len(self)


@dataclass(frozen=True)
class Answers:
    """E statements that a document answers a query, from pairs and judgements; 32 bytes each.

    A pair makes two: one by the id of its query and one by the query's text.
    """

    query_E: np.ndarray
    """int64, hash of a query's id or text."""
    id_E: np.ndarray
    """int64, hash of the document's id."""
    form_E: np.ndarray
    """int64, hash of its normalised text; NO_TEXT: not given."""
    reference_E: np.ndarray
    """int64, where its text and vector are to be found: row of the corpus, or -1 - row of the texts outside of
    it; NO_TEXT: not given."""


@dataclass(frozen=True)
class Known:
    """What is known of Q queries."""

    query_B: np.ndarray
    """int64, number of a query."""
    row_B: np.ndarray
    """int64, a document that must not be its negative."""
    copy_B: np.ndarray
    """bool: it is a copy of a positive, and not one itself."""
    query_R: np.ndarray
    """int64, number of a query."""
    reference_R: np.ndarray
    """int64, reference of one of its positives, each once."""


class KnownPositives:
    """Known positives of queries, and the documents that are copies of them.

    A query's positives are those of all pairs and judgements that carry its id, or its text under another id.
    A copy is a document whose text, with its title or without, equals that of a positive (case, white space
    and Unicode forms aside: `corpus.words.normalise`).
    """

    def __init__(self, documents: Documents, answers: Answers) -> None:
        self._documents = documents
        self._answers = answers
        self._by_query = Lookup(answers.query_E)

    def counts(self, id_Q: np.ndarray, text_Q: np.ndarray) -> np.ndarray:
        """How many statements there are of each query, int64 [Q]; arguments as of `of`."""
        return self._by_query.count(id_Q) + self._by_query.count(text_Q)

    def of(self, id_Q: np.ndarray, text_Q: np.ndarray) -> Known:
        """What is known of queries by the hashes of their ids and texts, int64 [Q] each."""
        which, answer = self._by_query.find(np.concatenate([id_Q, text_Q]))
        query_A = which % max(len(id_Q), 1)
        found, rows = self._documents.rows_of_ids(self._answers.id_E[answer])
        query_P, row_P = _unique(query_A[found], rows)

        form_A = self._answers.form_E[answer]
        given = form_A != NO_TEXT
        forms = (form_A[given], self._documents.passage_M[row_P], self._documents.body_M[row_P])
        query_F, form_F = _unique(np.concatenate([query_A[given], query_P, query_P]), np.concatenate(forms))
        found, rows = self._documents.rows_of_forms(form_F)
        query_C, row_C = _unique(query_F[found], rows)
        is_positive = np.isin(_joined(query_C, row_C), _joined(query_P, row_P))
        query_C, row_C = query_C[~is_positive], row_C[~is_positive]

        reference_A = self._answers.reference_E[answer]
        given = reference_A != NO_TEXT
        query_R, reference_R = _unique(
            np.concatenate([query_P, query_A[given]]), np.concatenate([row_P, reference_A[given]])
        )
        return Known(
            query_B=np.concatenate([query_P, query_C]),
            row_B=np.concatenate([row_P, row_C]),
            copy_B=np.arange(len(row_P) + len(row_C)) >= len(row_P),
            query_R=query_R,
            reference_R=reference_R,
        )


def check_links(count_U: np.ndarray, rows: int) -> None:
    """Refuse queries of which so much is known that what is known of `rows` in a row fits no memory.

    Args:
        count_U: int64, by query.

    Raises:
        ValueError: it is more than MOST_LINKS.
    """
    sums = np.add.reduceat(count_U, np.arange(0, len(count_U), rows)) if len(count_U) else count_U
    if sums.max(initial=0) > MOST_LINKS:
        raise ValueError(
            f"mine: {min(rows, len(count_U))} queries have {sums.max()} known positives by id and by text, and "
            f"{MOST_LINKS} are the most that can be held; in large classes (kind same_class) each text answers every "
            "other: leave such pairs out of this step"
        )


def _unique(left_J: np.ndarray, right_J: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs of numbers, by the first and then by the second."""
    order = np.lexsort([right_J, left_J])
    left, right = left_J[order], right_J[order]
    new = np.ones(len(left), dtype=bool)
    new[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    return left[new], right[new]


def _joined(query_J: np.ndarray, row_J: np.ndarray) -> np.ndarray:
    """One number for a query's number and a row of the corpus, both below 2**31."""
    return (query_J << 32) | row_J
