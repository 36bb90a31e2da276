"""What `embedloom inspect` shows: the right rows, the first ones at once, as a page that holds at every width."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import open_page
from typer.testing import CliRunner

from components.corpus.schema import DOCUMENTS, PAIRS, QRELS, QUERIES, rejected_schema
from components.evaluation.evaluation import write_evaluation
from components.evaluation.funnel import read_funnel
from components.evaluation.inspection import Filters, Section, look
from components.evaluation.inspection_page import inspection_page
from components.evaluation.worst import worst_queries
from components.storage import Folder
from workflows.cli import app


def pair(number: int, **more: object) -> dict:
    names = ("pair_id", "query", "positive", "query_id", "positive_id")
    row = {name: f"{name} {number}" for name in names}
    return row | {"task": "retrieval", "language": "en", "origin": "labelled"} | more


def write_pairs(folder: Folder, rows: list[dict], group: int = 1024) -> None:
    with folder.open("pairs.parquet", "wb") as sink:
        pq.write_table(pa.Table.from_pylist(rows, schema=PAIRS), sink, row_group_size=group)


def only(sections: list[Section]) -> Section:
    (section,) = sections
    return section


def nothing(_: Folder) -> None:
    return None


def test_the_first_rows_are_shown_without_the_rest_of_the_table(tmp_path: Path) -> None:
    """All but the first row groups are destroyed: whoever reads them fails."""
    folder, file = Folder(str(tmp_path)), tmp_path / "pairs.parquet"
    write_pairs(folder, [pair(number) for number in range(50_000)], group=1000)
    metadata = pq.read_metadata(file)
    data = bytearray(file.read_bytes())
    start = metadata.row_group(3).column(0).dictionary_page_offset
    last = metadata.row_group(49).column(PAIRS.get_field_index("origin"))
    end = last.data_page_offset + last.total_compressed_size
    data[start:end] = bytes(end - start)
    file.write_bytes(data)
    with pytest.raises(OSError):  # noqa: PT011 (whatever the decoder says)
        pq.read_table(file)
    section = only(look({"all": folder}, nothing, limit=5))
    assert [row["pair_id"] for row in section.rows] == [f"pair_id {number}" for number in range(5)]
    assert section.total == 50_000


def test_filters_find_what_a_plain_search_finds(tmp_path: Path) -> None:
    rng = random.Random(0)
    schema = rejected_schema(DOCUMENTS)
    rows = [
        {
            "document_id": f"d{number}",
            "text": f"text {number}",
            "language": rng.choice(["en", "zh", None]),
            "reason": rng.choice(["too_short", "too_long", "duplicate"]),
        }
        for number in range(3000)
    ]
    folder = Folder(str(tmp_path))
    for shard in range(3):  # as workers leave it
        part = rows[shard * 1000 : (shard + 1) * 1000]
        folder.write_table(
            f"rejected/documents.parquet/{shard:06d}.parquet", pa.Table.from_pylist(part, schema)
        )
    write_pairs(folder, [pair(0)])
    filters = Filters(reason=("too_short", "duplicate"), language=("zh",))
    section = only(look({"unique": folder}, nothing, filters=filters, limit=7))  # pairs have no reason
    expected = [
        row for row in rows if row["reason"] in ("too_short", "duplicate") and row["language"] == "zh"
    ]
    assert section.rows == expected[:7]
    assert (section.total, section.table) == (len(expected), "rejected/documents.parquet")
    assert not look({"unique": folder}, nothing, filters=Filters(reason=("too_big",)))
    counted = read_funnel({"unique": folder})[0].rejected
    assert counted == {reason: sum(row["reason"] == reason for row in rows) for reason in counted}
    assert list(counted.values()) == sorted(counted.values(), reverse=True)


def test_mined_negatives_come_with_their_scores(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    write_pairs(folder, [pair(n, negatives=[f"wrong {n}"], origin="abc"[n % 3]) for n in range(9)])
    scores = {"pair_id": [f"pair_id {n}" for n in range(9)], "first_score": [n / 10 for n in range(9)]}
    folder.write_table("negative_scores.parquet", pa.table(scores))
    section = only(look({"mined": folder}, nothing, filters=Filters(origin=("b",)), limit=2))
    assert section.kind == "negatives"
    assert [(row["negatives"], row["score_of_negatives"]) for row in section.rows] == [
        (["wrong 1"], 0.1),
        (["wrong 4"], 0.4),
    ]
    assert not look({"mined": folder}, nothing, kinds=["pairs", "rejected"])


@pytest.fixture
def judged(tmp_path: Path, collection, system) -> tuple[Folder, Folder]:
    """An evaluation that finds its document at rank 1, 2, 3 ... (query 7: not at all), and its split."""
    output, split = Folder(str(tmp_path / "evaluation")), Folder(str(tmp_path / "split"))
    write_evaluation(system([0 if number == 7 else 1 + number for number in range(60)]), output)
    tables = {
        "documents": ([
            {"document_id": name, "text": text, "language": "en", "source": "s"}
            for name, text in zip(collection.document_ids, collection.passages, strict=True)
        ], DOCUMENTS),
        "queries": ([
            {"query_id": name, "text": text}
            for name, text in zip(collection.query_ids, collection.queries, strict=True)
        ], QUERIES),
        "qrels": ([
            {"query_id": query_id, "document_id": one, "score": 1, "split": "test"}
            for query_id, levels in collection.qrels.items()
            for one in levels
        ], QRELS),
    }  # fmt: skip
    for name, (rows, schema) in tables.items():
        split.write_table(f"evaluation/{name}.parquet", pa.Table.from_pylist(rows, schema=schema))
    return output, split


def test_the_worst_queries_are_those_whose_answer_is_not_found(judged) -> None:
    worst, *others = worst_queries(*judged, count=60)
    assert (worst["query"], worst["ndcg@10"], worst["recall@100"], worst["rank"]) == ("query 7", 0, 0, None)
    assert (worst["relevant"], worst["instead"]) == ("passage 7", "passage 100")
    ranks = {row["query"]: row["rank"] for row in others}
    assert ranks == {f"query {number}": 1 + number for number in range(60) if number != 7}
    assert (others[-1]["query"], others[-1]["instead"]) == (
        "query 0",
        None,
    )  # found at rank 1: nothing instead
    bare = worst_queries(judged[0], None, count=1)
    assert bare == [{"query_id": "q07", "ndcg@10": 0.0, "recall@100": 0.0, "first_id": "d100"}]


def test_the_command_reads_a_folder_and_says_what_there_is(judged, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    write_pairs(Folder(str(folder)), [pair(number, language="ab"[number % 2] * 2) for number in range(5)])

    def inspect(*options: str) -> str:
        done = CliRunner().invoke(app, ["inspect", str(folder), *options], terminal_width=200)
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "query 3" in inspect()
    rows = json.loads(inspect("--language", "bb", "--json"))["tables"][0]["rows"]
    assert [row["query"] for row in rows] == ["query 1", "query 3"]
    assert "No row" in inspect("--reason", "too_short")
    wrong = CliRunner().invoke(app, ["inspect", str(folder), "--show", "everything"])
    assert "it is one of pairs, negatives, rejected, queries" in str(wrong.exception)


def test_a_recipe_is_found_where_a_folder_of_documents_bears_its_name(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "start.md").write_text("# Start")
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("workflows.engine.history.recorded_run", lambda uri, name: asked.append(name))
    monkeypatch.setattr("workflows.engine.history.past_runs", lambda *_: [])
    done = CliRunner().invoke(app, ["inspect", "docs", "--tracking-uri", "http://127.0.0.1:1"])
    assert "docs: no folder of tables, and no run of this id or recipe" in str(done.exception)
    assert asked == ["docs"]


def test_a_result_whose_tables_lie_further_down_is_found_by_path_and_by_name(
    judged, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder(str(tmp_path / "attempt"))
    write_pairs(folder / "below", [pair(0)])
    for named in (str(tmp_path / "attempt"), "attempt"):
        done = CliRunner().invoke(app, ["inspect", named])
        assert done.exit_code == 0, done.exception
        assert named in done.stdout


def test_the_page_fits_and_narrows_its_rows(judged, tmp_path: Path) -> None:
    pairs = Folder(str(tmp_path / "pairs"))
    word = "https://example.org/" + "x" * 300  # nothing to break at
    rows = [pair(n, query=f"<b>{n}</b>", positive=word, language="ab"[n % 2] * 2) for n in range(4)]
    write_pairs(pairs, [{**row, "negatives": [word, "long " * 200]} for row in rows])
    steps = {"collected": pairs, "evaluate-merged": judged[0]}
    sections = look(steps, lambda _: judged[1], limit=4)
    written = inspection_page("tiny 0123", "a note", read_funnel(steps), sections)
    assert "<b>1" not in written
    (tmp_path / "page.html").write_text(written)
    with open_page() as page:
        page.goto((tmp_path / "page.html").as_uri())
        for width in (420, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") == width
        page.get_by_label("language").select_option("bb")
        assert page.locator("li:visible .first").all_inner_texts() == ["<b>1</b>", "<b>3</b>"]
