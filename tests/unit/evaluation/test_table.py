"""The table of a run."""

import io
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from components.evaluation.table import comparison_rows, read_rows, render_table, write_rows
from components.storage import Folder


@pytest.fixture
def evaluations(system):
    rng = np.random.default_rng(0)
    base = rng.integers(1, 12, 60)
    return {
        "bm25": system(list(rng.integers(1, 12, 60))),
        "base": system(list(base)),
        "merged": system(list(np.maximum(1, base - rng.integers(0, 3, 60)))),
    }


def test_each_row_is_tested_against_the_baseline(evaluations):
    bm25, base, merged = comparison_rows(evaluations, "base")
    assert (base.p, base.difference, base.note) == ({}, {}, "baseline")
    merged_Q, base_Q = (evaluations[name].per_query["ndcg@10"].to_numpy() for name in ("merged", "base"))
    assert merged.difference["ndcg@10"].mean == pytest.approx((merged_Q - base_Q).mean())
    assert merged.p["ndcg@10"] < 0.001 < bm25.p["ndcg@10"]
    # the larger of two p values is left as it is by Holm's rule
    t_test = scipy.stats.ttest_rel(evaluations["bm25"].per_query["ndcg@10"].to_numpy(), base_Q).pvalue
    assert bm25.p["ndcg@10"] == pytest.approx(t_test, abs=0.02)


def test_rows_are_read_back(evaluations, tmp_path):
    rows = comparison_rows(evaluations, "base")
    write_rows(rows, Folder(str(tmp_path)))
    assert read_rows(Folder(str(tmp_path))) == rows


def test_terminal_table_fits_eighty_columns_and_names_what_was_evaluated(evaluations):
    console = Console(file=io.StringIO(), width=80)
    console.print(render_table(comparison_rows(evaluations, "base")))
    text = console.file.getvalue()
    assert "60 held-out queries over 200 documents" in text
    assert "nDCG@10" in text
    assert "Recall@100" in text
    line = next(line for line in text.splitlines() if "merged" in line)
    mean = evaluations["merged"].metrics["ndcg@10"]
    assert f"{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]" in line
    assert "< 0.001" in line


def test_baseline_must_be_evaluated(evaluations):
    with pytest.raises(ValueError, match="baseline `weak` is not among the evaluations bm25, base, merged"):
        comparison_rows(evaluations, "weak")


def test_rows_of_different_collections_make_no_table(evaluations):
    evaluations["bm25"] = replace(evaluations["bm25"], digest="0" * 64)
    with pytest.raises(ValueError, match="on different collections"):
        comparison_rows(evaluations, "base")
