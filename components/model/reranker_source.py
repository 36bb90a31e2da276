"""The step that brings in what a reranker is trained from: a language model, or an encoder that gets a head."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from components.model.backbone import keep_layers, load_pretrained
from components.model.export import weights_digest
from components.model.names import fetch_model, resolve_model
from components.model.pair_tokens import PromptTokens
from components.model.prompt import RerankerSpec, template_fields
from components.model.reranker import load_reranker
from components.model.reranker_agreement import told_by_others
from components.model.reranker_export import save_reranker
from components.model.reranker_file import RERANKER_FILE, PairSpec, read_reranker_spec
from components.model.source import import_language_model
from components.model.tokens import load_tokenizer
from components.monitor import Monitor, Silent
from components.storage import Folder

_DEFAULT_LENGTH = 512


def import_reranker(
    *,
    model: str,
    spec: dict[str, Any],
    layers: int | None = None,
    seed: int = 0,
    output: Folder,
    monitor: Monitor,
) -> dict[str, float]:
    """Bring a model into a reranker directory, in float32.

    A causal language model gets the prompt; an encoder without a head gets one output, drawn at random.

    Args:
        model: a name or uri that `names.resolve_model` knows: a causal language model, an encoder, or a reranker.
        spec: `length` in tokens (prompt included), and for decoders other fields of `RerankerSpec`. What is left out
            is what the model says itself (`reranker.json`, else a chat template with the roles `query` and
            `document`, and the answers of a LogitScore), else the published prompt and 512 tokens.
        layers: keep only the first so many layers; None: all.
        seed: of a new head.
        output: the reranker directory.

    Returns: parameters, layers, new_head (1 or 0).

    Raises:
        ValueError: the model cannot be found or loaded, or prompt, answers and tokenizer do not fit one another.
    """
    with tempfile.TemporaryDirectory() as temporary:
        source = fetch_model(model)
        directory = source if source.is_dir() else Path(temporary)
        if directory != source:
            import_language_model(model=model, output=Folder(temporary), monitor=Silent())
        tokenizer, new_head = load_tokenizer(directory), False
        if _reads_a_prompt(directory, tokenizer):
            prompt = _prompt(directory, spec, tokenizer)
            PromptTokens(tokenizer, prompt)  # before weights are read
            loaded, pair_spec = load_reranker(directory, spec=prompt).model, PairSpec(prompt=prompt)
        else:
            pair_spec = _pair_spec(directory, spec)
            loaded, new_head = _with_head(directory, seed)
        if layers is not None:
            keep_layers(loaded, layers)
        with output.writable() as target:
            save_reranker(target, loaded.config, loaded.state_dict(), pair_spec, tokenizer)
            monitor.params({"weights_digest": weights_digest(target), **pair_spec.to_json()})
    return {
        "parameters": float(sum(parameter.numel() for parameter in loaded.parameters())),
        "layers": float(loaded.config.num_hidden_layers),
        "new_head": float(new_head),
    }


@contextmanager
def as_reranker_directory(model: str) -> Iterator[Folder]:
    """A reranker by any name that `names.resolve_model` knows: its own directory, or one that is gone after.

    Raises:
        ValueError: the model cannot be found or loaded, or is an encoder that was never trained to score.
    """
    uri = resolve_model(model).uri
    path = fetch_model(uri)
    if (path / RERANKER_FILE).is_file():
        yield Folder(str(path))
        return
    with tempfile.TemporaryDirectory() as temporary:
        found = import_reranker(model=uri, spec={}, output=Folder(temporary), monitor=Silent())
        if found["new_head"]:
            raise ValueError(
                f"{model} is no reranker: it has no head that was trained to score a query and a document"
            )
        yield Folder(temporary)


def _reads_a_prompt(directory: Path, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether it is a decoder: a language model, or a classifier whose files tell its prompt."""
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} holds no model: config.json is missing")
    architectures = json.loads(path.read_text("utf-8")).get("architectures") or [""]
    if architectures[0].endswith("ForCausalLM"):
        return True
    return read_reranker_spec(directory).prompt is not None or (
        architectures[0].endswith("ForSequenceClassification") and template_fields(tokenizer) is not None
    )


def _prompt(directory: Path, spec: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> RerankerSpec:
    fields = spec.keys() - RerankerSpec.__dataclass_fields__.keys()
    if fields:
        raise ValueError(f"{sorted(fields)[0]} is no field of a reranker's prompt")
    told = read_reranker_spec(directory).prompt
    start = asdict(told) if told else told_by_others(directory, tokenizer)
    return RerankerSpec(**({"length": _DEFAULT_LENGTH} | start | spec))


def _pair_spec(directory: Path, spec: dict[str, Any]) -> PairSpec:
    fields = spec.keys() - {"length"}
    if fields:
        raise ValueError(
            f"{sorted(fields)[0]} belongs to the prompt of a language model; an encoder reads query and document"
        )
    length = spec.get("length") or read_reranker_spec(directory).length
    positions = json.loads((directory / "config.json").read_text("utf-8")).get("max_position_embeddings")
    return PairSpec(length=length or min(_DEFAULT_LENGTH, positions or _DEFAULT_LENGTH))


def _with_head(directory: Path, seed: int) -> tuple[PreTrainedModel, bool]:
    """The model with one output; what its files lack of the head is drawn.

    Raises:
        ValueError: tensors of the encoder itself are missing.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, missing = load_pretrained(
            AutoModelForSequenceClassification, directory, torch.float32, num_labels=1
        )
    inside = f"{model.base_model_prefix}."
    lacking = [name for name in missing if name.startswith(inside) and ".pooler." not in name]
    if lacking:
        raise ValueError(f"the weights in {directory} lack {len(lacking)} tensors, the first is {lacking[0]}")
    model.config.architectures = [type(model).__name__]
    return model.eval(), bool(missing)
