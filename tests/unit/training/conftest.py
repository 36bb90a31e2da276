from pathlib import Path

import pytest
from tiny_model import write_tiny_model


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


@pytest.fixture
def dropout_model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model", dropout=0.1)
