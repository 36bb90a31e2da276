"""What a stage refuses, in one sentence, before it computes."""

from pathlib import Path
from typing import Any

import pytest
from training_rows import pair_table

from components.monitor import Silent
from components.storage import Folder
from components.training.stage import train_stage


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 3}, "batch_size is 3; 2 workers need at least 4, two rows each"),
        ({"epochs": None}, "give epochs or steps, exactly one of them"),
        ({"steps": 5}, "give epochs or steps, exactly one of them"),
        ({"epochs": -1.0}, "epochs or steps must be above 0"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"objective": {"tau": 1}}, "objective.tau is not a field"),
        (
            {"batch_size": 50},
            "12 training pairs do not fill one batch; batch_size must be at most 12, not 50",
        ),
        ({"checkpoints": 9}, "9 checkpoints do not fit"),
        ({"rows": 0}, "no training pairs: every pair table of the stage is empty"),
    ],
)
def test_refused(tmp_path: Path, tiny_model: Path, changes: dict[str, Any], message: str) -> None:
    rows = changes.pop("rows", 12)
    pairs = Folder(str(tmp_path / "pairs"))
    pairs.write_table("pairs.parquet", pair_table(12).slice(0, rows))
    arguments: dict[str, Any] = {
        "pairs": pairs,
        "model": Folder(str(tiny_model)),
        "objective": {},
        "batch_size": 4,
        "epochs": 1.0,
        "learning_rate": 1e-3,
        "output": Folder(str(tmp_path / "output")),
        "state": Folder(str(tmp_path / "state")),
        "monitor": Silent(),
    }
    with pytest.raises(ValueError, match=message):
        train_stage(**(arguments | changes))
