"""The cosine filter against cosines computed one pair at a time."""

import numpy as np
import pyarrow as pa
import pytest

from components.corpus.schema import PAIRS, conform
from components.model.embedder import Embedder
from components.monitor import Silent
from components.pairs.filters import filter_pairs
from components.storage import Folder


class Watching(Silent):
    """A monitor that keeps the figures' names."""

    figures: list[str] = []  # noqa: RUF012

    def figure(self, name, figure):
        figure.savefig("/dev/null", format="png")
        self.figures.append(name)


@pytest.fixture
def pairs(tmp_path) -> Folder:
    generator = np.random.default_rng(0)
    rows = [
        {
            "pair_id": f"p{row}",
            "query": " ".join(f"w{word}" for word in generator.integers(0, 200, 4)),
            "positive": " ".join(f"w{word}" for word in generator.integers(0, 200, 12)),
            "query_id": f"q{row}",
            "positive_id": f"d{row}",
            "task": "retrieval",
            "instruction": None if row % 2 else "find",
            "language": "en",
            "origin": "synthetic",
        }
        for row in range(20)
    ]
    folder = Folder(str(tmp_path / "pairs"))
    folder.write_table("pairs.parquet", conform(pa.Table.from_pylist(rows), PAIRS))
    return folder


def test_threshold_keeps_what_reaches_it(pairs, model_directory, tmp_path):
    embedder = Embedder.load(model_directory)
    rows = pairs.read_table("pairs.parquet").to_pylist()
    positive_ND = embedder.encode([row["positive"] for row in rows], "document").astype(np.float64)
    expected = {
        row["pair_id"]: float(embedder.encode([row["query"]], "query", row["instruction"])[0] @ positive_D)
        for row, positive_D in zip(rows, positive_ND, strict=True)
    }
    threshold = sorted(expected.values())[7] - 1e-6
    output, monitor = Folder(str(tmp_path / "out")), Watching()

    numbers = filter_pairs(
        pairs=pairs, model=Folder(str(model_directory)), threshold=threshold, output=output, monitor=monitor
    )

    kept = output.read_table("pairs.parquet")
    rejected = output.read_table("rejected/rejected.parquet")
    assert kept.schema == PAIRS
    scores = dict(zip(kept["pair_id"].to_pylist(), kept["score"].to_pylist(), strict=True))
    turned_away = dict(zip(rejected["pair_id"].to_pylist(), rejected["score"].to_pylist(), strict=True))
    assert scores.keys() == {key for key, score in expected.items() if score >= threshold}
    assert scores | turned_away == pytest.approx(expected, abs=1e-5)
    assert set(rejected["reason"].to_pylist()) == {f"cosine below {threshold:.4f}"}
    assert (numbers["rows_in"], numbers["rows_out"], numbers["kept_share"]) == (20, 13, 0.65)
    assert monitor.figures == ["filter_scores.png"]


@pytest.mark.parametrize(("quantile", "kept"), [(0.25, 15), (0.5, 10), (0.0, 20)])
def test_quantile_drops_that_share(pairs, model_directory, tmp_path, quantile, kept):
    output = Folder(str(tmp_path / "out"))
    filter_pairs(
        pairs=pairs, model=Folder(str(model_directory)), quantile=quantile, output=output, monitor=Silent()
    )
    table, rejected = output.read_table("pairs.parquet"), output.read_table("rejected/rejected.parquet")
    assert table.num_rows == kept
    if rejected.num_rows:
        assert max(rejected["score"].to_pylist()) < min(table["score"].to_pylist())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either threshold or quantile"),
        ({"threshold": 0.5, "quantile": 0.5}, "give either threshold or quantile"),
        ({"quantile": 1.0}, "quantile must be in"),
        ({"threshold": 1.1}, r"threshold 1.1 keeps none of 20 pairs"),
    ],
)
def test_refuses(pairs, model_directory, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        filter_pairs(
            pairs=pairs,
            model=Folder(str(model_directory)),
            output=Folder(str(tmp_path / "out")),
            monitor=Silent(),
            **settings,
        )
