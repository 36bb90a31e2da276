import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.corpus.tables import (
    TableWriter,
    count_rows,
    has_table,
    pieces_of,
    read_batches,
    read_piece,
)
from components.storage import Folder

SCHEMA = pa.schema([("n", pa.int64()), ("text", pa.string())])


def numbered(first, rows, text="x"):
    return pa.table({"n": np.arange(first, first + rows), "text": [text] * rows}, schema=SCHEMA)


def test_one_file_and_shards_read_alike(tmp_path):
    one, many = Folder(str(tmp_path / "one")), Folder(str(tmp_path / "many"))
    one.write_table("t.parquet", numbered(0, 5000))
    for shard, first in enumerate(range(0, 5000, 500)):
        many.write_table(f"t.parquet/{shard:05d}.parquet", numbered(first, 500))
    for folder in (one, many):
        assert count_rows(folder, "t.parquet") == 5000
        batches = list(read_batches(folder, "t.parquet"))
        assert pa.concat_tables(batches)["n"].to_pylist() == list(range(5000))
        assert max(batch.num_rows for batch in batches) <= 1024
        read = [batch for piece in pieces_of(folder, "t.parquet") for batch in read_piece(piece)]
        assert pa.concat_tables(read).equals(pa.concat_tables(batches))
    assert len(pieces_of(one, "t.parquet")) == 2  # row groups of 4096


def test_pieces_know_their_place(tmp_path):
    folder = Folder(str(tmp_path))
    for shard, (first, rows) in enumerate([(0, 3000), (3000, 10), (3010, 0), (3010, 4000)]):
        with TableWriter(folder, f"t.parquet/{shard}.parquet", SCHEMA) as writer:
            writer.write(numbered(first, rows))
    pieces = pieces_of(folder, "t.parquet")
    assert [piece.number for piece in pieces] == list(range(len(pieces)))
    for piece in pieces:
        rows = pa.concat_tables(read_piece(piece))
        assert rows["n"].to_pylist() == list(range(piece.first_row, piece.first_row + piece.rows))
    assert sum(piece.rows for piece in pieces) == 7010


def test_long_rows_are_read_and_written_few_at_a_time(tmp_path):
    folder = Folder(str(tmp_path))
    texts = [chr(97 + n) * 3_000_000 + str(np.random.default_rng(n).bytes(200_000)) for n in range(20)]
    with TableWriter(folder, "t.parquet", SCHEMA) as writer:
        for number, text in enumerate(texts):
            writer.write(pa.table({"n": [number], "text": [text]}, schema=SCHEMA))
    metadata = pq.ParquetFile(folder.path("t.parquet")).metadata
    assert max(metadata.row_group(g).total_byte_size for g in range(metadata.num_row_groups)) < 24 * 2**20
    batches = list(read_batches(folder, "t.parquet"))
    assert max(batch.nbytes for batch in batches) < 24 * 2**20
    assert pa.concat_tables(batches)["text"].to_pylist() == texts


def test_a_writer_that_was_given_nothing_leaves_no_file(tmp_path):
    folder = Folder(str(tmp_path))
    with TableWriter(folder, "none.parquet", SCHEMA):
        pass
    with TableWriter(folder, "empty.parquet", SCHEMA) as writer:
        writer.write(SCHEMA.empty_table())
    assert not has_table(folder, "none.parquet")
    assert has_table(folder, "empty.parquet")
    assert count_rows(folder, "empty.parquet") == 0
    assert [batch for batch in read_batches(folder, "empty.parquet") if batch.num_rows] == []
    assert pieces_of(folder, "empty.parquet") == []


def test_columns_that_are_not_there_are_left_out(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write_table("t.parquet", numbered(0, 3))
    [batch] = read_batches(folder, "t.parquet", ["n", "title"])
    assert batch.column_names == ["n"]
