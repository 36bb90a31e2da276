"""Systems on other sets: the figures of the outcomes, each tested against the baseline's."""

import numpy as np
import pytest
from rich.console import Console

from components.evaluation.other_sets import judge_on, read_sets, render_sets, write_sets
from components.evaluation.outcome import compare_outcomes, judge, read_outcome, write_outcome
from components.storage import Folder


@pytest.fixture
def results(tmp_path):
    """Three systems on 200 pairs: cosines that tell nothing, other ones that tell nothing, and ones that tell a lot."""
    rng = np.random.default_rng(0)
    score_N = rng.random(200)
    found = {}
    for system, share in (("base", 0.0), ("weak", 0.0), ("merged", 0.7)):
        found[system] = Folder(str(tmp_path / system))
        cosine_N = share * score_N + (1 - share) * rng.random(200)
        write_outcome(judge("similarity", cosine_N, score_N, "digest", 0.0), found[system])
    return found


def test_each_system_is_tested_against_the_baseline(results):
    one = judge_on("alike", results, "base")
    assert (one.metric, one.rows) == ("spearman", 200)
    base, weak, merged = one.systems
    assert (base.difference, base.p) == (None, None)
    outcomes = {name: read_outcome(folder) for name, folder in results.items()}
    alone = compare_outcomes(outcomes["merged"], outcomes["base"], "spearman")
    assert merged.difference == alone.difference
    assert merged.p == pytest.approx(2 * alone.p_value)  # Holm: the smallest of two
    assert merged.p < 0.05 < weak.p
    assert merged.value == outcomes["merged"].metrics["spearman"]


def test_kept_and_shown(results, tmp_path):
    sets = [judge_on("alike", results, "base"), judge_on("pairs", results, "base")]
    write_sets(sets, Folder(str(tmp_path / "kept")))
    assert read_sets(Folder(str(tmp_path / "kept"))) == sets
    assert read_sets(Folder(str(tmp_path / "nothing"))) == []
    console = Console(width=80)
    with console.capture() as capture:
        console.print(render_sets(sets))
    shown = capture.get()
    assert shown.count("alike") == shown.count("pairs") == 1
    for row in sets[0].systems:
        assert f"{row.value.mean:.3f} [{row.value.low:.3f}, {row.value.high:.3f}]" in shown


def test_without_the_baseline(results):
    with pytest.raises(ValueError, match="the baseline `bm25` is not among base, weak, merged"):
        judge_on("alike", results, "bm25")
