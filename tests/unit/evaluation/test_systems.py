"""Systems on sets: every pair tested as two results are, Holm's correction, what each took, the table and the page."""

from dataclasses import asdict
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from safetensors.torch import load_file
from tiny_model import write_tiny_model

from components.evaluation import figures
from components.evaluation.comparison import compare_results
from components.evaluation.evaluation import read_evaluation, write_evaluation
from components.evaluation.outcome import compare_outcomes, judge, read_outcome, write_outcome
from components.evaluation.significance import (
    bootstrap_systems,
    holm,
    paired_bootstrap,
    resamples_for,
)
from components.evaluation.systems import compare_systems
from components.evaluation.systems_table import read_comparison, render_comparison
from components.model.source import import_model
from components.monitor import Silent
from components.storage import Folder

SYSTEMS = ["base", "near-base", "better"]


@pytest.fixture
def folders(system, tmp_path):
    """Of three systems: a retrieval result, a similarity result, a model; of one of them two stages of training."""
    rng = np.random.default_rng(0)
    ranks = {
        "base": rng.integers(1, 12, 60),
        "near_base": rng.integers(1, 12, 60),
        "better": rng.integers(1, 4, 60),
    }
    score_N = rng.random(300)
    found = {}
    for number, (name, of_queries) in enumerate(ranks.items()):
        found[f"evaluate__{name}__search"] = Folder(str(tmp_path / f"{name}-search"))
        write_evaluation(system(of_queries.tolist()), found[f"evaluate__{name}__search"])
        cosine_N = 0.3 * number * score_N + rng.random(300)
        found[f"evaluate__{name}__alike"] = Folder(str(tmp_path / f"{name}-alike"))
        write_outcome(
            judge("similarity", cosine_N, score_N, "digest", 0.0), found[f"evaluate__{name}__alike"]
        )
        found[f"model__{name}__"] = Folder(str(write_tiny_model(tmp_path / name)))
    with_head = Folder(str(tmp_path / "with-head"))
    import_model(
        model=str(tmp_path / "better"), spec={"projection": "linear", "projection_dimensions": 8},
        output=with_head, monitor=Silent(),
    )  # fmt: skip
    found["model__better__"] = with_head
    for number, stage in enumerate(("weak", "supervised")):
        folder = Folder(str(tmp_path / stage))
        folder.write_table("history.parquet", pa.table({"step": [1, 2], "step_seconds": [1.5, 2.0 + number]}))
        folder.write_table("batches.parquet", pa.table({"tokens": [100, 200 + number]}))
        found[f"stage__better__{stage}"] = found[f"batches__better__{stage}"] = folder
    return found


def compare(folders, output, sets=("search", "alike"), baseline="base", points=None):
    about = dict.fromkeys(SYSTEMS, "words")
    numbers = compare_systems(
        output=Folder(str(output)), monitor=Silent(), systems=SYSTEMS, about=about, baseline=baseline,
        sets=list(sets), points=points, **folders,
    )  # fmt: skip
    return numbers, read_comparison(Folder(str(output)))


def test_every_pair_is_tested_as_two_results_are(folders, tmp_path):
    _, table = compare(folders, tmp_path / "out")
    average, search, alike = table.sets
    assert (average.name, search.metric, alike.metric) == ("average", "ndcg@10", "spearman")
    outcomes = {name: read_outcome(folders[f"evaluate__{name.replace('-', '_')}__alike"]) for name in SYSTEMS}
    queries = {
        name: read_evaluation(folders[f"evaluate__{name.replace('-', '_')}__search"]).per_query["ndcg@10"]
        for name in SYSTEMS
    }
    pairs = list(combinations(SYSTEMS, 2))
    # peers: the tests of two results, corrected over the three pairs
    peers = {
        "search": [paired_bootstrap(queries[a].to_numpy(), queries[b].to_numpy()) for a, b in pairs],
        "alike": [compare_outcomes(outcomes[a], outcomes[b], "spearman") for a, b in pairs],
    }
    for one in (search, alike):
        corrected = holm([peer.p_value for peer in peers[one.name]])
        for pair, names, peer, p in zip(one.pairs, pairs, peers[one.name], corrected, strict=True):
            assert (pair.first, pair.second) == names
            assert pair.difference.mean == pytest.approx(peer.difference.mean)
            assert pair.difference.low == pytest.approx(peer.difference.low, abs=0.02)
            assert pair.p == pytest.approx(p, abs=0.05)
    # against the baseline the family is smaller: two systems, not three pairs
    rows = compare_results(
        folders["evaluate__base__search"],
        {name: folders[f"evaluate__{name.replace('-', '_')}__search"] for name in SYSTEMS[1:]},
    )
    for figure, row in zip(search.figures[1:], rows[:2], strict=True):
        assert figure.difference.mean == pytest.approx(row.difference.mean)
        assert figure.p == pytest.approx(row.p_bootstrap, abs=0.05)
    assert search.figures[0].p is None
    assert search.figures[2].better_than == ["base", "near-base"]
    assert search.figures[0].worse_than == ["better"]
    for number in range(3):
        both = [one.figures[number].value.mean for one in (search, alike)]
        assert average.figures[number].value.mean == pytest.approx(np.mean(both))


def test_the_average_s_interval_is_that_of_a_mean_of_two_independent_figures(folders, tmp_path):
    _, table = compare(folders, tmp_path / "out")
    half = [
        [(figure.value.high - figure.value.low) / 2 for figure in one.figures] for one in table.sets
    ]  # [set, system]
    for average, search, alike in zip(*half, strict=True):
        assert average == pytest.approx(np.hypot(search, alike) / 2, rel=0.1)


def test_many_pairs_can_still_differ_significantly():
    """Of 25 equal systems and one that is better, 25 pairs of 325 differ; with 1,000 resamples none could."""
    rng = np.random.default_rng(0)
    shared_Q = rng.normal(size=200)
    values_QS = np.stack(
        [shared_Q + rng.normal(0, 0.3, 200) + 0.5 * (number == 25) for number in range(26)], 1
    )
    resamples = resamples_for(325)
    draws = bootstrap_systems(lambda rows_N: values_QS[rows_N].mean(axis=0), 200, resamples=resamples)
    pairs = list(combinations(range(26), 2))
    p = holm([draws.compare(one, other).p_value for one, other in pairs])
    found = {pair for pair, p_value in zip(pairs, p, strict=True) if p_value < 0.05}
    assert found == {pair for pair in pairs if 25 in pair}


def test_what_each_took(folders, tmp_path):
    numbers, table = compare(folders, tmp_path / "out")
    base, _, better = table.systems

    def size(model: str, *files: str) -> int:
        found = [load_file(f"{folders[model].path()}/{file}") for file in files]
        return sum(tensor.numel() for tensors in found for tensor in tensors.values())

    backbone = size("model__base__", "model.safetensors")
    assert asdict(base.cost) == {"seconds": 0, "tokens": 0, "parameters": backbone, "parameters_added": 0}
    assert (better.cost.seconds, better.cost.tokens) == (8.0, 601)
    assert better.cost.parameters_added == 32 * 8
    assert better.cost.parameters == size("model__better__", "model.safetensors", "pooling.safetensors")
    assert numbers["search/better"] == table.sets[1].figures[2].value.mean


def test_the_page_and_the_terminal_show_every_figure(folders, tmp_path):
    _, table = compare(folders, tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "better comes first of 3 systems on average" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    for width in (60, 200):
        console = Console(width=width)
        with console.capture() as capture:
            for each in render_comparison(table, width):
                console.print(each)
        for one in table.sets:
            for figure in one.figures:
                shown = f"[{figure.value.low:.3f}, {figure.value.high:.3f}]"
                assert shown in capture.get()
                assert f"{figure.value.mean:.3f}" in page


def test_a_sweep_is_drawn_from_its_values_to_its_scores(folders, tmp_path):
    points = {
        system: {"rate": rate, "size": 8} for system, rate in zip(SYSTEMS, (1e-5, 3e-5, 1e-5), strict=True)
    }
    _, table = compare(folders, tmp_path / "out", points=points)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count("from the values to the scores") == 1
    lines = [
        line for line in figures.sweep(table.sets[0], points).axes[0].lines if len(line.get_xdata()) == 3
    ]
    means = sorted(each.value.mean for each in table.sets[0].figures)
    expected = [(mean - means[0]) / (means[-1] - means[0]) for mean in means]
    assert sorted(line.get_ydata()[-1] for line in lines) == pytest.approx(expected)
    assert [line.get_ydata()[0] > 0.5 for line in lines].count(True) == 1  # the one of the higher rate


def test_one_set_has_no_average_and_other_rows_are_refused(folders, tmp_path, system):
    _, table = compare(folders, tmp_path / "one", sets=["alike"])
    assert [one.name for one in table.sets] == ["alike"]
    other = judge("similarity", np.random.default_rng(1).random(300), np.arange(300), "another", 0.0)
    write_outcome(other, folders["evaluate__better__alike"])
    with pytest.raises(ValueError, match="alike: base and better were judged on different rows"):
        compare(folders, tmp_path / "out")
