"""A model on disk: a directory that sentence-transformers, transformers and vLLM open as it is.

Beside their files stand `encoding.json` (EncodingSpec, digest of the weights, space id) and `golden.json`
(texts and their vectors, computed from what was written), by which whoever loads the directory can tell that
it computes the same vectors.
"""

import hashlib
import json
import mmap
import struct
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from components.model.agreement import ENCODING_FILE, GOLDEN_FILE, POOLING_FLAGS
from components.model.embedder import POOLING_FILE, Embedder, read_spec
from components.model.spec import EncodingSpec, PaddingSide
from components.model.tokens import plain

_GOLDEN_TEXTS = {
    "query": ["how to invert a matrix", "wie liest man eine Datei zeilenweise?", ""],
    "document": [
        "Compute the (multiplicative) inverse of a matrix.",
        "Return the indices of the elements that are non-zero.\n\nParameters\n----------\na : array_like",
        "word " * 2000,
    ],
}
"""Both sides, another language, white space, the empty text, and one that is cut."""

_ACTIVATIONS = {"linear": "linear.Identity", "mlp": "activation.Tanh"}


def save_model(
    directory: str | Path,
    config: PretrainedConfig,
    state_dict: Mapping[str, Tensor],
    spec: EncodingSpec,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Write a model directory from a full state dict of an Embedder; no module is needed.

    Golden vectors are computed in float32 from the written files, so they also prove that it loads. An encoding that
    sentence-transformers cannot say gets none of its files, rather than some by which it would compute other
    vectors.

    Args:
        directory: made if absent.
        config: the backbone's.
        state_dict: tensors by name, `backbone.` or `pooling.` in front; those of the backbone of one dtype, none
            sharded.
        tokenizer: appends the end token itself.
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    parts: dict[str, dict[str, Tensor]] = {"backbone": {}, "pooling": {}}
    for name, tensor in state_dict.items():
        part, _, own = name.partition(".")
        parts[part][own] = tensor
    save_weights(target, config, parts["backbone"])
    if parts["pooling"]:
        # The prefix stays: a backbone may have a tensor of the same name, and digest and merge go by names.
        _save_tensors(
            {f"pooling.{name}": tensor.float() for name, tensor in parts["pooling"].items()},
            target / POOLING_FILE,
        )
    save_tokenizer(target, tokenizer, spec.document_length, spec.padding_side, spec.end_token is not None)
    if said_by_sentence_transformers(spec):
        _save_sentence_transformers(target, config.hidden_size, spec, parts["pooling"])
    write_json(target / ENCODING_FILE, {"spec": spec.to_json()})
    seal(target)


def seal(directory: str | Path) -> None:
    """Say in a directory with its weights and its spec what they come to: digest, space id, golden vectors.

    Golden vectors are computed in float32 from the files.

    Raises:
        ValueError: the directory holds no model.
    """
    target = Path(directory)
    (target / GOLDEN_FILE).unlink(missing_ok=True)
    spec, digest = read_spec(target), weights_digest(target)
    write_json(
        target / ENCODING_FILE,
        {"spec": spec.to_json(), "weights_digest": digest, "space_id": spec.space_id(digest)},
    )
    write_json(target / GOLDEN_FILE, _golden(Embedder.load(target)))


def weights_digest(directory: str | Path) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors in the directory's safetensors files.

    The same for the same tensors, in however many files and in whatever order they stand.

    Raises:
        ValueError: there are no safetensors files.
    """
    tensors: dict[str, tuple[Path, str, int, int]] = {}
    for path in sorted(Path(directory).glob("*.safetensors")):
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(header_size))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                kind = json.dumps([name, entry["dtype"], entry["shape"]])
                tensors[name] = (path, kind, 8 + header_size + start, 8 + header_size + end)
    if not tensors:
        raise ValueError(f"{directory} holds no safetensors weights")
    digest = hashlib.sha256()
    for name in sorted(tensors):
        path, kind, start, end = tensors[name]
        digest.update(kind.encode())
        if end > start:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                digest.update(memoryview(content)[start:end])
    return digest.hexdigest()


def check_golden(embedder: Embedder, directory: str | Path, tolerance: float = 1e-3) -> float:
    """Compare what an embedder computes with the vectors that were recorded when the directory was written.

    Args:
        embedder: loaded from the directory, in any dtype.
        tolerance: greatest allowed 1 - cosine. float32 stays below 1e-5, bfloat16 below 1e-3.

    Returns: the greatest 1 - cosine found.

    Raises:
        ValueError: it is above the tolerance, or nothing was recorded.
    """
    path = Path(directory) / GOLDEN_FILE
    if not path.is_file():
        raise ValueError(f"{directory} holds no {GOLDEN_FILE}: its vectors cannot be checked")
    rows = json.loads(path.read_text("utf-8"))["rows"]
    worst = 0.0
    for side in ("query", "document"):
        recorded = [row for row in rows if row["side"] == side]
        expected_ND = np.array([row["vector"] for row in recorded], dtype=np.float64)
        found_ND = embedder.encode([row["text"] for row in recorded], side).astype(np.float64)
        if found_ND.shape != expected_ND.shape:
            raise ValueError(
                f"{side} vectors have {found_ND.shape[1]} dimensions, not {expected_ND.shape[1]} as recorded"
            )
        norms_N = np.linalg.norm(found_ND, axis=1) * np.linalg.norm(expected_ND, axis=1)
        distance_N = 1 - (found_ND * expected_ND).sum(1) / norms_N
        at = int(distance_N.argmax())
        if not distance_N[at] <= tolerance:
            raise ValueError(
                f"the {side} {recorded[at]['text'][:40]!r} does not get the vector recorded in {path}: "
                f"cosine {1 - distance_N[at]:.6f}, at least {1 - tolerance:.6f} is wanted"
            )
        worst = max(worst, float(distance_N[at]))
    return worst


def save_weights(target: Path, config: PretrainedConfig, state_dict: Mapping[str, Tensor]) -> None:
    """config.json and model.safetensors. Raises ValueError if the tensors differ in dtype."""
    dtypes = {tensor.dtype for tensor in state_dict.values() if tensor.is_floating_point()}
    if len(dtypes) != 1:
        raise ValueError(f"the weights must have one dtype; they have {sorted(map(str, dtypes))}")
    config = deepcopy(config)
    config.dtype = dtypes.pop()
    config.save_pretrained(target)
    _save_tensors(state_dict, target / "model.safetensors")


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    # clone: tied tensors share memory, which safetensors refuses; sorted: the same file for the same weights
    copies = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    save_file(copies, path, metadata={"format": "pt"})


def save_tokenizer(
    target: Path,
    tokenizer: PreTrainedTokenizerFast,
    length: int | None,
    padding_side: PaddingSide,
    as_it_is: bool = False,
) -> None:
    """The tokenizer's files.

    Args:
        length: tokens that it cuts at; None leaves what it says.
        as_it_is: its post-processor is not its class's own.
    """
    tokenizer.save_pretrained(target)
    # What a call left behind (cut, padding) is no part of the model.
    plain(tokenizer).save(str(target / "tokenizer.json"))
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    config |= {"padding_side": padding_side} | ({"model_max_length": length} if length else {})
    if as_it_is:
        # The class that reads tokenizer.json as it is; a model's own class may build its post-processor anew.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for leftover in (
        "is_local",
        "local_files_only",
        "max_length",
        "stride",
        "truncation_strategy",
        "pad_to_multiple_of",
    ):
        config.pop(leftover, None)
    write_json(path, dict(sorted(config.items())))


def said_by_sentence_transformers(spec: EncodingSpec) -> bool:
    """Whether its modules can compute these vectors: it has no text behind the query and no trainable pooling."""
    behind = spec.suffix("query") or spec.suffix("document")
    return spec.pooling in POOLING_FLAGS and not behind and spec.attention != "bidirectional"


def _save_sentence_transformers(
    target: Path, hidden_size: int, spec: EncodingSpec, pooling_weights: Mapping[str, Tensor]
) -> None:
    """The files of sentence-transformers, with the module names that its versions 2 to 6 and vLLM know."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if spec.projection != "none":
        modules.append(("2_Dense", "Dense"))
    if spec.normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    write_json(
        target / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ],
    )
    pooling: dict[str, Any] = {"word_embedding_dimension": hidden_size}
    pooling |= {flag: spec.pooling == name for name, flag in POOLING_FLAGS.items()}
    write_json(target / "1_Pooling" / "config.json", pooling | {"include_prompt": spec.pool_template})
    for path, kind in modules[2:]:
        write_json(target / path / "config.json", _dense(spec, hidden_size) if kind == "Dense" else {})
        if kind == "Dense":
            dense = {
                f"linear.{name.rpartition('.')[2]}": tensor.float()
                for name, tensor in pooling_weights.items()
                if name.startswith("projection.")
            }
            _save_tensors(dense, target / path / "model.safetensors")
    write_json(
        target / "sentence_bert_config.json", {"max_seq_length": spec.document_length, "do_lower_case": False}
    )
    write_json(
        target / "config_sentence_transformers.json",
        {
            "prompts": {"query": spec.prefix("query"), "document": spec.prefix("document")},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def _dense(spec: EncodingSpec, hidden_size: int) -> dict[str, Any]:
    return {
        "in_features": hidden_size,
        "out_features": spec.projection_dimensions or hidden_size,
        "bias": spec.projection == "mlp",
        "activation_function": f"torch.nn.modules.{_ACTIVATIONS[spec.projection]}",
    }


def _golden(embedder: Embedder) -> dict[str, Any]:
    rows = []
    for side in ("query", "document"):
        texts = _GOLDEN_TEXTS[side]
        for text, vector_D in zip(texts, embedder.encode(texts, side), strict=True):
            rows.append(
                {"side": side, "text": text, "vector": [round(float(value), 8) for value in vector_D]}
            )
    return {"spec": embedder.spec.to_json(), "rows": rows}


def write_json(path: Path, value: Any) -> None:
    """Indented, for people to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
