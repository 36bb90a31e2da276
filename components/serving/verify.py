"""Whether a model directory is what it should be: its files, the digest of its weights, golden vectors."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from components.model.agreement import ENCODING_FILE, GOLDEN_FILE
from components.model.embedder import ComputePrecision, Embedder
from components.model.export import check_golden, weights_digest
from components.model.inference import inference_embedder, inference_reranker
from components.model.reranker import Reranker
from components.model.reranker_export import check_golden_scores
from components.serving.calls import Kind
from components.serving.errors import ModelRefusedError
from components.serving.release import Release

# Formats that run code when they are read, and code.
_UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".py")
GOLDEN_TOLERANCE: dict[ComputePrecision, float] = {"float32": 1e-4, "bfloat16": 2e-3, "int8": 3e-2}
"""Greatest 1 - cosine. float32 against float32: only the order of summation differs."""
SCORE_TOLERANCE: dict[ComputePrecision, float] = {"float32": 1e-3, "bfloat16": 3e-2, "int8": 1e-1}
"""Greatest difference of two probabilities."""


def from_directory(directory: Path) -> Release:
    """A plain model directory as a release, under its own name: an embedder, or a reranker without encoding.json.

    Raises:
        ModelRefusedError: it is no model directory, or holds a pickle.
    """
    kind: Kind = "embedding" if (directory / ENCODING_FILE).is_file() else "reranker"
    path = directory.resolve()
    check_files(path, kind)
    return Release(path.name, "local", str(path), weights_digest(path), kind=kind)


def check_files(directory: Path, kind: Kind = "embedding") -> None:
    """Refuse a directory that is no model, or that holds a file whose reading could run code.

    Raises:
        ModelRefusedError: naming the file.
    """
    files = ("config.json", "tokenizer.json") + ((ENCODING_FILE, GOLDEN_FILE) if kind == "embedding" else ())
    for name in files:
        if not (directory / name).is_file():
            raise ModelRefusedError(f"{directory} is no model directory of embedloom: {name} is missing")
    if not any(directory.glob("*.safetensors")):
        raise ModelRefusedError(f"{directory} is no model directory of embedloom: it holds no safetensors")
    unsafe = sorted(path.name for path in directory.rglob("*") if path.suffix in _UNSAFE)
    if unsafe:
        raise ModelRefusedError(f"{directory} holds {unsafe[0]}: only safetensors are served, and no code")
    if "auto_map" in json.loads((directory / "config.json").read_text("utf-8")):
        raise ModelRefusedError(f"{directory}/config.json asks for code of its own (auto_map): none is run")


def check_release(directory: Path, release: Release) -> None:
    """Whether the files are those of a release.

    Raises:
        ModelRefusedError: unsafe files, or another digest than the release's.
    """
    check_files(directory, release.kind)
    digest = weights_digest(directory)
    if digest != release.digest:
        raise ModelRefusedError(
            f"the weights of {release.model} version {release.version} in {directory} have digest "
            f"{digest[:16]}, registered was {release.digest[:16]}: delete it to have it fetched again"
        )


def load_verified(
    directory: Path,
    release: Release,
    precision: ComputePrecision = "float32",
    device: str = "cpu",
) -> Embedder:
    """Load an embedder after its files, and before its vectors, have been checked.

    Raises:
        ModelRefusedError: unsafe files, another digest than the release's, or not the golden vectors.
    """
    check_release(directory, release)
    try:
        embedder = inference_embedder(directory, precision, device)
        check_golden(embedder, directory, tolerance=GOLDEN_TOLERANCE[precision])
    except (ValueError, RuntimeError, MemoryError) as error:
        raise _refused(release, error) from error
    return embedder


def load_verified_reranker(
    directory: Path,
    release: Release,
    precision: ComputePrecision = "float32",
    device: str = "cpu",
) -> Reranker:
    """Load a reranker after its files, and before its scores, have been checked.

    A registered version must have golden scores; a directory from elsewhere may have none.

    Raises:
        ModelRefusedError: unsafe files, another digest than the release's, or not the golden scores.
    """
    check_release(directory, release)
    recorded = (directory / GOLDEN_FILE).is_file()
    if not recorded and release.tracking_uri is not None:
        raise ModelRefusedError(f"{release.model} version {release.version} has no {GOLDEN_FILE}")
    try:
        reranker = inference_reranker(directory, precision, device)
        if recorded:
            check_golden_scores(reranker, directory, SCORE_TOLERANCE[precision])
    except (ValueError, RuntimeError, MemoryError) as error:
        raise _refused(release, error) from error
    return reranker


def compare_with_golden(
    encode: Callable[[list[str], str], np.ndarray], directory: Path, release: Release, tolerance: float
) -> None:
    """Hold vectors from elsewhere (another engine, a service) against a model directory's golden vectors.

    Args:
        encode: texts and their side to vectors [N, D].

    Raises:
        ModelRefusedError: a cosine is below 1 - tolerance, or the dimensions differ.
    """
    rows = json.loads((directory / GOLDEN_FILE).read_text("utf-8"))["rows"]
    for side in sorted({row["side"] for row in rows}):
        # An endpoint takes no empty text; its golden vector was checked when the model was loaded.
        recorded = [row for row in rows if row["side"] == side and row["text"]]
        expected_ND = np.array([row["vector"] for row in recorded], dtype=np.float64)
        found_ND = np.asarray(encode([row["text"] for row in recorded], side), dtype=np.float64)
        if found_ND.shape != expected_ND.shape:
            raise _refused(
                release, ValueError(f"vectors have shape {found_ND.shape}, not {expected_ND.shape}")
            )
        norms_N = np.linalg.norm(found_ND, axis=1) * np.linalg.norm(expected_ND, axis=1)
        cosine_N = (found_ND * expected_ND).sum(1) / norms_N
        at = int(cosine_N.argmin())
        if not cosine_N[at] >= 1 - tolerance:
            text = recorded[at]["text"][:40]
            raise _refused(
                release,
                ValueError(f"the {side} {text!r} has cosine {cosine_N[at]:.6f} with its golden vector"),
            )


def compare_with_golden_scores(
    score: Callable[[list[str], list[str]], Sequence[float] | np.ndarray],
    directory: Path,
    release: Release,
    tolerance: float,
) -> None:
    """Hold scores from elsewhere against a reranker's golden scores, where it has any.

    Args:
        score: queries and documents to probabilities [N].

    Raises:
        ModelRefusedError: one differs by more than the tolerance.
    """
    path = directory / GOLDEN_FILE
    if not path.is_file():
        return
    rows = json.loads(path.read_text("utf-8"))["rows"]
    found_N = np.asarray(score([row["query"] for row in rows], [row["document"] for row in rows]))
    apart = float(np.abs(found_N - np.array([row["score"] for row in rows])).max())
    if not apart <= tolerance:
        raise _refused(release, ValueError(f"its scores are up to {apart:.4f} off the golden ones"))


def _refused(release: Release, error: Exception) -> ModelRefusedError:
    words = str(error).strip().splitlines()
    reason = words[0] if words else type(error).__name__
    return ModelRefusedError(f"{release.model} version {release.version} is refused: {reason}")
