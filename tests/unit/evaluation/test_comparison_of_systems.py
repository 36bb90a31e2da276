"""Two retrieval results compared from what they left, and the command that does it."""

import json

import numpy as np
import pytest
import scipy.stats
from typer.testing import CliRunner

from components.evaluation.comparison import compare_results
from components.evaluation.evaluation import write_evaluation
from components.storage import Folder
from workflows.cli import app


@pytest.fixture
def results(system, tmp_path):
    rng = np.random.default_rng(0)
    ranks = {
        "base": rng.integers(1, 12, 60),
        "near": rng.integers(1, 12, 60),
        "better": rng.integers(1, 4, 60),
    }
    folders = {}
    for name, found in ranks.items():
        folders[name] = Folder(str(tmp_path / name))
        write_evaluation(system(found.tolist()), folders[name])
    return folders


def test_every_figure_is_compared_by_both_tests(results):
    rows = compare_results(results["base"], {name: results[name] for name in ("near", "better")})
    assert [(row.metric, row.system) for row in rows[:3]] == [
        ("ndcg@10", "near"), ("ndcg@10", "better"), ("recall@10", "near"),
    ]  # fmt: skip
    near, better = rows[:2]
    assert better.p_bootstrap < 0.01
    assert better.p_randomisation < 0.01
    assert near.p_randomisation == pytest.approx(near.p_bootstrap, abs=0.1)
    ours, theirs = (
        results[name].read_table("per_query.parquet")["ndcg@10"].to_numpy() for name in ("better", "base")
    )
    assert better.effect == pytest.approx(scipy.stats.ttest_rel(ours, theirs).statistic / np.sqrt(60))
    assert (better.better, better.worse) == ((ours > theirs).sum(), (ours < theirs).sum())
    assert better.difference.mean == pytest.approx(better.value - better.baseline)


def test_the_command_prints_what_the_function_finds(results):
    paths = [results[name].path() for name in ("base", "better")]
    done = CliRunner().invoke(app, ["compare", *paths, "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert rows[0]["difference"]["mean"] == pytest.approx(
        compare_results(Folder(paths[0]), {"x": Folder(paths[1])})[0].difference.mean
    )
    table = CliRunner().invoke(app, ["compare", *paths]).stdout
    assert "ndcg@10" in table


def test_what_is_no_result_is_refused(results, tmp_path):
    with pytest.raises(ValueError, match="holds no per_query"):
        compare_results(results["base"], {"x": Folder(str(tmp_path / "none"))})
