"""A fresh interpreter, for what holds only before anything is imported."""

import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def python() -> Callable[[str], str]:
    """What a piece of code prints in a new process."""

    def python(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return done.stdout

    return python
