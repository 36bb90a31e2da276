"""The checkpoints of a reranker, merged: a reranker with the same prompt and the mean of their weights."""

from pathlib import Path

import torch
from tiny_rerankers import write_yes_no_model

from components.merge.spherical import merge_checkpoints
from components.model.prompt import RerankerSpec
from components.model.reranker import YesNoReranker, load_reranker
from components.model.reranker_export import check_golden_scores
from components.monitor import Silent
from components.storage import Folder


def test_a_reranker_comes_out(tmp_path: Path) -> None:
    base = load_reranker(
        write_yes_no_model(tmp_path / "source"), spec=RerankerSpec(length=600, instruction="Find")
    )
    base.save(tmp_path / "base")
    moved = []
    for step in (1, 2):
        reranker = load_reranker(tmp_path / "base")
        torch.manual_seed(step)
        with torch.no_grad():
            for parameter in reranker.model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        reranker.save(tmp_path / "stage" / "checkpoints" / f"step-{step:06d}")
        moved.append(reranker.model.state_dict())
    merge_checkpoints(
        checkpoints=Folder(str(tmp_path / "stage")), base=Folder(str(tmp_path / "base")), space="weight",
        output=Folder(str(tmp_path / "merged")), monitor=Silent(),
    )  # fmt: skip
    merged = load_reranker(tmp_path / "merged")
    assert isinstance(merged, YesNoReranker)
    assert merged.spec == load_reranker(tmp_path / "base").spec
    assert check_golden_scores(merged, tmp_path / "merged") < 1e-5
    for name, tensor in merged.model.state_dict().items():
        # so near to one another, the directions' mean is the average's
        torch.testing.assert_close(tensor, (moved[0][name] + moved[1][name]) / 2, rtol=1e-2, atol=1e-3)
