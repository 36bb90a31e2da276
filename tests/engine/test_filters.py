"""Filters by a pool of workers: the same pairs as in one process."""

from pathlib import Path

import numpy as np
import pytest
from filter_pairs import make_rows, outcome, pair, run, write_parts
from tiny_model import write_tiny_model
from tiny_rerankers import write_cross_encoder

from components.monitor import Silent
from components.pairs.filters.consistency import filter_by_consistency
from components.pairs.filters.cosine import filter_by_cosine
from components.pairs.filters.reranker import filter_by_reranker
from components.storage import Folder


@pytest.mark.parametrize(
    ("step", "write_model", "settings"),
    [
        (filter_by_cosine, write_tiny_model, {"quantile": 0.4}),
        (filter_by_reranker, write_cross_encoder, {"quantile": 0.4}),
        (filter_by_consistency, write_tiny_model, {"k": 3, "rows_per_shard": 16}),
    ],
)
def test_workers_keep_the_same_pairs(ray_cluster, tmp_path: Path, step, write_model, settings):
    generator = np.random.default_rng(5)
    more = [
        pair(row, *(" ".join(f"w{word}" for word in generator.integers(0, 200, length)) for length in (5, 9)))
        for row in range(30, 70)
    ]
    pairs = write_parts(Folder(str(tmp_path / "pairs")), [*make_rows(), *more], 20)
    model = Folder(str(write_model(tmp_path / "model")))
    found = []
    for workers in (1, 2):
        output = Folder(str(tmp_path / f"out{workers}"))
        numbers = run(
            step, output, pairs=pairs, model=model, monitor=Silent(), num_workers=workers, **settings
        )
        found.append((numbers, *outcome(output)))
    (numbers, kept, rejected, reasons), (again, kept_again, rejected_again, reasons_again) = found
    assert (kept_again.keys(), reasons_again) == (kept.keys(), reasons)
    assert kept_again == pytest.approx(kept, abs=1e-6)
    assert rejected_again == pytest.approx(rejected, abs=1e-6, nan_ok=True)
    assert again == pytest.approx(numbers)
    assert numbers["rows_in"] == 63
