"""The documents behind the page: BM25 over them, and their vectors by the embedder that is served.

They are held in one process, as many as a demo has. Vectors are computed by the service itself, in small requests
between those of others, and anew when another vector space is served.
"""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
from ray import serve

from components.corpus.schema import passage
from components.search.bm25 import Bm25Index
from components.serving.calls import EmbedCall, Vectors

MAX_DOCUMENTS = 20_000
_TEXTS_A_REQUEST = 32
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Found:
    """Some of the documents, best first; `text` is what the models read."""

    document_id: str
    title: str
    text: str
    score: float


@dataclass
class _Space:
    """The vectors of one space; those of the first `done` documents are there."""

    vectors_ND: np.ndarray
    done: int = 0
    task: asyncio.Task | None = field(default=None, repr=False)


class SearchService:
    """A Serve deployment.

    Args:
        documents: Parquet file or folder of documents (`components/corpus/schema.py`).
    """

    def __init__(self, documents: str) -> None:
        names = set(ds.dataset(documents).schema.names)
        columns = [name for name in ("document_id", "title", "text") if name in names]
        table = ds.dataset(documents).head(MAX_DOCUMENTS, columns=columns)
        self._ids: list[str] = table["document_id"].to_pylist()
        titles = pc.fill_null(table["title"], "").to_pylist() if "title" in names else [""] * len(self._ids)
        self._titles: list[str] = titles
        self._texts = [
            passage(title, text) for title, text in zip(titles, table["text"].to_pylist(), strict=True)
        ]
        self._bm25 = Bm25Index(self._texts)
        self._spaces: dict[str, _Space] = {}

    async def size(self) -> int:
        return len(self._ids)

    async def lexical(self, query: str, k: int) -> list[Found]:
        """The best k by BM25."""
        scores_NK, indices_NK = await asyncio.to_thread(self._bm25.search, [query], k)
        return self._found(indices_NK[0], scores_NK[0])

    async def nearest(
        self, query_D: np.ndarray, k: int, space_id: str, application: str
    ) -> tuple[list[Found], int]:
        """The best k by cosine among the documents that are encoded already, and how many those are.

        Args:
            query_D: float32 [D], normalised.
            space_id: of the query's vector.
            application: the Serve application that computes vectors of this space.
        """
        space = self._spaces.get(space_id)
        if space is None:
            # Of another space's vectors nobody asks any more.
            for other in self._spaces.values():
                if other.task:
                    other.task.cancel()
            space = _Space(np.zeros((len(self._ids), len(query_D)), dtype=np.float32))
            self._spaces = {space_id: space}
        if space.done < len(self._ids) and (space.task is None or space.task.done()):
            space.task = asyncio.create_task(self._encode(space, application))
            await asyncio.wait({space.task}, timeout=1.0)
        scores_N = space.vectors_ND[: space.done] @ query_D
        best = np.argsort(-scores_N, kind="stable")[:k]
        return self._found(best, scores_N[best]), space.done

    def _found(self, indices_K: np.ndarray, scores_K: np.ndarray) -> list[Found]:
        return [
            Found(self._ids[index], self._titles[index], self._texts[index], float(score))
            for index, score in zip(indices_K.tolist(), scores_K, strict=True)
            if index >= 0
        ]

    async def _encode(self, space: _Space, application: str) -> None:
        """Fill a space from where it stands; a refusal ends it until the next query."""
        handle = serve.get_app_handle(application)
        while space.done < len(self._ids):
            texts = self._texts[space.done : space.done + _TEXTS_A_REQUEST]
            call = EmbedCall(texts, [], "document", None, None)
            reply = await handle.answer.remote(call)
            if not isinstance(reply, Vectors):
                return
            space.vectors_ND[space.done : space.done + len(texts)] = reply.vectors_ND
            space.done += len(texts)
            await asyncio.sleep(_PAUSE_S)
