"""What a stage refuses, in one sentence, before it computes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_rows import pair_table, write_plan

from components.model.embedder import Embedder
from components.monitor import Silent
from components.storage import Folder
from components.training.stage import drop_unreadable_checkpoints, train_stage


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_workers": 5}, "the smallest batch of the plan has 4 rows; 5 workers need one each"),
        ({"template": "q {text}"}, "tokenised for a model with another tokenizer or other templates"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"trainable": "head"}, "trainable is 'head'"),
        ({"gradient_sync": "never"}, "gradient_sync is 'never'"),
        ({"accumulate_steps": 0}, "accumulate_steps is 0; it must be at least 1"),
        ({"graph_tokens": -1}, "graph_tokens is -1; it must be at least 0"),
        ({"objective": {"tau": 1}}, "objective.tau is not a field"),
        ({"checkpoints": 9}, "9 checkpoints do not fit"),
    ],
)
def test_refused(tmp_path: Path, tiny_model: Path, changes: dict[str, Any], message: str) -> None:
    batches = write_plan(tiny_model, tmp_path, pair_table(12))
    if "template" in changes:
        embedder = Embedder.load(tiny_model)
        embedder.spec = replace(embedder.spec, query_template=changes.pop("template"))
        embedder.save(tiny_model)
    arguments: dict[str, Any] = {
        "batches": batches,
        "model": Folder(str(tiny_model)),
        "objective": {},
        "learning_rate": 1e-3,
        "output": Folder(str(tmp_path / "output")),
        "state": Folder(str(tmp_path / "state")),
        "monitor": Silent(),
    }
    with pytest.raises(ValueError, match=message):
        train_stage(**(arguments | changes))


@pytest.mark.parametrize(
    ("note", "stays"), [(b"", False), (b'{"checkpoint_results": [', False), (b"{}", True)]
)
def test_a_note_of_checkpoints_that_a_full_disk_has_torn(tmp_path: Path, note: bytes, stays: bool) -> None:
    state = Folder(str(tmp_path))
    state.write("train/checkpoint_manager_snapshot.json", note)
    state.write("train/checkpoint-1/weights", b"half")
    state.write("history/0.json", b"{}")
    drop_unreadable_checkpoints(state)
    assert state.exists("train/checkpoint-1/weights") == stays
    assert state.exists("history/0.json")
