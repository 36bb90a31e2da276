"""One immutable version of a model as it is served, and where its files are."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from components.serving.calls import Kind
from components.serving.errors import ModelRefusedError


@dataclass(frozen=True)
class Release:
    """What a replica is told to serve. Its fields are an argument of its Serve application.

    Attributes:
        model: the name that clients use.
        version: the version's number in the registry, or `local` for a plain directory.
        uri: local directory, or an artifact URI that MLflow downloads.
        digest: of the weights (`export.weights_digest`).
        tracking_uri: the MLflow server that serves `uri`; None for a local directory.
        kind: embedding or reranker.
    """

    model: str
    version: str
    uri: str
    digest: str
    tracking_uri: str | None = None
    kind: Kind = "embedding"

    @property
    def application(self) -> str:
        """Name of the Serve application that serves it: one a version, so that two run side by side."""
        return f"{self.model}-{self.version}-{self.digest[:8]}"


def fetch(release: Release) -> Path:
    """The release's files as a local directory: where they are, or a cached download.

    The cache is `$XDG_CACHE_HOME/embedloom/models`, by digest of weights and by version, filled atomically.

    Raises:
        ModelRefusedError: the files are not there.
    """
    if release.tracking_uri is None and urlsplit(release.uri).scheme in ("", "file"):
        directory = Path(urlsplit(release.uri).path)
        if not directory.is_dir():
            raise ModelRefusedError(f"the directory {directory} of {release.model} is not there")
        return directory
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedloom" / "models"
    target = root / f"{release.model}-{release.version}-{release.digest[:16]}"
    if target.is_dir():
        return target
    # Here, and not above: a replica that serves a directory needs no MLflow, which takes seconds to import.
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
        try:
            downloaded = download_artifacts(
                artifact_uri=release.uri, dst_path=temporary, tracking_uri=release.tracking_uri
            )
        except (MlflowException, OSError) as error:
            raise ModelRefusedError(
                f"version {release.version} of {release.model} cannot be had from {release.uri}: {error}"
            ) from error
        shutil.rmtree(Path(downloaded) / "evaluation", ignore_errors=True)
        try:
            os.rename(downloaded, target)
        except OSError:
            if not target.is_dir():  # else somebody else was faster
                raise
    return target
