import pytest
from filter_pairs import Watching, make_rows, write_pairs

from components.storage import Folder


@pytest.fixture
def monitor() -> Watching:
    return Watching()


@pytest.fixture
def rows() -> list[dict]:
    return make_rows()


@pytest.fixture
def pairs(tmp_path, rows) -> Folder:
    return write_pairs(Folder(str(tmp_path / "pairs")), rows)


@pytest.fixture
def output(tmp_path) -> Folder:
    return Folder(str(tmp_path / "out"))
