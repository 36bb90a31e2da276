"""A reranker over the first documents of a first stage, against trec_eval on the same order."""

import json
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from tiny_model import write_tiny_model
from tiny_rerankers import write_cross_encoder, write_yes_no_model
from typer.testing import CliRunner

from components.evaluation.evaluation import read_evaluation
from components.evaluation.reranking import evaluate_beside, evaluate_reranker
from components.evaluation.reranking_result import read_reranking
from components.evaluation.retrieval import evaluate_bm25
from components.model.reranker import load_reranker
from components.monitor import Silent
from components.storage import Folder
from workflows.cli import app

DEPTH = 4


@pytest.fixture
def first_stage(split: Folder, tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path / "bm25"))
    evaluate_bm25(split=split, output=folder, monitor=Silent())
    return folder


def evaluate(split, first_stage, tmp_path, **settings):
    model = write_cross_encoder(tmp_path / "model")
    output = Folder(str(tmp_path / "reranked"))
    arguments = {"split": split, "model": Folder(str(model)), "first_stage": first_stage, "output": output}
    numbers = evaluate_reranker(**arguments, monitor=Silent(), **settings)
    return numbers, output, load_reranker(model)


def test_the_first_documents_are_ranked_by_the_reranker(split: Folder, first_stage: Folder, tmp_path: Path):
    numbers, output, reranker = evaluate(split, first_stage, tmp_path, depth=DEPTH)
    documents = split.read_table("evaluation/documents.parquet").to_pylist()
    text = {
        row["document_id"]: f"{row['title']} {row['text']}" if row["title"] else row["text"]
        for row in documents
    }
    queries = {
        row["query_id"]: row["text"] for row in split.read_table("evaluation/queries.parquet").to_pylist()
    }
    before, after = read_evaluation(first_stage), read_evaluation(output)
    runs = {}
    for evaluation, name in ((before, "before"), (after, "after")):
        runs[name] = {}
        for row in evaluation.run.sort_by([("rank", "ascending")]).to_pylist():
            runs[name].setdefault(row["query_id"], []).append(row["document_id"])
    for query, found in runs["before"].items():
        first = found[:DEPTH]
        score = reranker.score(
            [queries[query]] * len(first), [text[each] for each in first], [None] * len(first)
        )
        order = sorted(range(len(first)), key=lambda at: (score[at], first[at]), reverse=True)
        assert runs["after"][query] == [first[at] for at in order] + found[DEPTH:]
    qrels: dict = {}
    for row in split.read_table("evaluation/qrels.parquet").to_pylist():
        qrels.setdefault(row["query_id"], {})[row["document_id"]] = row["score"]
    run = {
        query: {each: -float(at) for at, each in enumerate(found)} for query, found in runs["after"].items()
    }
    measured = pytrec_eval.RelevanceEvaluator(qrels, {"map_cut.100", "ndcg_cut.10"}).evaluate(run)
    for metric, name in (("map@100", "map_cut_100"), ("ndcg@10", "ndcg_cut_10")):
        assert numbers[metric] == pytest.approx(np.mean([each[name] for each in measured.values()]))
        assert numbers[f"gain_{metric}"] == pytest.approx(numbers[metric] - before.metrics[metric].mean)
    found = read_reranking(output)
    assert found.before["ndcg@10"] == before.metrics["ndcg@10"]
    assert found.p["ndcg@10"] == numbers["p_ndcg@10"]
    assert 0 < found.latency_ms <= found.latency_ms_p95


def test_some_queries_are_judged_before_and_after(split: Folder, first_stage: Folder, tmp_path: Path):
    numbers, output, _ = evaluate(split, first_stage, tmp_path, depth=DEPTH, queries=2, seed=3)
    after, before = read_evaluation(output), read_evaluation(output / "first_stage")
    assert numbers["queries"] == 2
    assert after.per_query["query_id"].equals(before.per_query["query_id"])
    assert before.digest == after.digest != read_evaluation(first_stage).digest
    whole = {row["query_id"]: row for row in read_evaluation(first_stage).per_query.to_pylist()}
    assert all(row == whole[row["query_id"]] for row in before.per_query.to_pylist())


def test_another_reranker_is_judged_beside_a_result(split: Folder, first_stage: Folder, tmp_path: Path):
    chosen = {"depth": DEPTH, "queries": 20, "seed": 3}
    _, result, _ = evaluate(split, first_stage, tmp_path, **chosen)
    step = {
        "split": split, "model": Folder(str(write_yes_no_model(tmp_path / "other"))), "monitor": Silent()
    }  # fmt: skip
    beside, straight = Folder(str(tmp_path / "beside")), Folder(str(tmp_path / "straight"))
    evaluate_beside(**step, result=result, output=beside)
    evaluate_reranker(**step, first_stage=first_stage, output=straight, **chosen)
    found = read_evaluation(beside).per_query
    assert found == read_evaluation(straight).per_query
    assert found != read_evaluation(result).per_query
    summary = json.loads(result.read("first_stage/metrics.json")) | {"digest": "another"}
    result.write("first_stage/metrics.json", json.dumps(summary).encode())
    with pytest.raises(ValueError, match="is of another collection"):
        evaluate_beside(**step, result=result, output=beside)


def test_the_command_reranks_what_another_command_found(split: Folder, tmp_path: Path):
    """On a folder in BEIR's layout, behind an embedding model's kept result; by hand, the same."""
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    for name, columns in (("documents", ("document_id", "title", "text")), ("queries", ("query_id", "text"))):
        rows = split.read_table(f"evaluation/{name}.parquet").to_pylist()
        lines = [
            json.dumps({"_id": row[columns[0]]} | {key: row[key] for key in columns[1:]}) for row in rows
        ]
        (beir / f"{'corpus' if name == 'documents' else name}.jsonl").write_text("\n".join(lines))
    judged = split.read_table("evaluation/qrels.parquet").to_pylist()
    lines = [f"{row['query_id']}\t{row['document_id']}\t{row['score']}" for row in judged]
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines))
    embedder, reranker = write_tiny_model(tmp_path / "embedder"), write_cross_encoder(tmp_path / "reranker")

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(
            app, ["evaluate", *arguments, "--data", str(beir), "--root", str(tmp_path / "root")]
        )
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    found = run(str(embedder), "-o", str(tmp_path / "found"))
    assert "40 queries over 150 documents" in found
    asked = ("--kind", "reranking", "--first-stage", str(tmp_path / "found"), "--depth", str(DEPTH))
    numbers = json.loads(run(str(reranker), *asked, "--json"))
    expected = evaluate_reranker(
        split=split, model=Folder(str(reranker)), first_stage=Folder(str(tmp_path / "found")), depth=DEPTH,
        output=Folder(str(tmp_path / "straight")), monitor=Silent(),
    )  # fmt: skip
    assert numbers["gain_ndcg@10"] == pytest.approx(expected["gain_ndcg@10"])
    assert "ms a query" in run(str(reranker), "--kind", "reranking", "--queries", "5", "--depth", "2")
    refused = CliRunner().invoke(app, ["evaluate", str(embedder), "--kind", "reranking", "--data", str(beir)])
    assert "is no reranker: it has no head" in str(refused.exception)
    refused = CliRunner().invoke(app, ["evaluate", str(embedder), "--depth", "3", "--data", str(beir)])
    assert "--depth is no option of --kind retrieval" in str(refused.exception)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"depth": 101}, "depth is 101"), ({"depth": 0}, "depth is 0"), ({"queries": 1}, "queries is 1")],
)
def test_refused(split, first_stage, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate(split, first_stage, tmp_path, **settings)


def test_a_first_stage_of_another_collection_is_refused(split, first_stage, tmp_path):
    summary = json.loads(first_stage.read("metrics.json")) | {"digest": "another"}
    first_stage.write("metrics.json", json.dumps(summary).encode())
    with pytest.raises(ValueError, match="evaluated on another collection"):
        evaluate(split, first_stage, tmp_path)
