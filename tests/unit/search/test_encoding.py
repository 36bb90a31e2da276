"""Texts in files to vectors in files: what is said of how far it is."""

from dataclasses import dataclass, field

import pyarrow as pa
from tiny_model import write_tiny_model

from components.monitor import Silent
from components.search.encoding import encode_shards
from components.search.shards import write_tables
from components.storage import Folder


@dataclass(frozen=True)
class Heard(Silent):
    said: list = field(default_factory=list)

    def progress(self, done, total, unit, **facts):
        self.said.append((done, total, unit))


def test_progress_moves_within_a_file_and_goes_on_after_a_crash(tmp_path):
    model = write_tiny_model(tmp_path / "tiny")
    texts = pa.table({"text": [f"w{n} w{n + 1}" for n in range(50)]})
    table = write_tables(iter([texts]), Folder(str(tmp_path / "texts")), 32)
    vectors, heard = Folder(str(tmp_path / "vectors")), Heard()

    def encode():
        heard.said.clear()
        encode_shards(table, "document", Folder(str(model)), vectors, heard, tokens_per_batch=32)
        assert {(total, unit) for _, total, unit in heard.said} == {(50, "texts")}
        return [done for done, _, _ in heard.said]

    whole = encode()
    assert (whole[0], whole[-1]) == (0, 50)
    assert whole == sorted(whole)
    assert any(0 < done < 32 for done in whole)
    assert any(32 < done < 50 for done in whole)

    vectors.delete(sorted(vectors.names())[0])
    again = encode()
    assert (again[0], again[-1]) == (18, 50)
    assert any(18 < done < 50 for done in again)
