"""Who could have asked: the persona candidates of a document, chosen by a retrieval model."""

import hashlib
import random
from typing import TYPE_CHECKING

import pyarrow as pa

from components.search.bm25 import Bm25Index
from components.search.exact import top_k
from components.storage import Folder
from components.synthesis.answers import REQUESTS
from components.synthesis.prompts import CANDIDATES

if TYPE_CHECKING:
    from components.model.embedder import Embedder

TOKENS_PER_BATCH = 4096


class PersonaSearch:
    """The five personas nearest to a passage, by the cosine of their vectors, or by BM25 without a model.

    A stage of a Ray Data pipeline: it fills `characters` of REQUESTS where the family asks for them.

    Args:
        personas: one character each.
        retriever: a model directory (`Embedder`); None: BM25.
        seed: of the order in which the five are offered: it is random, because a small model prefers
            positions.
    """

    def __init__(self, personas: list[str], retriever: Folder | None, seed: int) -> None:
        self._personas = personas
        self._seed = seed
        self._bm25: Bm25Index | None = None
        self._embedder: Embedder | None = None
        if retriever is None:
            self._bm25 = Bm25Index(personas)
        else:
            import torch  # with what loads a model some seconds, which BM25 need not wait

            from components.model.inference import inference_embedder

            torch.set_num_threads(1)  # beside the engine
            with retriever.local() as directory:
                self._embedder = inference_embedder(directory)
            self._persona_PD = self._embedder.encode(personas, "document", tokens_per_batch=TOKENS_PER_BATCH)

    def __call__(self, requests: pa.Table) -> pa.Table:
        rows = requests.to_pylist()
        asking = [row for row in rows if row["family"] == "retrieval" and not row["fault"]]
        found = self.choose([row["document_id"] for row in asking], [row["passage"] for row in asking])
        for row, characters in zip(asking, found, strict=True):
            row["characters"] = characters
        return pa.Table.from_pylist(rows, schema=REQUESTS)

    def choose(self, document_ids: list[str], passages: list[str]) -> list[list[str]]:
        """Five different personas for each passage.

        BM25 finds only those that share a word with the passage: where they are fewer, the rest is drawn.
        """
        if not passages:
            return []
        if self._bm25 is not None:
            _, indices_NK = self._bm25.search(passages, CANDIDATES)
        else:
            assert self._embedder is not None
            # Side `document` for both: a persona is no question to the passage.
            passage_ND = self._embedder.encode(passages, "document", tokens_per_batch=TOKENS_PER_BATCH)
            _, indices_NK = top_k(passage_ND, self._persona_PD, CANDIDATES)
        chosen = []
        for document_id, found_K in zip(document_ids, indices_NK.tolist(), strict=True):
            digest = hashlib.sha256(f"personas\x1f{self._seed}\x1f{document_id}".encode()).digest()
            generator = random.Random(int.from_bytes(digest[:8], "big"))
            best = [index for index in found_K if index >= 0]
            others = [index for index in range(len(self._personas)) if index not in best]
            best += generator.sample(others, CANDIDATES - len(best))
            generator.shuffle(best)
            chosen.append([self._personas[index] for index in best])
        return chosen
