"""Mining over a cluster: the same negatives as in one process, also when a worker is killed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from corpus_tables import write_corpus
from tiny_model import write_tiny_model

from components.corpus.schema import PAIRS, conform, passage
from components.monitor import Silent
from components.pairs.mining import mine_negatives
from components.pairs.mining_block import PAIRS_PER_BLOCK
from components.storage import Folder

DOCUMENTS, PAIR_COUNT = 400, PAIRS_PER_BLOCK + 100


class Killing(Silent):
    """Kills one encoding worker as soon as the first file is done."""

    def __init__(self) -> None:
        object.__setattr__(self, "killed", [])

    def progress(self, done: float, total: float | None, unit: str, **facts: float) -> None:
        if unit == "texts" and not self.killed:  # type: ignore[attr-defined]
            workers = [
                process for process in psutil.Process().children(recursive=True)
                if "MapWorker" in process.name() or "MapBatches" in process.name()
            ]  # fmt: skip
            for process in workers[:1]:
                process.kill()
                self.killed.append(process.pid)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    root = Folder(str(tmp_path_factory.mktemp("mining")))
    generator = np.random.default_rng(0)

    def words(number: int) -> str:
        return " ".join(f"w{word}" for word in generator.integers(0, 200, number))

    documents = {f"d{row}": (f"w{row % 200}" if row % 2 else None, words(12)) for row in range(DOCUMENTS)}
    queries = {f"q{row}": words(3) for row in range(PAIR_COUNT)}
    write_corpus(root / "split" / "train", documents, queries.items(), [("q1", "d2", "train")])
    rows = [
        {
            "pair_id": f"p{row}",
            "query": queries[key],
            "positive": passage(*documents[f"d{row % DOCUMENTS}"]) if row % 3 else words(10),
            "query_id": key,
            "positive_id": f"d{row % DOCUMENTS}",
            "instruction": "find" if row % 2 else None,
            "task": "retrieval",
            "language": "en",
            "origin": "labelled",
        }
        for row, key in enumerate(queries)
    ]
    (root / "pairs").write_table("pairs.parquet", conform(pa.Table.from_pylist(rows), PAIRS))
    model = write_tiny_model(tmp_path_factory.mktemp("tiny-model"))
    return {"pairs": root / "pairs", "split": root / "split", "model": Folder(str(model))}


def mine(inputs: Mapping[str, Any], folder: Path, **execution: Any) -> tuple[pa.Table, dict[str, float]]:
    output = Folder(str(folder / "out"))
    numbers = mine_negatives(
        **inputs,
        negatives_per_query=3,
        window=[2, 20],
        relative_margin=None,
        near_copy_cosine=None,
        output=output,
        state=Folder(str(folder / "state")),
        rows_per_shard=50,
        **({"monitor": Silent()} | execution),
    )
    return output.read_table("pairs.parquet"), numbers


def test_workers_find_what_one_process_finds_also_when_one_is_killed(
    ray_cluster: None, inputs: Mapping[str, Any], tmp_path: Path
):
    monitor = Killing()
    spread, spread_numbers = mine(inputs, tmp_path / "spread", num_workers=2, monitor=monitor)
    alone, alone_numbers = mine(inputs, tmp_path / "alone")
    assert monitor.killed  # type: ignore[attr-defined]
    assert spread.num_rows == PAIR_COUNT
    found, expected = (table["negative_ids"].to_pylist() for table in (spread, alone))
    # Other threads, other last bits: of two documents that score all but alike the other may come first.
    assert np.mean([one == other for one, other in zip(found, expected, strict=True)]) > 0.998
    assert min(map(len, found)) == 3
    kept = [name for name in PAIRS.names if name not in ("measured", "negatives", "negative_ids")]
    assert spread.select(kept).equals(alone.select(kept))
    np.testing.assert_allclose(spread["measured"].to_numpy(), alone["measured"].to_numpy(), atol=1e-6)
    assert spread_numbers == pytest.approx(alone_numbers, rel=1e-3)
