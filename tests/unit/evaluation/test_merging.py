"""Weights of a merge searched on a development set, and the command that does it."""

import json
from pathlib import Path

import numpy as np
import pytest
from merge_stage import write_stage
from typer.testing import CliRunner

from components.evaluation.collection import read_beir
from components.evaluation.merging import search_merge
from components.evaluation.retrieval import evaluate_embedder
from components.merge.models import Merging, merge_models
from components.merge.shares import Shares, make_shares
from components.model.embedder import Embedder
from components.monitor import Silent
from components.storage import Folder
from workflows.cli import app


@pytest.fixture
def development(tmp_path: Path) -> Folder:
    """Forty documents of random words, some of which their queries repeat."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "dev"
    (folder / "qrels").mkdir(parents=True)
    rows = [[f"w{number}" for number in rng.integers(0, 200, 12)] for _ in range(40)]
    for name, texts in (("corpus", rows), ("queries", [row[:3] for row in rows])):
        lines = [json.dumps({"_id": f"{n}", "text": " ".join(text)}) + "\n" for n, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    qrels = "".join(f"{n}\t{n}\t1\n" for n in range(40))
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
    return Folder(str(folder))


def test_the_best_trial_is_the_merge_that_scores_so(tmp_path, development):
    write_stage(tmp_path, 2, scale=0.3)
    models = sorted((tmp_path / "stage" / "checkpoints").iterdir())
    collection = read_beir(development, "dev")
    found = search_merge(models, None, Merging(make_shares(None, 2)), collection, trials=6, monitor=Silent())
    assert len(found) == 6
    equal = next(trial for trial in found if trial.shares == (0.5, 0.5))
    assert found[0].score >= equal.score
    assert len({trial.score for trial in found}) > 1
    merge_models(models, None, tmp_path / "best", Merging(Shares(found[0].shares)), Silent())
    again = evaluate_embedder(collection, Embedder.load(tmp_path / "best"), 8192, Silent())
    assert again.metrics["ndcg@10"].mean == pytest.approx(found[0].score, abs=1e-9)


def test_the_command_searches_and_says_what_it_found(tmp_path, development):
    write_stage(tmp_path, 2, scale=0.3)
    models = [str(path) for path in sorted((tmp_path / "stage" / "checkpoints").iterdir())]
    arguments = [
        "merge",
        *models,
        "-o",
        str(tmp_path / "merged"),
        "--dev",
        development.path(),
        "--trials",
        "3",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.count("nDCG@10") == 3
    Embedder.load(tmp_path / "merged")
    both = CliRunner().invoke(app, [*arguments, "--weight", "1"])
    assert "weights are searched with --dev" in str(both.exception)
