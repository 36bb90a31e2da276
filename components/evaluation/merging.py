"""The weights of a merge, searched on a set of queries that nothing else is judged by."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from components.evaluation.collection import Collection
from components.evaluation.retrieval import evaluate_embedder
from components.merge.models import Merging, merge_models
from components.merge.search import Trial, search_shares
from components.merge.shares import Shares
from components.model.agreement import ENCODING_FILE
from components.model.inference import inference_embedder
from components.monitor import Monitor, Silent

METRIC = "ndcg@10"


def search_merge(
    models: Sequence[Path],
    base: Path | None,
    merging: Merging,
    development: Collection,
    *,
    trials: int = 20,
    tokens_per_batch: int = 8192,
    monitor: Monitor,
) -> list[Trial]:
    """Merge with several weights and rank them by nDCG@10; the best comes first.

    Args:
        models, base: as of `models.merge_models`.
        merging: how; its shares are what is searched for.
        development: a test collection of its own: on the one that models are judged by the result would look
            better than it is.
        trials: merges at most.

    Raises:
        ValueError: a model without `encoding.json`, or models that cannot be merged.
    """
    for model in models:
        if not (model / ENCODING_FILE).is_file():
            raise ValueError(
                f"{model} has no {ENCODING_FILE}, so it cannot be judged; run embedloom import on it first"
            )
    done = 0

    def score(shares: tuple[float, ...]) -> float:
        nonlocal done
        with tempfile.TemporaryDirectory() as directory:
            target = Path(directory) / "model"
            merge_models(models, base, target, replace(merging, shares=Shares(shares)), Silent())
            found = evaluate_embedder(development, inference_embedder(target), tokens_per_batch, Silent())
        value = found.metrics[METRIC].mean
        done += 1
        monitor.progress(done, trials, "merges")
        monitor.metrics({METRIC: value}, step=done)
        return value

    return search_shares(score, len(models), trials)
