"""vLLM as the engine of an embedding model, or of a reranker that reads a prompt: on a GPU, or on a CPU if asked for.

Both give it the token ids of our own tokenizers: what is read is the same whatever computes. The engine runs in a
process of its own, below the replica's.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from components.model.embedder import Precision, read_spec
from components.model.pair_tokens import PromptTokens, Tokens
from components.model.reranker import load_pair_tokens
from components.model.reranker_file import architecture_of, scorer_id
from components.model.spec import EncodingSpec
from components.model.tokens import Cutter, load_tokenizer
from components.serving.calls import Call, EmbedCall, Refusal, ScoreCall
from components.serving.engine import EngineOptions, refuse_call, served
from components.serving.release import Release
from components.serving.verify import (
    GOLDEN_TOLERANCE,
    SCORE_TOLERANCE,
    check_release,
    compare_with_golden,
    compare_with_golden_scores,
)

if TYPE_CHECKING:
    from vllm import LLM


class VllmEmbedder:
    """An embedding model in vLLM."""

    streams = 1

    def __init__(
        self, release: Release, directory: Path, precision: Precision, options: EngineOptions
    ) -> None:
        check_release(directory, release)
        self.spec: EncodingSpec = read_spec(directory)
        self._cut = Cutter(load_tokenizer(directory))
        longest = max(self.spec.query_length, self.spec.document_length)
        self._engine = _start(directory, precision, longest, options)
        self._vocabulary_size = self._engine.model_config.get_vocab_size()
        self.served = served(
            release,
            "embedding",
            self.spec.space_id(release.digest),
            self.spec.dimensions,
            f"vllm {precision}",
        )
        compare_with_golden(self._encode, directory, release, GOLDEN_TOLERANCE[precision])

    def refuse(self, call: Call) -> Refusal | None:
        return refuse_call(call, self.spec, self._vocabulary_size)

    def read(self, call: Call) -> list[list[int]]:
        assert isinstance(call, EmbedCall)
        prefix = self.spec.prefix(call.side, call.instruction)
        texts = [prefix + text for text in call.texts]
        return call.token_ids or self._cut(texts, self.spec.length(call.side))

    def length(self, item: list[int]) -> int:
        return len(item)

    def compute(self, items: Sequence[list[int]]) -> np.ndarray:
        outputs = self._engine.embed(_prompts(items), use_tqdm=False)
        vectors_ND = np.array([each.outputs.embedding for each in outputs], dtype=np.float32)
        vectors_ND = vectors_ND[:, : self.spec.dimensions]
        if not self.spec.normalize:
            return vectors_ND
        return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True).clip(min=1e-12)

    def _encode(self, texts: list[str], side: str) -> np.ndarray:
        return self.compute(self.read(EmbedCall(texts, [], side, None, None)))  # type: ignore[arg-type]


class VllmReranker:
    """A reranker that reads a prompt, in vLLM: the language model that says yes or no, or the classifier made of it."""

    streams = 1

    def __init__(
        self, release: Release, directory: Path, precision: Precision, options: EngineOptions
    ) -> None:
        check_release(directory, release)
        tokenize = load_pair_tokens(directory)
        assert isinstance(tokenize, PromptTokens)
        self._tokenize = tokenize
        overrides: dict[str, Any] = {}
        architecture = architecture_of(directory)
        if architecture.endswith("ForCausalLM"):
            answers = load_tokenizer(directory).convert_ids_to_tokens([tokenize.no_id, tokenize.yes_id])
            overrides["hf_overrides"] = {
                "architectures": [architecture.replace("ForCausalLM", "ForSequenceClassification")],
                "classifier_from_token": answers,
                "method": "from_2_way_softmax",
            }
        self._engine = _start(directory, precision, tokenize.length, options, **overrides)
        identity = scorer_id(release.digest, tokenize.digest())
        self.served = served(release, "reranker", identity, None, f"vllm {precision}")
        compare_with_golden_scores(self._score, directory, release, SCORE_TOLERANCE[precision])

    def refuse(self, call: Call) -> Refusal | None:
        return refuse_call(call, None, 0)

    def read(self, call: Call) -> list[Tokens]:
        assert isinstance(call, ScoreCall)
        return self._tokenize(call.queries, call.documents, [call.instruction] * len(call.queries))

    def length(self, item: Tokens) -> int:
        return len(item.ids)

    def compute(self, items: Sequence[Tokens]) -> np.ndarray:
        outputs = self._engine.classify(_prompts([item.ids for item in items]), use_tqdm=False)
        return np.array([each.outputs.probs[0] for each in outputs], dtype=np.float32)

    def _score(self, queries: list[str], documents: list[str]) -> np.ndarray:
        return self.compute(self.read(ScoreCall(queries, documents, None)))


def embeds_in_vllm(directory: Path) -> bool:
    """Whether vLLM lists the model's architecture and can be told how it encodes."""
    from components.model.export import said_by_sentence_transformers

    spec = read_spec(directory)
    if not said_by_sentence_transformers(spec) or spec.marks_template:
        return False
    architectures = json.loads((directory / "config.json").read_text("utf-8")).get("architectures") or []
    return _lists(architectures)


def reranks_in_vllm(directory: Path) -> bool:
    """Whether it reads a prompt, and vLLM lists its architecture. A cross-encoder's token types vLLM is not told."""
    return isinstance(load_pair_tokens(directory), PromptTokens) and _lists([architecture_of(directory)])


def _lists(architectures: list[str]) -> bool:
    from vllm import ModelRegistry

    return bool(set(architectures) & set(ModelRegistry.get_supported_archs()))


def _start(
    directory: Path, precision: Precision, longest: int, options: EngineOptions, **overrides: Any
) -> "LLM":
    environment = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
    if not torch.cuda.is_available():
        # By default 4 GiB of keys and values, every core of the machine, and threads as Ray says: one.
        threads = options.threads or os.cpu_count() or 1
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads),
        }
    # Before it is imported, and for its own process, which inherits them.
    os.environ |= environment
    from vllm import LLM

    return LLM(
        str(directory),
        runner="pooling",
        dtype=precision,
        max_model_len=longest,
        enforce_eager=True,
        gpu_memory_utilization=options.gpu_memory,
        **overrides,
    )


def _prompts(items: Sequence[list[int]]) -> list[Any]:
    from vllm.inputs import TokensPrompt

    return [TokensPrompt(prompt_token_ids=ids) for ids in items]
