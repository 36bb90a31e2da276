"""A virtual environment of a peer's own: outside the checkout, one for each list of requirements.

It stands beside the project's environments (`cluster/local/venv.sh`: EMBEDLOOM_VENVS) and is built as they are: under
a lock, complete or not there, and kept for the next run.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def peer_python(name: str, requirements: Sequence[str]) -> Path:
    """The Python of an environment with these requirements, as pip takes them; built the first time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    venvs = Path(os.environ.get("EMBEDLOOM_VENVS") or cache / "embedloom" / "venvs")
    key = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:16]
    venv = venvs / f"{name}-{key}"
    python = venv / "bin" / "python"
    venvs.mkdir(parents=True, exist_ok=True)
    with (venvs / f"{venv.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (venv / "complete").exists():
            print(f"building an environment with {name} (some minutes, once): {venv}", file=sys.stderr)
            shutil.rmtree(venv, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
            (venv / "complete").touch()
    return python
