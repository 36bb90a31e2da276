"""The steps that bring a model in: from wherever it is to a directory that the other steps read."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from transformers import (
    AutoModelForCausalLM,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from components.model.agreement import ENCODING_FILE, POOLING_FLAGS
from components.model.backbone import is_causal, keep_layers, load_backbone, longest_text, quiet_loading
from components.model.embedder import POOLING_FILE, Embedder, read_spec
from components.model.export import weights_digest
from components.model.names import fetch_model, resolve_model
from components.model.spec import OVER_TOKENS, EncodingSpec, Pooling, check_fields
from components.model.tokens import append_end_token, appended_token, load_tokenizer
from components.monitor import Monitor, Silent
from components.storage import Folder

_DEFAULT_LENGTH = 512
_INSTRUCTED = re.compile(r"Instruct: (.*)\nQuery:")
_OF_POOLING = {"pooling", "pooling_queries", "projection", "projection_dimensions"}
"""Fields that decide which weights pooling and projection have: with another value they start anew."""
_MODE = "pooling_mode_"
_LANGUAGE_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


@contextmanager
def as_model_directory(model: str) -> Iterator[Folder]:
    """A model by any name that `names.resolve_model` knows, as a model directory: its own, or one that is gone after.

    Raises:
        ValueError: the model cannot be found or loaded.
    """
    uri = resolve_model(model).uri
    path = fetch_model(uri)
    if (path / ENCODING_FILE).is_file():
        yield Folder(str(path))
        return
    with tempfile.TemporaryDirectory() as temporary:
        import_model(model=uri, spec={}, output=Folder(temporary), monitor=Silent())
        yield Folder(temporary)


def import_model(
    *, model: str, layers: int | None = None, spec: dict[str, Any], output: Folder, monitor: Monitor
) -> dict[str, float]:
    """Bring an embedding model, or the backbone of one to be, into a model directory.

    Args:
        model: a name or uri that `names.resolve_model` knows.
        layers: keep only the first so many layers; None: all.
        spec: fields of EncodingSpec. What is left out comes from the model: its `encoding.json`, else its
            sentence-transformers configuration, else the last token behind the EOS for decoders, the mean for
            encoders.
        output: the model directory.

    Returns: parameters, parameters_pooling (of these, those of pooling and projection), layers, dimensions.

    Raises:
        ValueError: the model cannot be found or loaded, or the spec does not fit it.
    """
    check_fields(spec)
    path = fetch_model(model)
    if path.suffix == ".gguf":
        language_model, tokenizer = _load_gguf(path)
        backbone = cast(PreTrainedModel, language_model.base_model)
        backbone.config.use_cache = False
    else:
        backbone = load_backbone(path)
        tokenizer = load_tokenizer(path)
    if layers is not None:
        keep_layers(backbone, layers)
    inferred = _infer_spec(path, backbone, tokenizer)
    if spec.get("pooling") == "prompt":
        inferred["end_token"] = appended_token(tokenizer)  # a prompt speaks for itself
    if "projection" in spec:
        inferred["dimensions"] = spec.get("projection_dimensions") or backbone.config.hidden_size
    encoding = EncodingSpec.from_json(inferred | spec)
    if encoding.end_token is not None:
        append_end_token(tokenizer, encoding.end_token)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = encoding.end_token or tokenizer.eos_token
    embedder = Embedder(backbone, encoding, tokenizer)
    if (path / POOLING_FILE).is_file() and all(
        inferred[name] == getattr(encoding, name) for name in _OF_POOLING
    ):
        embedder.load_pooling(path)
    with output.writable() as directory:
        embedder.save(directory)
        monitor.params({"weights_digest": weights_digest(directory), **encoding.to_json()})
    return {
        "parameters": float(sum(parameter.numel() for parameter in embedder.parameters())),
        "parameters_pooling": float(sum(parameter.numel() for parameter in embedder.pooling.parameters())),
        "layers": float(backbone.config.num_hidden_layers),
        "dimensions": float(encoding.dimensions),
    }


def import_language_model(*, model: str, output: Folder, monitor: Monitor) -> dict[str, float]:
    """Bring a causal language model into a directory that vLLM and transformers load, chat template included.

    GGUF weights are dequantised and written in bfloat16; a directory of safetensors is copied as it is.

    Args:
        model: a name or uri that `names.resolve_model` knows.

    Returns: bytes of the weights, chat_template (1 or 0).

    Raises:
        ValueError: the model cannot be found or loaded.
    """
    path = fetch_model(model)
    with output.writable() as directory:
        if path.suffix == ".gguf":
            language_model, tokenizer = _load_gguf(path)
            language_model.bfloat16().save_pretrained(directory)
            tokenizer.save_pretrained(directory)
        else:
            for pattern in _LANGUAGE_MODEL_FILES:
                for file in path.glob(pattern):
                    shutil.copyfile(file, directory / file.name)
            tokenizer = load_tokenizer(directory)
        monitor.params({"weights_digest": weights_digest(directory)})
        size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    return {"weights_bytes": float(size), "chat_template": float(tokenizer.chat_template is not None)}


def _load_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A dequantised causal language model and its tokenizer from one GGUF file."""
    with quiet_loading():
        language_model = AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            attn_implementation="sdpa",
            local_files_only=True,
        )
    return language_model.eval(), load_tokenizer(path.parent, gguf_file=path.name)


def _infer_spec(path: Path, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Fields of EncodingSpec that the model itself tells."""
    if (path / ENCODING_FILE).is_file():
        return read_spec(path).to_json()
    positions = longest_text(backbone) or _DEFAULT_LENGTH
    length = min(_DEFAULT_LENGTH, positions)
    inferred: dict[str, Any] = {
        "query_length": length,
        "document_length": length,
        "dimensions": backbone.config.hidden_size,
        "pooling": "mean",
    }
    if is_causal(backbone):
        # What a tokenizer appends already is not always its EOS (Qwen3-Embedding).
        end_token = appended_token(tokenizer) or tokenizer.eos_token
        inferred |= {"pooling": "last", "end_token": end_token, "attention": "causal"}
    if (path / "modules.json").is_file():
        inferred |= _read_sentence_transformers(path, positions, tokenizer.model_max_length)
    return inferred


def _read_sentence_transformers(path: Path, positions: int, tokenizer_length: int) -> dict[str, Any]:
    """Pooling, normalisation, length and prompts of a sentence-transformers directory.

    Raises:
        ValueError: it has a module or a pooling that an EncodingSpec cannot say.
    """
    found: dict[str, Any] = {"normalize": False}
    for module in _read_json(path / "modules.json"):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Pooling":
            config = _read_json(path / module["path"] / "config.json")
            found["pooling"] = _pooling(config)
            found["pool_template"] = config.get("include_prompt", True) or found["pooling"] not in OVER_TOKENS
        elif kind == "Dense":
            raise ValueError(
                f"{path} has a projection of its own (Dense), which is not imported; a recipe's encoding can train "
                "one (projection: linear or mlp)"
            )
        elif kind == "Normalize":
            found["normalize"] = True
        elif kind != "Transformer":
            raise ValueError(f"{path} has a sentence-transformers module {kind}, which is not supported")
    # Since its version 6 the length is the tokenizer's own.
    length = _read_json(path / "sentence_bert_config.json").get("max_seq_length") or tokenizer_length
    found |= {"query_length": min(length, positions), "document_length": min(length, positions)}
    prompts = _read_json(path / "config_sentence_transformers.json").get("prompts") or {}
    for side in ("query", "document"):
        if prompts.get(side):
            found[f"{side}_template"] = prompts[side] + "{text}"
    # Qwen3-Embedding's prompt: what stands between the two is the instruction, which a request may replace.
    instructed = _INSTRUCTED.fullmatch(prompts.get("query") or "")
    if instructed:
        found |= {"query_template": "Instruct: {instruction}\nQuery:{text}", "instruction": instructed[1]}
    return found


def _pooling(config: dict[str, Any]) -> Pooling:
    names: dict[str, Pooling] = {flag.removeprefix(_MODE): name for name, flag in POOLING_FLAGS.items()}
    # What its version 6 writes under pooling_mode.
    names |= {"cls": "cls", "mean": "mean", "max": "max", "weightedmean": "weighted_mean"}
    flags = [key.removeprefix(_MODE) for key, value in config.items() if value is True]
    modes = (
        [config["pooling_mode"]]
        if "pooling_mode" in config
        else [flag for flag in flags if flag != "include_prompt"]
    )
    if len(modes) != 1 or modes[0] not in names:
        raise ValueError(
            f"sentence-transformers pooling {modes} is not supported; one of {', '.join(names)} is"
        )
    return names[modes[0]]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
