"""A model with scores that were measured elsewhere, and the card of it."""

from pathlib import Path

import numpy as np

from components.evaluation.collection import Collection
from components.evaluation.evaluation import rank_and_score, write_evaluation
from components.monitor import Silent
from components.serving.card import write_card
from components.storage import Folder


def write_judged_card(
    model: Path, folder: Path, output: Path, *, kind: str = "embedding", **told: object
) -> dict[str, float]:
    """The card of a model that found the one relevant document of ten queries at rank 1; its base, at rank 2.

    Args:
        folder: takes the evaluations.
        told: arguments of `write_card` that are to be others.
    """
    names = [f"d{n}" for n in range(10)]
    collection = Collection(
        document_ids=names,
        passages=[f"w{n}" for n in range(10)],
        query_ids=[f"q{n}" for n in range(10)],
        queries=[f"w{n}" for n in range(10)],
        qrels={f"q{n}": {f"d{n}": 1} for n in range(10)},
        queries_left_out=0,
    )
    own = np.arange(10)
    found = {"model": np.stack([own, (own + 1) % 10], 1), "base": np.stack([(own + 1) % 10, own], 1)}
    for name, indices in found.items():
        evaluation = rank_and_score(collection, np.tile([2.0, 1.0], (10, 1)), indices, seconds=0.1)
        write_evaluation(evaluation, Folder(str(folder / f"evaluation-{name}")))
    arguments = {
        "kind": kind,
        "recipe": {"name": "docs", "description": "For w0 | w1"},
        "ingredients": {},
        "places": {},
        "model": Folder(str(model)),
        "evaluation": Folder(str(folder / "evaluation-model")),
        "base_evaluation": Folder(str(folder / "evaluation-base")),
        "output": Folder(str(output)),
        "monitor": Silent(),
    }
    return write_card(**(arguments | told))  # type: ignore[arg-type]
