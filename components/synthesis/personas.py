"""Who could have asked: the persona candidates of a document, and the other draws that belong to it alone.

Every draw is seeded by the document's id, so it does not depend on the order or the company of documents.
"""

import random

from components.search.bm25 import Bm25Index
from components.synthesis.prompts import CANDIDATES


def choose_candidates(
    document_ids: list[str], passages: list[str], personas: list[str], seed: int
) -> list[list[str]]:
    """Five personas for each passage, chosen by a retrieval model: BM25, the passage as query.

    Where fewer than five share a word with the passage, the rest is drawn at random; the order is random too,
    because a small model prefers positions.
    """
    _, indices_NK = Bm25Index(personas).search(passages, CANDIDATES)
    chosen = []
    for document_id, found_K in zip(document_ids, indices_NK.tolist(), strict=True):
        generator = random.Random(f"personas {seed} {document_id}")
        best = [index for index in found_K if index >= 0]
        others = [index for index in range(len(personas)) if index not in best]
        best += generator.sample(others, CANDIDATES - len(best))
        generator.shuffle(best)
        chosen.append([personas[index] for index in best])
    return chosen


def draw_length(document_id: str, length_words: tuple[int, int], seed: int) -> int:
    """The length in words that is asked for, uniform between the bounds, both included."""
    return random.Random(f"length {seed} {document_id}").randint(*length_words)


def row_seed(document_id: str, seed: int) -> int:
    """The seed of a document's requests, below 2**31."""
    return random.Random(f"request {seed} {document_id}").randrange(2**31)
