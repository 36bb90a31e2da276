"""Vectors of whole tables: the same from every kind of file, whole after an interruption, as an index takes them."""

import csv
import json
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_model import write_tiny_model
from typer.testing import CliRunner

from components.model.embedder import Embedder
from components.monitor import Silent
from components.search import encoding
from components.search.bulk import embed_table
from components.search.coded import Form
from components.search.quantise import ranges_of, to_bits, to_int8
from components.storage import Folder
from workflows.cli import app

ROWS = [
    {"_id": f"d{n}", "title": f"w{n}", "text": " ".join(f"w{(n * k) % 200}" for k in range(1, 9))}
    for n in range(50)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(str(write_tiny_model(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def expected(model: Folder) -> np.ndarray:
    """Row by row by the embedder itself."""
    embedder = Embedder.load(model.path())
    with torch.inference_mode():
        vectors = [embedder.encode([f"{row['title']} {row['text']}"], "document")[0] for row in ROWS]
    return np.stack(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def embed(source: str, model: Folder, output: Path, **more) -> dict:
    settings = {"name": "tiny", "rows_per_shard": 8, "monitor": Silent(), **more}
    return embed_table(source=source, model=model, output=Folder(str(output)), **settings)


def read_vectors(output: Folder) -> tuple[list[str], np.ndarray]:
    """Ids and vectors, or codes, [N, ...] of a finished folder."""
    table = output.read_table("vectors")
    column = table["vector"].combine_chunks()
    return table["id"].to_pylist(), column.flatten().to_numpy().reshape(len(column), -1)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv", "tsv", "beir"])
def test_every_kind_of_table_gives_the_vectors_of_the_embedder(kind, tmp_path, model, expected):
    path = tmp_path / f"rows.{kind}"
    rows = [*ROWS[:7], {"_id": "empty", "title": "", "text": "  "}, {**ROWS[0], "_id": ""}, *ROWS[7:]]
    match kind:
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case "csv" | "tsv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
                writer.writeheader()
                writer.writerows(rows)
        case "beir":
            (path / "qrels").mkdir(parents=True)
            (path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (path / "queries.jsonl").write_text('{"_id": "q", "text": "a query"}\n')
            (path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
    facts = embed(str(path), model, tmp_path / "out")
    ids, vector_ND = read_vectors(Folder(str(tmp_path / "out")))
    assert ids == [row["_id"] for row in ROWS]
    np.testing.assert_allclose(vector_ND, expected, atol=1e-5)
    [file] = (tmp_path / "out" / "vectors").glob("*.parquet")
    inside = json.loads(pq.read_schema(file).metadata[b"embedloom"])
    written = json.loads((tmp_path / "out" / "embedding.json").read_text())
    assert inside == written == facts
    assert facts["space_id"] == json.loads(model.read("encoding.json"))["space_id"]
    assert not (tmp_path / "out" / "work").exists()
    gone = pq.read_table(tmp_path / "out" / "rejected" / "rows.parquet").to_pylist()
    assert [(row["id"], row["reason"]) for row in gone] == [("empty", "no_text"), (None, "no_id")]


def test_an_interrupted_embedding_goes_on_and_is_the_same(tmp_path, model, source, expected, monkeypatch):
    encoded: list[int] = []
    whole = encoding._Encoder.__call__

    def call(self, shard: int) -> None:
        if len(encoded) == 3:
            raise KeyboardInterrupt
        encoded.append(shard)
        whole(self, shard)

    monkeypatch.setattr(encoding._Encoder, "__call__", call)
    with pytest.raises(KeyboardInterrupt):
        embed(source, model, tmp_path / "out")
    with pytest.raises(ValueError, match=r"their side is \"document\", not \"query\""):
        embed(source, model, tmp_path / "out", side="query")
    encoded.insert(0, -1)  # four calls now: it is let through
    facts = embed(source, model, tmp_path / "out")
    assert encoded == [-1, *range(7)]  # none twice
    np.testing.assert_allclose(read_vectors(Folder(str(tmp_path / "out")))[1], expected, atol=1e-5)
    assert embed(source, model, tmp_path / "out") == facts
    assert len(encoded) == 8
    with pytest.raises(ValueError, match="their precision"):
        embed(source, model, tmp_path / "out", form=Form(precision="int8"))


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_forms_in_parquet_and_in_faiss(tmp_path, model, source, expected, precision):
    form = Form(16, precision)
    cut_ND = expected[:, :16] / np.linalg.norm(expected[:, :16], axis=1, keepdims=True)
    ranges = ranges_of([cut_ND])
    codes = {"float32": cut_ND, "int8": to_int8(cut_ND, ranges), "binary": to_bits(cut_ND)}[precision]
    facts = embed(source, model, tmp_path / "parquet", form=form)
    _, found = read_vectors(Folder(str(tmp_path / "parquet")))
    assert found.dtype == codes.dtype
    # Encoded in other batches, a value may lie on the other side of a step.
    if precision == "binary":
        assert np.bitwise_count(found ^ codes).sum() <= 2
    else:
        np.testing.assert_allclose(found, codes, atol=1 if precision == "int8" else 1e-5)
    assert ("ranges" in facts) == (precision == "int8")

    embed(source, model, tmp_path / "faiss", form=form, target="faiss")
    file = str(tmp_path / "faiss" / "index.faiss")
    index = faiss.read_index_binary(file) if precision == "binary" else faiss.read_index(file)
    assert (index.ntotal, index.d) == (50, 16)
    _, rows_N1 = index.search(codes if precision == "binary" else cut_ND.astype(np.float32), 1)
    if precision != "binary":  # bits of 16 dimensions are not all different
        assert (rows_N1[:, 0] == np.arange(50)).mean() > 0.9
    ids = pq.read_table(tmp_path / "faiss" / "ids")["id"].to_pylist()
    assert ids == [row["_id"] for row in ROWS]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"text": ("body",)}, r"rows.jsonl has no column 'body'; it has _id, title, text"),
        ({"form": Form(33)}, "--dimensions is 33, the model gives 32"),
        ({"form": Form(12, "binary")}, "12 is no multiple of 8"),
        ({"id_column": "key"}, "no column 'key'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_encoded(tmp_path, model, source, more, says):
    with pytest.raises(ValueError, match=says):
        embed(source, model, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_the_command_judges_the_form_and_embeds(tmp_path, model):
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    queries = [{"_id": f"q{n}", "text": row["text"]} for n, row in enumerate(ROWS)]
    (beir / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    lines = "".join(f"q{n}\td{n}\t1\n" for n in range(50))
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    command = ["embed", str(beir), "-m", model.path(), "-o", str(tmp_path / "out"), "--precision", "binary"]
    done = CliRunner().invoke(app, [*command, "--judge", str(beir), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["rows"] == 50
    first, *others = said["judged"]
    assert (first["bytes_per_document"], others[0]["bytes_per_document"]) == (128, 4)
    assert others[0]["metrics"]["ndcg@10"]["mean"] < first["metrics"]["ndcg@10"]["mean"]
