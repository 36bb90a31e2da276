"""Vectors in databases, by their own clients: all rows, found again, and old ones until the new are there."""

import json
import shutil
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from qdrant_client import QdrantClient, models
from tiny_model import write_tiny_model
from typer.testing import CliRunner

from components.monitor import Silent
from components.search.bulk import embed_again, embed_table, is_current
from components.search.coded import Form
from components.search.indexes.place import Place
from components.storage import Folder
from workflows.cli import app

ROWS = [{"_id": f"d{n}", "text": " ".join(f"w{(n * k) % 200}" for k in range(1, 9))} for n in range(50)]


class BrokenOff(Silent):
    """Ends the writing when the first vectors are in the database."""

    def progress(self, done: float, total: float | None, unit: str, **facts: float) -> None:
        if unit == "vectors":
            raise RuntimeError("broken off")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(str(write_tiny_model(tmp_path_factory.mktemp("model"))))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    write_rows(path, ROWS)
    return path


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def embed(source: Path, model: Folder, output: Path, **more) -> dict:
    settings = {"name": "tiny", "rows_per_shard": 8, "monitor": Silent(), **more}
    return embed_table(source=str(source), model=model, output=Folder(str(output)), **settings)


@pytest.fixture
def expected(source: Path, model: Folder, tmp_path: Path) -> np.ndarray:
    """What the Parquet files hold, which tests/unit/search/test_bulk.py compares with the embedder."""
    embed(source, model, tmp_path / "parquet")
    column = Folder(str(tmp_path / "parquet")).read_table("vectors")["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(ROWS), -1)


# ---- LanceDB


def test_lancedb_gets_every_row_and_finds_each_by_its_vector(source, model, tmp_path, expected):
    facts = embed(source, model, tmp_path / "out", target="lancedb")
    table = lancedb.connect(tmp_path / "out" / "lancedb").open_table("documents")
    rows = table.to_arrow().to_pylist()
    assert [(row["id"], row["text"]) for row in rows] == [(row["_id"], row["text"]) for row in ROWS]
    np.testing.assert_array_equal(np.array([row["vector"] for row in rows], dtype=np.float32), expected)
    for number in (0, 17, 49):
        [found] = table.search(expected[number]).distance_type("dot").limit(1).to_list()
        assert found["id"] == f"d{number}"
    assert json.loads(table.schema.metadata[b"embedloom"])["space_id"] == facts["space_id"]


def test_lancedb_finds_bits_by_hamming_distance(source, model, tmp_path, expected):
    embed(source, model, tmp_path / "out", target="lancedb", form=Form(precision="binary"))
    table = lancedb.connect(tmp_path / "out" / "lancedb").open_table("documents")
    bits = np.packbits(expected[3] > 0)
    [found] = table.search(bits).distance_type("hamming").limit(1).to_list()
    assert found["_distance"] == 0
    assert found["vector"] == bits.tolist()


def test_lancedb_keeps_its_rows_until_all_new_ones_are_there(source, model, tmp_path):
    place = Place(str(tmp_path / "database"), "passages")
    facts = embed(source, model, tmp_path / "first", target="lancedb", place=place)
    write_rows(source, ROWS[:30])

    def again(monitor: Silent) -> dict:
        return embed_again(facts, model=model, output=Folder(str(tmp_path / "second")), monitor=monitor)

    def count() -> int:
        return lancedb.connect(place.at).open_table("passages").count_rows()

    with pytest.raises(RuntimeError, match="broken off"):
        again(BrokenOff())
    assert count() == len(ROWS)
    assert again(Silent())["rows"] == count() == 30


def test_a_table_of_somebody_else_is_left_alone(source, model, tmp_path):
    database = lancedb.connect(tmp_path / "database")
    database.create_table("documents", pa.table({"id": ["theirs"]}))
    with pytest.raises(ValueError, match="'documents' that embedloom did not write: choose another --table"):
        embed(source, model, tmp_path / "out", target="lancedb", place=Place(str(tmp_path / "database")))
    assert database.open_table("documents").to_arrow().to_pylist() == [{"id": "theirs"}]


# ---- Qdrant, by its client's own engine


def test_qdrant_gets_every_row_and_finds_each_by_its_vector(source, model, tmp_path, expected):
    facts = embed(source, model, tmp_path / "out", target="qdrant")
    client = QdrantClient(path=str(tmp_path / "out" / "qdrant"))
    points, _ = client.scroll("documents", limit=100, with_vectors=True)
    assert {point.payload["id"]: point.payload["text"] for point in points} == {
        row["_id"]: row["text"] for row in ROWS
    }
    for point in points:
        np.testing.assert_allclose(point.vector, expected[int(point.payload["id"][1:])], atol=1e-6)
    [found] = client.query_points("documents", expected[17].tolist(), limit=1).points
    assert found.payload["id"] == "d17"
    assert found.score == pytest.approx(1)
    assert client.get_collection("documents").config.metadata["embedloom"]["space_id"] == facts["space_id"]
    client.close()


def test_qdrants_alias_moves_when_all_points_are_there_and_the_old_ones_stay(source, model, tmp_path):
    place = Place(str(tmp_path / "database"), "passages")
    facts = embed(source, model, tmp_path / "first", target="qdrant", place=place)
    write_rows(source, ROWS[:30])

    def count() -> int:
        client = QdrantClient(path=place.at)
        counted = client.count("passages").count
        client.close()
        return counted

    def again(monitor: Silent) -> dict:
        return embed_again(facts, model=model, output=Folder(str(tmp_path / "second")), monitor=monitor)

    with pytest.raises(RuntimeError, match="broken off"):
        again(BrokenOff())
    assert count() == len(ROWS)
    again(Silent())
    assert count() == 30
    client = QdrantClient(path=place.at)
    assert len(client.get_collections().collections) == 2
    client.close()


def test_qdrant_says_in_a_sentence_what_is_wrong_before_anything_is_computed(source, model, tmp_path):
    with pytest.raises(ValueError, match=r"Qdrant at http://127\.0\.0\.1:1: .*[Cc]onnection"):
        embed(source, model, tmp_path / "out", target="qdrant", place=Place("http://127.0.0.1:1"))
    client = QdrantClient(path=str(tmp_path / "database"))
    size = models.VectorParams(size=4, distance=models.Distance.DOT)
    client.create_collection("documents", vectors_config=size)
    client.close()
    with pytest.raises(
        ValueError, match="has a collection 'documents', where an alias of that name is to be"
    ):
        embed(source, model, tmp_path / "out", target="qdrant", place=Place(str(tmp_path / "database")))
    assert not (tmp_path / "out" / "work").exists()


@pytest.mark.parametrize(
    ("target", "more", "said"),
    [
        ("lancedb", {"form": Form(precision="int8")}, "LanceDB keeps float32 vectors, or binary ones"),
        ("qdrant", {"form": Form(precision="binary")}, "Qdrant quantises by itself"),
        ("parquet", {"place": Place("http://127.0.0.1:6333")}, "--at and --table are of databases"),
        ("faiss", {"place": Place(table="passages")}, "--at and --table are of databases"),
    ],
)
def test_what_an_index_cannot_do_is_said(target, more, said, source, model, tmp_path):
    with pytest.raises(ValueError, match=said):
        embed(source, model, tmp_path / "out", target=target, **more)


# ---- embedloom reindex


def test_reindex_does_nothing_until_rows_or_model_are_others(source, model, tmp_path):
    directory = tmp_path / "champion"
    shutil.copytree(model.path(), directory)

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout.replace("\n", " ")

    call("embed", str(source), "-m", str(directory), "-o", f"{tmp_path}/1", "--dimensions", "16")
    earlier = json.loads((tmp_path / "1" / "embedding.json").read_text())
    assert "nothing to do" in call("reindex", f"{tmp_path}/1", "-o", f"{tmp_path}/2")
    assert not (tmp_path / "2").exists()

    write_rows(source, ROWS[:30])
    assert not is_current(earlier, Folder(str(directory)))
    assert "30 vectors, 16 dimensions" in call("reindex", f"{tmp_path}/1", "-o", f"{tmp_path}/2")
    shutil.rmtree(directory)
    write_tiny_model(directory, seed=1)
    said = call("reindex", f"{tmp_path}/2", "-o", f"{tmp_path}/3")
    after = json.loads((tmp_path / "3" / "embedding.json").read_text())
    assert after["space_id"] != earlier["space_id"]
    assert after["space_id"] in said
    assert earlier["space_id"] in said
    assert json.loads((tmp_path / "2" / "embedding.json").read_text())["space_id"] == earlier["space_id"]


def test_reindex_of_a_folder_without_vectors_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="it is not what `embed` wrote, or not finished"):
        CliRunner().invoke(app, ["reindex", str(tmp_path), "-o", f"{tmp_path}/new"], catch_exceptions=False)
