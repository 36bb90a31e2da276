"""A model directory, or a reranker's, as `mteb.evaluate` takes it.

    import mteb
    from components.evaluation.mteb_model import MtebModel, MtebReranker

    mteb.evaluate(MtebModel("path/to/model"), mteb.get_tasks(tasks=["NFCorpus"]))
    mteb.evaluate(MtebReranker("path/to/reranker"), mteb.get_tasks(tasks=["AskUbuntuDupQuestions"]))

mteb itself is no requirement of the project; it is imported when it asks for the model's name.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from components.evaluation.cache import load_encoder
from components.model.agreement import ENCODING_FILE
from components.model.embedder import read_spec
from components.model.export import weights_digest
from components.model.inference import inference_reranker
from components.model.reranker_file import scorer_id
from components.model.spec import Side
from components.storage import Folder

if TYPE_CHECKING:
    from mteb.models import ModelMeta


class MtebModel:
    """mteb's encoder over our own: texts take the template of their side, and cosines compare vectors.

    Documents of a retrieval task take the document's template; every other text, as one side of a symmetric task,
    that of a query.

    Args:
        directory: a model directory of embedloom.
        instructions: by a task's name, in place of the model's own.
        cache: a folder for vectors (`cache.CachedEncoder`).
        tokens_per_batch: padded tokens encoded at once.

    Raises:
        ValueError: the directory holds no model.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        instructions: dict[str, str] | None = None,
        cache: Folder | None = None,
        tokens_per_batch: int = 8192,
    ) -> None:
        self._directory = Path(directory)
        self._spec = read_spec(directory)
        self._revision = json.loads((self._directory / ENCODING_FILE).read_text("utf-8"))["space_id"]
        self._encoder = load_encoder(Folder(str(directory)), cache)
        self._instructions = instructions or {}
        self._tokens_per_batch = tokens_per_batch

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Vectors float32 [N, dimensions] of batches that hold `text`; the other arguments are mteb's."""
        texts = [text for batch in inputs for text in batch["text"]]
        side: Side = "document" if getattr(prompt_type, "value", prompt_type) == "document" else "query"
        instruction = self._instructions.get(task_metadata.name) if side == "query" else None
        return self._encoder.encode(texts, side, instruction, self._tokens_per_batch)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines [N, M]."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines [N] of vectors that stand at the same place."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(-1)

    @property
    def mteb_model_meta(self) -> "ModelMeta":
        """Name, dimensions and length; results are filed under the name and the space id."""
        from mteb.models.model_meta import ScoringFunction

        return _meta(
            self._directory,
            revision=self._revision,
            embed_dim=self._spec.dimensions,
            max_tokens=self._spec.document_length,
            similarity_fn_name=ScoringFunction.COSINE,
        )


class MtebReranker:
    """mteb's cross-encoder over our own rerankers, of any kind.

    Args:
        directory: a reranker's directory.
        instructions: by a task's name, in place of the reranker's own.
        tokens_per_batch: padded tokens scored at once.

    Raises:
        ValueError: the directory holds no reranker.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        instructions: dict[str, str] | None = None,
        tokens_per_batch: int = 8192,
    ) -> None:
        self._directory = Path(directory)
        self._reranker = inference_reranker(directory)
        self._instructions = instructions or {}
        self._tokens_per_batch = tokens_per_batch

    def predict(
        self,
        inputs1: Iterable[dict[str, Any]],
        inputs2: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Scores float32 [N] of queries and documents in batches that hold `text`; the other arguments are mteb's."""
        queries, documents = (
            [text for batch in batches for text in batch["text"]] for batches in (inputs1, inputs2)
        )
        instructions = [self._instructions.get(task_metadata.name)] * len(queries)
        return self._reranker.score(queries, documents, instructions, self._tokens_per_batch)

    @property
    def mteb_model_meta(self) -> "ModelMeta":
        """Name and length; results are filed under the name and the scorer id."""
        identity = scorer_id(weights_digest(self._directory), self._reranker.tokenize.digest())
        return _meta(
            self._directory, revision=identity, max_tokens=self._reranker.length, model_type=["cross-encoder"]
        )


def _meta(directory: Path, **fields: Any) -> "ModelMeta":
    from mteb.models import ModelMeta

    name = f"embedloom/{directory.resolve().name}"
    return ModelMeta.create_empty(overwrites={"name": name} | fields)


def _unit(vectors: Any) -> Tensor:
    return normalize(torch.atleast_2d(torch.as_tensor(vectors, dtype=torch.float32)), dim=-1)
