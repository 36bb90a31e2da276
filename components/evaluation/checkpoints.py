"""The checkpoints of a training stage, judged one by one as they are written."""

import time
from collections.abc import Iterator
from typing import Protocol

from components.evaluation.cache import Encoder, load_encoder
from components.evaluation.collection import read_collection
from components.evaluation.evaluation import write_evaluation
from components.evaluation.retrieval import evaluate_embedder
from components.monitor import Monitor
from components.storage import Folder

POLL_S = 2.0


class Stage(Protocol):
    """A training stage that may still be at work."""

    @property
    def state(self) -> Folder:
        """While it works: `exports/step-000123`, a model directory, whole once `step-000123.whole` is there."""
        ...

    def output(self) -> Folder | None:
        """None as long as it works; then `checkpoints/step-000123`."""
        ...


def evaluate_checkpoints(
    *,
    stage: Stage,
    split: Folder,
    output: Folder,
    monitor: Monitor,
    tokens_per_batch: int = 8192,
    cache: Folder | None = None,
) -> dict[str, float]:
    """Judge every kept checkpoint on the evaluation side of a split, as `evaluate_model` does, for a curve.

    Nothing is chosen by it: the split is the one that all systems are judged on.

    Args:
        output: an evaluation a checkpoint, in a folder of its name.
        tokens_per_batch: padded tokens encoded at once; execution only.
        cache: a folder for vectors (`cache.CachedEncoder`): the last checkpoint is the stage's model; execution only.

    Returns:
        checkpoints, and nDCG@10 of the first, the best and the last one.
    """
    collection = read_collection(split)
    scores: dict[int, float] = {}
    for name, embedder in _checkpoints(stage, cache):
        evaluation = evaluate_embedder(collection, embedder, tokens_per_batch, monitor)
        write_evaluation(evaluation, output / name)
        step = int(name.removeprefix("step-"))
        scores[step] = evaluation.metrics["ndcg@10"].mean
        means = {metric: interval.mean for metric, interval in evaluation.metrics.items()}
        monitor.metrics(means, step=step)
    ordered = [scores[step] for step in sorted(scores)]
    return {
        "checkpoints": len(ordered),
        "ndcg@10_first": ordered[0],
        "ndcg@10_best": max(ordered),
        "ndcg@10_last": ordered[-1],
    }


def _checkpoints(stage: Stage, cache: Folder | None) -> Iterator[tuple[str, Encoder]]:
    """Each one once, loaded, until the stage is done."""
    seen: set[str] = set()
    while True:
        finished = stage.output()
        if finished is not None:
            folder, names = finished / "checkpoints", (finished / "checkpoints").names("step-*")
        else:
            folder = stage.state / "exports"
            names = [name.removesuffix(".whole") for name in folder.names("step-*.whole")]
        for name in names:
            if name in seen:
                continue
            try:
                embedder = load_encoder(folder / name, cache)
            except (OSError, ValueError):
                if finished is not None or stage.output() is None:
                    raise
                break  # the stage has ended meanwhile and cleared its state away: its output has them all
            seen.add(name)
            yield name, embedder
        if finished is not None:
            return
        time.sleep(POLL_S)
