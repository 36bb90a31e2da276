"""A stage on real Ray Train workers: one is killed in the middle, and it ends in the same bits as undisturbed.

That the whole stage is killed and called again is in tests/workflow.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from deadly_monitor import DeadlyMonitor
from tiny_model import write_tiny_model
from training_rows import pair_table, write_plan

from components.model.embedder import Embedder
from components.model.export import check_golden, weights_digest
from components.storage import Folder
from components.training.stage import train_stage


def train(batches: Folder, model: Path, directory: Path, **changes: Any) -> dict[str, float]:
    arguments: dict[str, Any] = {
        "batches": batches,
        "model": Folder(str(model)),
        "objective": {"temperature": 0.05},
        "learning_rate": 1e-3,
        "checkpoints": 2,
        "micro_batch_tokens": 256,
        "checkpoint_every_s": 0,
        "max_failures": 0,
        "output": Folder(str(directory / "output")),
        "state": Folder(str(directory / "state")),
        "monitor": DeadlyMonitor(str(directory)),
    }
    directory.mkdir(exist_ok=True)
    return train_stage(**(arguments | changes))


@pytest.mark.usefixtures("ray_cluster")
def test_a_stage_whose_worker_was_killed_ends_in_the_same_bits(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model", dropout=0.1)
    batches = write_plan(model, tmp_path, pair_table(40), batch_size=8, epochs=1.5)  # 5 an epoch

    undisturbed = train(batches, model, tmp_path / "undisturbed")
    # Ray learns of checkpoints by asking every second; seven steps of this model may take less.
    noted = "state/train/checkpoint_manager_snapshot.json"
    deadly = DeadlyMonitor(str(tmp_path / "killed"), dies_at_step=7, awaited=noted)
    resumed = train(batches, model, tmp_path / "killed", monitor=deadly, max_failures=1)
    assert (tmp_path / "killed" / "died").exists()

    for name in ("model", "checkpoints/step-000006", "checkpoints/step-000008"):
        digests = {weights_digest(tmp_path / run / "output" / name) for run in ("undisturbed", "killed")}
        assert len(digests) == 1
        assert digests != {weights_digest(model)}
    assert resumed["final_loss"] == undisturbed["final_loss"]
    assert undisturbed["steps"] == 8
    assert 0 <= undisturbed["data_wait_share"] < 1
    lines = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    # It went on from a checkpoint, not from the start, and took every step to the end.
    went_on_from = steps[7]
    assert 1 < went_on_from <= 7
    assert steps == [*range(1, 8), *range(went_on_from, 9)]
    assert {line["loss"] for line in lines if line["step"] == 7} == {lines[6]["loss"]}

    trained = tmp_path / "undisturbed" / "output" / "model"
    assert check_golden(Embedder.load(trained), trained) < 1e-5
    # Called once more, it has only to hand over what is there.
    again = train(batches, model, tmp_path / "killed", output=Folder(str(tmp_path / "again")))
    assert again == resumed
    assert weights_digest(tmp_path / "again" / "model") == weights_digest(trained)

    with pytest.raises(ValueError, match="5 training workers need 5 CPUs; the cluster has 2"):
        train(batches, model, tmp_path / "wide", num_workers=5)
