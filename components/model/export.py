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

from components.model.embedder import ENCODING_FILE, Embedder
from components.model.spec import EncodingSpec
from components.model.tokens import plain

GOLDEN_FILE = "golden.json"
_GOLDEN_TEXTS = {
    "query": ["how to invert a matrix", "wie liest man eine Datei zeilenweise?", ""],
    "document": [
        "Compute the (multiplicative) inverse of a matrix.",
        "Return the indices of the elements that are non-zero.\n\nParameters\n----------\na : array_like",
        "word " * 2000,
    ],
}
"""Both sides, another language, white space, the empty text, and one that is cut."""

_ST_POOLING = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "last": "pooling_mode_lasttoken",
}


def save_model(
    directory: str | Path,
    config: PretrainedConfig,
    state_dict: Mapping[str, Tensor],
    spec: EncodingSpec,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Write a model directory from a full state dict of the backbone; no module is needed.

    Golden vectors are computed in float32 from the written files, so they also prove that it loads.

    Args:
        directory: made if absent.
        config: the backbone's.
        state_dict: the backbone's tensors by name (no `backbone.` prefix), of one dtype, none sharded.
        tokenizer: appends the end token itself.
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    _save_weights(target, config, state_dict)
    _save_tokenizer(target, tokenizer, spec)
    _save_sentence_transformers(target, config.hidden_size, spec)
    digest = weights_digest(target)
    _write_json(
        target / ENCODING_FILE,
        {"spec": spec.to_json(), "weights_digest": digest, "space_id": spec.space_id(digest)},
    )
    _write_json(target / GOLDEN_FILE, _golden(Embedder.load(target)))


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


def _save_weights(target: Path, config: PretrainedConfig, state_dict: Mapping[str, Tensor]) -> None:
    dtypes = {tensor.dtype for tensor in state_dict.values() if tensor.is_floating_point()}
    if len(dtypes) != 1:
        raise ValueError(f"the weights must have one dtype; they have {sorted(map(str, dtypes))}")
    config = deepcopy(config)
    config.dtype = dtypes.pop()
    config.save_pretrained(target)
    # clone: tied tensors share memory, which safetensors refuses; sorted: the same file for the same weights
    tensors = {name: state_dict[name].detach().cpu().contiguous().clone() for name in sorted(state_dict)}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _save_tokenizer(target: Path, tokenizer: PreTrainedTokenizerFast, spec: EncodingSpec) -> None:
    tokenizer.save_pretrained(target)
    # What a call left behind (cut, padding) is no part of the model.
    plain(tokenizer).save(str(target / "tokenizer.json"))
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    config |= {"model_max_length": spec.document_length, "padding_side": spec.padding_side}
    if spec.end_token is not None:
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
    _write_json(path, dict(sorted(config.items())))


def _save_sentence_transformers(target: Path, hidden_size: int, spec: EncodingSpec) -> None:
    """The files of sentence-transformers, with the module names that its versions 2 to 6 and vLLM know."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if spec.normalize:
        modules.append(("2_Normalize", "Normalize"))
    _write_json(
        target / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ],
    )
    pooling: dict[str, Any] = {"word_embedding_dimension": hidden_size}
    pooling |= {flag: spec.pooling == name for name, flag in _ST_POOLING.items()}
    _write_json(target / "1_Pooling" / "config.json", pooling | {"include_prompt": True})
    if spec.normalize:
        _write_json(target / "2_Normalize" / "config.json", {})
    _write_json(
        target / "sentence_bert_config.json", {"max_seq_length": spec.document_length, "do_lower_case": False}
    )
    _write_json(
        target / "config_sentence_transformers.json",
        {
            "prompts": {"query": spec.prefix("query"), "document": spec.prefix("document")},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def _golden(embedder: Embedder) -> dict[str, Any]:
    rows = []
    for side in ("query", "document"):
        texts = _GOLDEN_TEXTS[side]
        for text, vector_D in zip(texts, embedder.encode(texts, side), strict=True):
            rows.append(
                {"side": side, "text": text, "vector": [round(float(value), 8) for value in vector_D]}
            )
    return {"rows": rows}


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
