"""A slerp of two checkpoints of 2 GB against mergekit's: time, memory, and the same tensors.

Run: python benchmarks/merge.py [--layers 14] [--rounds 3]
mergekit stands in a virtual environment of its own, which is built the first time (`peer_environment.py`). The
checkpoints are random weights in the layout of Llama, float32, the second being the first, scaled by 1.02, plus noise
of a third of its size. Each merge is a process of its own, ours and mergekit's in turn; the clock runs from after the
imports to the end, and so does the memory (the most that was resident, file pages included, above what the imports
took). The bars: at most 1.0 of mergekit's time, half of its memory, and every tensor equal to 1e-5. Medians; the last
line is JSON.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peer_environment import peer_python
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent

HIDDEN, INTERMEDIATE, VOCABULARY, HEADS = 1536, 4096, 32000, 16
T = 0.4
TIME_BAR, MEMORY_BAR, TOLERANCE = 1.0, 0.5, 1e-5

MEASURED = """
import json, sys, time

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024

def measure(merge):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before, began = status("VmRSS:"), time.perf_counter()
    merge()
    print(json.dumps({"seconds": time.perf_counter() - began, "bytes": status("VmHWM:") - before}))
"""
OURS = (
    MEASURED
    + """
from pathlib import Path
from components.merge.models import Merging, merge_models
from components.merge.shares import make_shares
from components.monitor import Silent
first, second, output, t, method = sys.argv[1:]
merging = Merging(make_shares([1 - float(t), float(t)], 2), method)
measure(lambda: merge_models([Path(first), Path(second)], None, Path(output), merging, Silent()))
"""
)
MERGEKIT = (
    MEASURED
    + """
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
first, second, output, t, _ = sys.argv[1:]
configuration = MergeConfiguration.model_validate({
    "merge_method": "slerp", "base_model": first, "dtype": "float32", "parameters": {"t": float(t)},
    "models": [{"model": first}, {"model": second}],
})
options = MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False)
measure(lambda: run_merge(configuration, output, options))
"""
)


def write_checkpoints(directory: Path, layers: int) -> tuple[Path, Path]:
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    shapes["model.norm.weight"] = (HIDDEN,)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (INTERMEDIATE, HIDDEN) for name in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
        shapes |= {f"{at}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "dtype": "float32",
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "vocab_size": VOCABULARY, "tie_word_embeddings": False,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)

    def randn(shape: tuple[int, ...]) -> torch.Tensor:
        return 0.02 * torch.randn(shape, generator=generator)

    first = {name: randn(shape) for name, shape in shapes.items()}
    paths = directory / "first", directory / "second"
    for path in paths:
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
    save_file(first, paths[0] / "model.safetensors", metadata={"format": "pt"})
    for name, shape in shapes.items():
        first[name] = 1.02 * first[name] + randn(shape) / 3
    save_file(first, paths[1] / "model.safetensors", metadata={"format": "pt"})
    return paths


def run(python: str, code: str, arguments: list[str]) -> dict[str, float]:
    environment = {"PYTHONPATH": str(ROOT)} if code is OURS else {"PYTHONPATH": ""}
    done = subprocess.run(
        [python, "-c", code, *arguments], capture_output=True, text=True, env=os.environ | environment
    )
    if done.returncode:
        raise RuntimeError(f"the merge failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def largest_difference(ours: Path, theirs: Path) -> float:
    where = {}
    for file in theirs.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            where |= dict.fromkeys(opened.keys(), file)
    largest = 0.0
    with safe_open(ours / "model.safetensors", "pt") as opened:
        if set(opened.keys()) != where.keys():
            raise RuntimeError(f"other tensors: {set(opened.keys()) ^ where.keys()}")
        for name in opened.keys():  # noqa: SIM118
            with safe_open(where[name], "pt") as other:
                gap = (opened.get_tensor(name) - other.get_tensor(name)).abs().max()
            largest = max(largest, float(gap))
    return largest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    python = str(peer_python("mergekit", ["mergekit"]))
    with tempfile.TemporaryDirectory(prefix="merge-") as temporary:
        directory = Path(temporary)
        first, second = write_checkpoints(directory, options.layers)
        size = (first / "model.safetensors").stat().st_size
        kinds = {
            "ours": (sys.executable, OURS, "slerp"),
            "mergekit": (python, MERGEKIT, "slerp"),
            "ours_karcher": (sys.executable, OURS, "karcher"),
        }
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        difference = 0.0
        for number in range(options.rounds + 1):  # the first brings the files into memory
            for kind, (interpreter, code, method) in kinds.items():
                output = directory / kind
                shutil.rmtree(output, ignore_errors=True)
                arguments = [str(first), str(second), str(output), str(T), method]
                measured = run(interpreter, code, arguments)
                if number:
                    found[kind].append(measured)
            if not number:
                difference = largest_difference(directory / "ours", directory / "mergekit")
    medians = {
        kind: {what: statistics.median(each[what] for each in rounds) for what in ("seconds", "bytes")}
        for kind, rounds in found.items()
    }
    for kind, values in medians.items():
        print(f"{kind:14s} {values['seconds']:7.2f} s   {values['bytes'] / 1e6:8.0f} MB above the imports")
    time_ratio = medians["ours"]["seconds"] / medians["mergekit"]["seconds"]
    memory_ratio = medians["ours"]["bytes"] / medians["mergekit"]["bytes"]
    print(f"largest difference between the two results: {difference:.2e}")
    holds = time_ratio <= TIME_BAR and memory_ratio <= MEMORY_BAR and difference <= TOLERANCE
    line = {
        "benchmark": "merge",
        "ours": round(medians["ours"]["seconds"], 3),
        "peer": round(medians["mergekit"]["seconds"], 3),
        "ratio": round(time_ratio, 3),
        "bar": TIME_BAR,
        "holds": holds,
        "detail": {
            "unit": "s",
            "checkpoint_bytes": size,
            "rounds": options.rounds,
            "threads": torch.get_num_threads(),
            "memory_ratio": round(memory_ratio, 3),
            "memory_bar": MEMORY_BAR,
            "memory_bytes": {kind: int(values["bytes"]) for kind, values in medians.items()},
            "seconds": {
                kind: [round(each["seconds"], 2) for each in rounds] for kind, rounds in found.items()
            },
            "largest_difference": difference,
            "tolerance": TOLERANCE,
        },
    }
    print(json.dumps(line))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
