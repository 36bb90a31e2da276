"""Whether a model directory is what it should be: its files, the digest of its weights, golden vectors."""

from pathlib import Path

from components.model.embedder import Embedder
from components.model.export import check_golden, weights_digest
from components.serving.errors import ModelRefusedError
from components.serving.release import Release

# Formats that run code when they are read, and code.
_UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".py")
# float32 against float32, so only the order of summation differs.
_GOLDEN_TOLERANCE = 1e-4


def from_directory(directory: Path) -> Release:
    """A plain model directory as a release, under its own name.

    Raises:
        ModelRefusedError: it is no model directory of embedloom, or holds a pickle.
    """
    check_files(directory)
    path = directory.resolve()
    return Release(path.name, "local", str(path), weights_digest(path))


def check_files(directory: Path) -> None:
    """Refuse a directory that is no model, or that holds a file whose reading could run code.

    Raises:
        ModelRefusedError: naming the file.
    """
    for name in ("config.json", "model.safetensors", "encoding.json", "golden.json"):
        if not (directory / name).is_file():
            raise ModelRefusedError(f"{directory} is no model directory of embedloom: {name} is missing")
    unsafe = sorted(path.name for path in directory.rglob("*") if path.suffix in _UNSAFE)
    if unsafe:
        raise ModelRefusedError(f"{directory} holds {unsafe[0]}: only safetensors are served, and no code")


def load_verified(directory: Path, release: Release) -> Embedder:
    """Load a release in float32, after its files and before its vectors have been checked.

    Raises:
        ModelRefusedError: unsafe files, another digest than the release's, or not the golden vectors.
    """
    check_files(directory)
    digest = weights_digest(directory)
    if digest != release.digest:
        raise ModelRefusedError(
            f"the weights of {release.model} version {release.version} in {directory} have digest "
            f"{digest[:16]}, registered was {release.digest[:16]}: delete it to have it fetched again"
        )
    embedder = Embedder.load(directory)
    try:
        check_golden(embedder, directory, tolerance=_GOLDEN_TOLERANCE)
    except ValueError as error:
        raise ModelRefusedError(f"{release.model} version {release.version} is refused: {error}") from error
    return embedder
