"""The report: the right numbers on a page that stands alone, with the sections that have something to say."""

import html.parser
import json
import re
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from components.corpus.schema import DOCUMENTS, PAIRS, QRELS, QUERIES
from components.evaluation.changes import largest_changes
from components.evaluation.collection import read_collection
from components.evaluation.evaluation import rank_and_score, write_evaluation
from components.evaluation.funnel import Passed, read_funnel
from components.evaluation.other_sets import read_sets
from components.evaluation.outcome import judge, write_outcome
from components.evaluation.report import write_report
from components.evaluation.table import read_rows
from components.storage import Folder


@dataclass
class Kept:
    """A monitor that keeps what it is given."""

    figures: list[str] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)

    def metrics(self, values, step=None): ...
    def params(self, values): ...
    def progress(self, done, total, unit, **facts): ...

    def figure(self, name, figure):
        self.figures.append(name)

    def artifact(self, name, data):
        self.artifacts[name] = data


class Page(html.parser.HTMLParser):
    """Headings, text and references of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.references: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        self.references += [value for key, value in attrs if key in ("src", "href", "srcset")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(" ".join(data.split()))


def pairs(origins, scores):
    rows = [
        {
            "pair_id": str(n), "query": "q", "positive": "p", "query_id": "q", "positive_id": "p",
            "task": "retrieval", "language": "en", "origin": origin, "measured": score,
        }
        for n, (origin, score) in enumerate(zip(origins, scores, strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=PAIRS)


@pytest.fixture
def folders(tmp_path):
    """Two systems over 120 documents: of 30 queries `merged` lifts one from rank 9 to 1, lowers another
    from 1 to 2, and improves the rest from 3 to 2."""
    made = {}

    def folder(name):
        return made.setdefault(name, Folder(str(tmp_path / name)))

    documents = [
        {
            "document_id": f"d{n:03d}",
            "title": "<b>T</b>",
            "text": f"body {n}",
            "language": "en",
            "source": "numpy",
        }
        for n in range(120)
    ]
    folder("documents").write_table("documents.parquet", pa.Table.from_pylist(documents, schema=DOCUMENTS))
    folder("documents").write_table("rejected/documents.parquet", pa.table({"reason": ["too_short"] * 7}))
    queries = [{"query_id": f"q{n:02d}", "text": f"how to <do> {n}?"} for n in range(30)]
    qrels = [
        {"query_id": f"q{n:02d}", "document_id": f"d{n:03d}", "score": 1, "split": "test"} for n in range(30)
    ]
    for name, rows, schema in (
        ("documents", documents, DOCUMENTS),
        ("queries", queries, QUERIES),
        ("qrels", qrels, QRELS),
    ):
        folder("split").write_table(f"evaluation/{name}.parquet", pa.Table.from_pylist(rows, schema=schema))
    folder("filtered").write_table("pairs.parquet", pairs(["synthetic"] * 5, [0.9, 0.8, 0.8, 0.7, 0.75]))
    folder("filtered").write_table(
        "rejected/rejected.parquet", pa.table({"reason": ["below_threshold"] * 2, "measured": [0.1, 0.2]})
    )
    folder("weak").write_table(
        "history.parquet", pa.table({"step": np.arange(1, 101), "loss": np.linspace(2, 1, 100)})
    )
    folder("merged").write_table(
        "angles.parquet",
        pa.table(
            {
                "tensor": ["a", "b", "c", "still"],
                "angle_degrees": [10.0, 20.0, 15.0, None],
                "norm_ratio": [1.1, 1.3, 1.2, None],
                "from_average": [0.02, 0.03, 0.01, 0.0],
            }
        ),
    )
    folder("merged").write("merge.txt", b"... in effect this merge was an average.\n")
    encoding = {
        "pooling": "mean", "attention": "own", "dimensions": 384, "query_length": 64, "document_length": 256,
        "query_template": "{text}", "document_template": "{text}", "instruction": "",
    }  # fmt: skip
    folder("merged").write("encoding.json", json.dumps({"spec": encoding}).encode())
    config = {"model_type": "bert", "num_hidden_layers": 6, "hidden_size": 384}
    folder("merged").write("config.json", json.dumps(config).encode())

    collection = read_collection(folder("split"))
    for name, ranks in {"base": [9, 1] + [3] * 28, "merged": [1, 2] + [2] * 28}.items():
        indices = np.tile(np.arange(20 + 10, 120), (30, 1))
        for row, rank in enumerate(ranks):
            indices[row] = np.roll(indices[row], row)
            indices[row, rank - 1] = row
        scores = np.tile(np.linspace(1, 0, 90, dtype=np.float32), (30, 1))
        write_evaluation(rank_and_score(collection, scores, indices, 1.0), folder(f"evaluate_{name}"))
    return made


@pytest.fixture
def written(folders, tmp_path):
    output, monitor = Folder(str(tmp_path / "report")), Kept()
    numbers = write_report(output=output, monitor=monitor, baseline="base", **folders)
    return output, monitor, numbers


def test_the_page_stands_alone(written):
    output, _, _ = written
    source = output.read("report.html").decode()
    assert all(reference.startswith("data:") for reference in Page(source).references)
    assert "<script" not in source
    assert not re.search(r"url\(|@import|https?://", source)


def test_every_section_is_there(written):
    output, monitor, _ = written
    page = Page(output.read("report.html").decode())
    assert page.headings == [
        "merged reaches nDCG@10 0.643, base 0.510",
        "What went in",
        "From documents to pairs",
        "How the filter scored the pairs",
        "Training",
        "What was merged",
        "Queries that changed most, base → merged",
        "Improved most",
        "Lost most",
        "How it was measured",
    ]
    assert monitor.figures == ["stages.png", "scores-filtered.png", "loss-weak.png", "angles-merged.png"]
    assert monitor.artifacts.keys() == {"table.json", "report.html"}
    assert len(page.references) == 4


def test_other_sets_are_told_from_the_systems_on_the_queries(folders, tmp_path):
    rng = np.random.default_rng(0)
    score_N = rng.random(50)
    for system, cosine_N in (("base", rng.random(50)), ("merged", score_N)):
        folder = Folder(str(tmp_path / f"{system}-alike"))
        write_outcome(judge("similarity", cosine_N, score_N, "digest", 0.0), folder)
        folders[f"evaluate_{system}__on__sentence_pairs"] = folder
    output = Folder(str(tmp_path / "with-sets"))
    write_report(output=output, monitor=Kept(), baseline="base", **folders)
    page = Page(output.read("report.html").decode())
    assert "Other sets" in page.headings
    assert re.search(r"sentence-pairs\s*spearman over 50 rows\s*base", page.text)
    assert re.search(r"merged\s*1\.000", page.text)
    assert [row.name for row in read_rows(output)] == ["base", "merged"]
    assert [row.system for row in read_sets(output)[0].systems] == ["base", "merged"]


def test_queries_that_nobody_asked_are_called_so(folders, written, tmp_path):
    assert "nobody asked" not in Page(written[0].read("report.html").decode()).text
    qrels = folders["split"].read_table("evaluation/qrels.parquet").to_pylist()
    made = pa.Table.from_pylist([row | {"split": "made-from-first-sentence"} for row in qrels], schema=QRELS)
    folders["split"].write_table("evaluation/qrels.parquet", made)
    output = Folder(str(tmp_path / "made"))
    write_report(output=output, monitor=Kept(), baseline="base", **folders)
    text = " ".join(Page(output.read("report.html").decode()).text.split())
    assert "The queries are first sentences of documents, taken out of them: nobody asked them" in text


def test_a_section_without_input_is_left_out(folders, tmp_path):
    output, monitor = Folder(str(tmp_path / "bare")), Kept()
    evaluations = {name: folder for name, folder in folders.items() if name.startswith("evaluate_")}
    write_report(output=output, monitor=monitor, baseline="base", **evaluations)
    page = Page(output.read("report.html").decode())
    assert page.headings == ["merged reaches nDCG@10 0.643, base 0.510", "How it was measured"]
    assert monitor.figures == ["stages.png"]


def test_the_merge_is_put_in_words(written):
    output, _, _ = written
    text = " ".join(Page(output.read("report.html").decode()).text.split())
    assert "in effect this merge was an average." in text
    assert "In the median tensor the checkpoints lie 15.00° apart" in text
    assert "(b) 20.00°; their norms differ by a factor of 1.20 in the median" in text


def test_text_of_users_is_escaped(written):
    output, _, _ = written
    source = output.read("report.html").decode()
    assert "how to &lt;do&gt; 0?" in source
    assert "<b>T</b>" not in source


def test_numbers_table_and_page_agree(written, folders):
    output, _, numbers = written
    base, merged = read_rows(output)
    closed_form = (1 + 29 / np.log2(3)) / 30
    assert numbers["ndcg@10_merged"] == merged.metrics["ndcg@10"].mean == pytest.approx(closed_form)
    assert numbers["p_merged"] == merged.p["ndcg@10"] < 0.001
    assert (base.corpus_size, base.queries) == (120, 30)
    assert "30 held-out queries over 120 documents" in Page(output.read("report.html").decode()).text


def test_largest_changes_come_first_with_their_ranks(written, folders):
    from components.evaluation.evaluation import read_evaluation

    base, merged = (read_evaluation(folders[f"evaluate_{name}"]) for name in ("base", "merged"))
    gained, lost = largest_changes(base, merged, read_collection(folders["split"]))
    assert len(gained) == 10
    assert (gained[0].query, gained[0].rank_before, gained[0].rank_after) == ("how to <do> 0?", 9, 1)
    assert gained[0].after - gained[0].before == pytest.approx(1 - 1 / np.log2(10))
    assert gained[0].instead is None
    assert [(change.query, change.rank_before, change.rank_after) for change in lost] == [
        ("how to <do> 1?", 1, 2)
    ]
    assert lost[0].relevant == "<b>T</b> body 1"
    assert lost[0].instead is not None


def test_funnel_counts_rows_and_reasons(folders):
    steps = {name: folder for name, folder in folders.items() if not name.startswith("evaluate_")}
    assert read_funnel(steps) == [
        Passed("documents", 120, "documents", {}, {"too_short": 7}),
        Passed("split", 120, "documents to search in the evaluation", {}, {}),
        Passed("split", 30, "held-out queries", {}, {}),
        Passed("filtered", 5, "pairs", {"synthetic": 5}, {"below_threshold": 2}),
    ]


def test_the_same_inputs_give_the_same_page(written, folders, tmp_path):
    again = Folder(str(tmp_path / "again"))
    write_report(output=again, monitor=Kept(), baseline="base", **folders)
    assert again.read("report.html") == written[0].read("report.html")
