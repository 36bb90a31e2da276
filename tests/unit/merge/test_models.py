"""The merge of whole model directories: what is kept, what is refused, what a crash leaves."""

import json
import multiprocessing
import os
import shutil
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from merge_stage import moved, write_stage
from safetensors.torch import load_file, save_file
from tiny_model import write_tiny_model
from transformers import AutoModel
from typer.testing import CliRunner

from components.merge import tensor as merge_of_tensors
from components.merge.models import Merging, merge_models
from components.merge.shares import make_shares
from components.merge.spherical import merge_checkpoints
from components.merge.weights import Weights
from components.model.embedder import Embedder
from components.model.export import check_golden, weights_digest
from components.monitor import Silent
from components.storage import Folder
from workflows.cli import app

WORDS = "embeddings.word_embeddings.weight"
DENSE = "encoder.layer.0.intermediate.dense.weight"


@dataclass(frozen=True)
class Kept(Silent):
    names: list[str] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)

    def figure(self, name: str, figure: object) -> None:
        self.names.append(name)

    def artifact(self, name: str, data: bytes) -> None:
        self.texts[name] = data


def equal(count: int, **options) -> Merging:
    return Merging(make_shares(None, count), **options)


@pytest.fixture
def stage(tmp_path: Path) -> list[Path]:
    """Three models that were moved a little from one base."""
    write_stage(tmp_path, 3)
    return sorted((tmp_path / "stage" / "checkpoints").iterdir())


def tensors_of(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


@pytest.mark.parametrize("space", ["task", "weight"])
@pytest.mark.parametrize("per", ["tensor", "row"])
def test_a_merged_directory_is_a_model(tmp_path: Path, space, per) -> None:
    base, checkpoints = write_stage(tmp_path, 3)
    monitor = Kept()
    target = tmp_path / "merged"
    report = merge_checkpoints(
        checkpoints=checkpoints, base=base, space=space, per=per, output=Folder(str(target)), monitor=monitor
    )
    # random moves stand at right angles to one another, the weights themselves nearly in line
    assert report["angle_mean"] == pytest.approx(90, abs=5) if space == "task" else report["angle_mean"] < 80
    assert report["checkpoints"] == 3
    assert monitor.names == ["merge_angles.png"]
    words = monitor.texts["merge.txt"].decode()
    assert ("it is another model than their average" if space == "task" else "apart in the mean") in words
    assert check_golden(Embedder.load(target), target) < 1e-6
    encoding = json.loads((target / "encoding.json").read_text())
    assert encoding["weights_digest"] == weights_digest(target)
    inputs = sorted((tmp_path / "stage" / "checkpoints").iterdir())
    assert encoding["weights_digest"] not in {weights_digest(path) for path in [*inputs, tmp_path / "base"]}
    assert (target / "tokenizer.json").read_bytes() == (inputs[0] / "tokenizer.json").read_bytes()
    assert not list(target.glob(".*"))


def test_the_files_are_read_as_safetensors_itself_reads_them(stage: list[Path], tmp_path: Path) -> None:
    """A weight of 1 for one model: the result is that model, byte for byte, and so is its file."""
    merging = Merging(make_shares([0, 0, 1], 3), "linear")
    merge_models(stage, None, tmp_path / "merged", merging, Silent())
    for name, tensor in tensors_of(stage[2]).items():
        assert torch.equal(tensors_of(tmp_path / "merged")[name], tensor)
    assert weights_digest(tmp_path / "merged") == weights_digest(stage[2])


def test_order_of_the_models_does_not_matter(stage: list[Path], tmp_path: Path) -> None:
    merge_models(stage, None, tmp_path / "one", Merging(make_shares([1, 2, 3], 3)), Silent())
    merge_models(stage[::-1], None, tmp_path / "other", Merging(make_shares([3, 2, 1], 3)), Silent())
    one, other = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "other")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6)


def test_a_nearly_parallel_merge_says_that_it_was_an_average(stage: list[Path], tmp_path: Path) -> None:
    for number, model in enumerate(stage):
        save_file(
            moved(tensors_of(stage[0]), number, 1e-4), model / "model.safetensors", metadata={"format": "pt"}
        )
    monitor = Kept()
    merge_checkpoints(
        checkpoints=Folder(str(tmp_path / "stage")), base=Folder(str(tmp_path / "base")), space="weight",
        output=Folder(str(tmp_path / "merged")), monitor=monitor,
    )  # fmt: skip
    assert b"in effect this merge was an average" in monitor.texts["merge.txt"]


def test_layers_have_weights_of_their_own(stage: list[Path], tmp_path: Path) -> None:
    layers = {"encoder.layer.0.*": [1, 0, 0], "encoder.*": [0, 1, 0]}
    merging = Merging(make_shares([0, 0, 1], 3, layers), "linear")
    merge_models(stage, None, tmp_path / "merged", merging, Silent())
    merged = tensors_of(tmp_path / "merged")
    for name, model in ((DENSE, 0), (DENSE.replace("0", "1"), 1), (WORDS, 2)):
        assert torch.equal(merged[name], tensors_of(stage[model])[name])
    with pytest.raises(ValueError, match=r"no tensor is called 'layers\.\*'"):
        merge_models(
            stage, None, tmp_path / "other", Merging(make_shares(None, 3, {"layers.*": [1, 1, 1]})), Silent()
        )


def test_one_checkpoint_is_itself(tmp_path: Path) -> None:
    base, checkpoints = write_stage(tmp_path, 1)
    merge_checkpoints(
        checkpoints=checkpoints, base=base, output=Folder(str(tmp_path / "merged")), monitor=Silent()
    )
    for name, tensor in tensors_of(tmp_path / "stage/checkpoints/step-000000").items():
        torch.testing.assert_close(tensors_of(tmp_path / "merged")[name], tensor, rtol=0, atol=1e-7)


def test_shards_and_modules_in_folders_are_merged(stage: list[Path], tmp_path: Path) -> None:
    """Models of several files, laid out differently, one with a module that has weights in a folder of its own."""
    for model in stage:
        (model / "2_Dense").mkdir()
        (model / "2_Dense" / "config.json").write_text('{"in_features": 32}')
        save_file({"linear.weight": torch.eye(4) * len(model.name)}, model / "2_Dense" / "model.safetensors")
    tensors, names = tensors_of(stage[2]), sorted(tensors_of(stage[2]))
    (stage[2] / "model.safetensors").unlink()
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, some in halves.items():
        save_file({name: tensors[name] for name in some}, stage[2] / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, some in halves.items() for name in some}}
    (stage[2] / "model.safetensors.index.json").write_text(json.dumps(index))
    merge_models(stage, None, tmp_path / "merged", equal(3, method="linear"), Silent())
    assert (
        json.loads((tmp_path / "merged/model.safetensors.index.json").read_text())["weight_map"]
        == index["weight_map"]
    )
    merged = {name for file in halves for name in load_file(tmp_path / "merged" / file)}
    assert merged == set(names)
    assert load_file(tmp_path / "merged/2_Dense/model.safetensors")["linear.weight"][0, 0] == len(
        stage[0].name
    )
    Embedder.load(tmp_path / "merged")


def test_a_tied_head_that_one_model_leaves_out_is_left_out(stage: list[Path], tmp_path: Path) -> None:
    for model in stage:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
        (model / "encoding.json").unlink()
    tensors = tensors_of(stage[1])
    head = {"lm_head.weight": tensors[WORDS].clone()}
    save_file(tensors | head, stage[1] / "model.safetensors", metadata={"format": "pt"})
    merge_models(stage, None, tmp_path / "merged", equal(3), Silent())
    assert "lm_head.weight" not in tensors_of(tmp_path / "merged")
    # where every model has both, they stay one, whatever weights a layer has
    for model in stage:
        tensors = tensors_of(model)
        head = {"lm_head.weight": tensors[WORDS].clone()}
        save_file(tensors | head, model / "model.safetensors", metadata={"format": "pt"})
    shares = make_shares(None, 3, {"lm_head*": [1, 0, 0]})
    merge_models(stage, None, tmp_path / "both", Merging(shares), Silent())
    both = tensors_of(tmp_path / "both")
    assert torch.equal(both["lm_head.weight"], both[WORDS])


def test_integers_are_copied_or_refused(stage: list[Path], tmp_path: Path) -> None:
    for model in stage:
        (model / "encoding.json").unlink()
        positions = {"embeddings.position_ids": torch.arange(64)}
        save_file(tensors_of(model) | positions, model / "model.safetensors", metadata={"format": "pt"})
    merge_models(stage, None, tmp_path / "merged", equal(3), Silent())
    assert torch.equal(tensors_of(tmp_path / "merged")["embeddings.position_ids"], torch.arange(64))
    other = {"embeddings.position_ids": torch.arange(64) + 1}
    save_file(tensors_of(stage[0]) | other, stage[0] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"the integers of embeddings\.position_ids differ"):
        merge_models(stage, None, tmp_path / "other", equal(3), Silent())
    assert not (tmp_path / "other" / "config.json").exists()


def test_refusals(stage: list[Path], tmp_path: Path) -> None:
    base, checkpoints = Folder(str(tmp_path / "base")), Folder(str(tmp_path / "stage"))
    output = Folder(str(tmp_path / "merged"))
    step = {"checkpoints": checkpoints, "base": base, "output": output, "monitor": Silent()}
    with pytest.raises(ValueError, match=r"weights are \[1.0\]; they must be 3 numbers"):
        merge_checkpoints(**step, weights=[1.0])
    with pytest.raises(ValueError, match="has no checkpoints to merge"):
        merge_checkpoints(**step | {"checkpoints": base})
    with pytest.raises(ValueError, match="space is 'sphere'"):
        merge_checkpoints(**step, space="sphere")
    with pytest.raises(ValueError, match="method is 'median'"):
        merge_checkpoints(**step, method="median")
    with pytest.raises(ValueError, match="slerp is between two models, and there are 3"):
        merge_checkpoints(**step, method="slerp")
    path = stage[0] / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {WORDS: tensors[WORDS][:-1].clone()}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"the tensor {WORDS} has shape"):
        merge_checkpoints(**step)
    save_file(tensors | {WORDS: tensors[WORDS].bfloat16()}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"the tensor {WORDS} is torch"):
        merge_checkpoints(**step)
    del tensors[WORDS]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"the tensor {WORDS} of .* is missing in .*step-000000"):
        merge_checkpoints(**step)


def test_models_that_encode_differently_are_refused(stage: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(stage[0], other)
    encoding = json.loads((other / "encoding.json").read_text())
    encoding["spec"]["query_template"] = "query: {text}"
    (other / "encoding.json").write_text(json.dumps(encoding))
    with pytest.raises(ValueError, match=r"query_template is 'query: \{text\}' in .*other and '\{text\}' in"):
        merge_models([stage[1], other], None, tmp_path / "merged", equal(2), Silent())
    shutil.rmtree(other)
    shutil.copytree(stage[0], other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["w0"], tokenizer["model"]["vocab"]["w1"] = 5, 4
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"tokenizer\.json differs between"):
        merge_models([stage[1], other], None, tmp_path / "merged", equal(2), Silent())


def test_a_folder_that_holds_something_is_not_written_to(stage: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists and is not empty"):
        merge_models(stage[:2], None, tmp_path, equal(2), Silent())


FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["components.merge.models", "transformers.models.bert.modeling_bert"])


@dataclass(frozen=True)
class Dies(Silent):
    after: int

    def progress(self, done: float, total: float | None, unit: str, **facts: float) -> None:
        if done == self.after:
            os._exit(9)


def merge_and_die(after: int, target: Path, models: list[Path]) -> None:
    merge_models(models, None, target, equal(2), Dies(after))


@pytest.mark.parametrize("tensor", [1, 37])
def test_a_merge_that_dies_leaves_nothing_that_loads_and_can_be_repeated(
    stage: list[Path], tmp_path: Path, tensor: int
) -> None:
    target = tmp_path / "merged"
    process = FORKED.Process(target=merge_and_die, args=(tensor, target, stage[:2]))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not (target / "config.json").exists()
    for folder in (target, target / ".merging"):
        with pytest.raises((ValueError, OSError)):
            AutoModel.from_pretrained(folder)
    # killed a little later, with some files in their place
    (target / ".merging" / "tokenizer.json").rename(target / "tokenizer.json")
    merge_models(stage[:2], None, target, equal(2), Silent())
    assert check_golden(Embedder.load(target), target) < 1e-6
    assert not (target / ".merging").exists()


def test_killed_at_any_time_it_is_whole_or_no_model(stage: list[Path], tmp_path: Path) -> None:
    """SIGKILL at times spread over the whole of a merge."""
    target = tmp_path / "merged"
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
        process = FORKED.Process(target=merge_and_die, args=(-1, target, stage[:2]))
        process.start()
        while not target.exists() and process.is_alive():
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
        process.join()
        if (target / "config.json").exists():
            check_golden(Embedder.load(target), target)
        else:
            with pytest.raises((ValueError, OSError)):
                AutoModel.from_pretrained(target)
        shutil.rmtree(target, ignore_errors=True)


def measure_merge(target: Path, models: list[Path], small: list[Path], found: Connection) -> None:
    """By how much the resident memory rises, in bytes, where pieces are of 4 MiB."""
    merge_of_tensors.HELD = 1 << 20
    # What a merge imports, and the pages of libraries that it comes by, are not what is measured.
    merge_models(small, None, target.with_name("small"), equal(2), Silent())

    def resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    merge_models(models, None, target, equal(2), Silent())
    found.send(resident("VmHWM") - before)


def test_memory_is_a_piece_of_a_tensor_of_each_model(tmp_path: Path) -> None:
    """Two models of 64 MB in one tensor: less than half of one of them is held."""
    for name, size in (("a", 4000), ("b", 4000), ("c", 40), ("d", 40)):
        write_tiny_model(tmp_path / name)
        (tmp_path / name / "encoding.json").unlink()
        generator = torch.Generator().manual_seed(ord(name))
        save_file({"w": torch.randn(size, size, generator=generator)}, tmp_path / name / "model.safetensors")
    a, b, c, d = (tmp_path / name for name in "abcd")
    receiving, sending = FORKED.Pipe(duplex=False)
    arguments = (tmp_path / "merged", [a, b], [c, d], sending)
    process = FORKED.Process(target=measure_merge, args=arguments)
    process.start()
    sending.close()  # else nobody would notice that it ended without a word
    process.join()
    assert receiving.recv() < 32e6
    expected = load_file(tmp_path / "merged/model.safetensors")["w"]
    with Weights(tmp_path / "merged") as weights:
        assert torch.equal(weights.read("w", 5, 4000), expected.flatten()[5:4000])


def test_the_command_merges_models_and_says_what_came_of_it(stage: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "merged"
    models = [str(model) for model in stage[:2]]
    done = CliRunner().invoke(
        app, ["merge", *models, "-o", str(target), "--method", "slerp", "--weight", "1", "--weight", "3"]
    )
    assert done.exit_code == 0, done.output
    assert "apart in the mean over all weights" in done.output
    assert (target / "merge.txt").read_text().strip() in " ".join(done.output.split())
    assert (target / "merge_angles.png").stat().st_size > 1000
    check_golden(Embedder.load(target), target)
    refused = CliRunner().invoke(app, ["merge", *models, "-o", str(target)])
    assert "exists and is not empty" in str(refused.exception)
    pattern = CliRunner().invoke(app, ["merge", *models, "-o", str(tmp_path / "x"), "--layer", "encoder=1,b"])
    assert "write PATTERN=W,W" in str(pattern.exception)
