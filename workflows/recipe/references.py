"""What each step of a recipe reads: the earlier steps that it names, or the nearest ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflows.recipe.steps import LEAVE_PAIRS, Collect, Merge
from workflows.recipe.training import EmbeddingStage, Stage, TrainReranker

BASE = "base"
"""The name of the model that a recipe starts from."""


@dataclass(frozen=True)
class Reads:
    """Names of earlier steps; None where a step reads no such thing.

    Attributes:
        pairs: a step that leaves pairs. added: more of them.
        model: a step that leaves a model, `base`, or a model from outside (its name has a slash).
        reranker: a step that leaves a reranker, or one from outside.
        checkpoints: a training step.
    """

    pairs: str | None = None
    added: tuple[str, ...] = ()
    model: str | None = None
    reranker: str | None = None
    checkpoints: str | None = None


class MisplacedNameError(ValueError):
    """A name that does not fit; `location` is the way to the field."""

    def __init__(self, location: tuple[str, ...], problem: str) -> None:
        super().__init__(problem)
        self.location = location


def find_reads(steps: Mapping[str, Any]) -> dict[str, Reads]:
    """What every step reads.

    Args:
        steps: of `steps.Step`, in the order of the recipe.

    Raises:
        MisplacedNameError: a step names what does not stand before it, or leaves what nobody reads.
    """
    found: dict[str, Reads] = {}
    earlier: dict[str, Any] = {}
    for name, step in steps.items():
        found[name] = _reads(name, step, earlier, embedders(earlier, found), rerankers(earlier, found))
        earlier[name] = step
    read = {each for reads in found.values() for each in (reads.pairs, *reads.added) if each}
    for name, step in steps.items():
        if isinstance(step, LEAVE_PAIRS) and name not in read:
            raise MisplacedNameError(
                ("steps", name),
                f"no step reads the pairs of `{name}`; name it in `pairs` or `add` of a later one, or take it out",
            )
    if not embedders(steps, found) and not rerankers(steps, found):
        raise MisplacedNameError(
            ("steps",), "no step leaves a model; add one that says `do: train` or `do: train-reranker`"
        )
    return found


def embedders(steps: Mapping[str, Any], reads: Mapping[str, Reads]) -> list[str]:
    """The steps that leave an embedding model: training, and the merge of such a training."""
    return _leave(EmbeddingStage, steps, reads)


def rerankers(steps: Mapping[str, Any], reads: Mapping[str, Reads]) -> list[str]:
    """The steps that leave a reranker, likewise."""
    return _leave(TrainReranker, steps, reads)


def _leave(stage: type[Stage], steps: Mapping[str, Any], reads: Mapping[str, Reads]) -> list[str]:
    return [
        name
        for name, step in steps.items()
        if isinstance(step, stage)
        or (isinstance(step, Merge) and isinstance(steps[reads[name].checkpoints or ""], stage))
    ]


def _reads(
    name: str, step: Any, earlier: Mapping[str, Any], models: list[str], trained_rerankers: list[str]
) -> Reads:
    pairs = [other for other, each in earlier.items() if isinstance(each, LEAVE_PAIRS)]
    models = [BASE, *models]

    def choose(field: str, named: str | None, candidates: list[str], what: str) -> str:
        if named is None and candidates:
            return candidates[-1]
        if named is None or named not in candidates:
            there = ", ".join(candidates) or "there is none"
            problem = (
                f"reads {what} of an earlier step"
                if named is None
                else f"`{named}` leaves no {what} before it"
            )
            location = ("steps", name) if named is None else ("steps", name, field)
            raise MisplacedNameError(location, f"`{'.'.join(location)}`: {problem}; those that do: {there}")
        return named

    if isinstance(step, Collect):
        return Reads(added=tuple(choose("add", other, pairs, "pairs") for other in step.add))
    if isinstance(step, Merge):
        keep = [other for other, each in earlier.items() if isinstance(each, Stage) and each.checkpoints]
        return Reads(checkpoints=choose("checkpoints", step.checkpoints, keep, "checkpoints"))
    fields = type(step).model_fields

    def choose_model(field: str, candidates: list[str], what: str) -> str:
        named: str | None = getattr(step, field)
        return named if named is not None and "/" in named else choose(field, named, candidates, what)

    scorer = next((field for field in ("reranker", "teacher") if getattr(step, field, None)), None)
    return Reads(
        pairs=choose("pairs", step.pairs, pairs, "pairs") if "pairs" in fields else None,
        model=choose_model("model", models, "model") if "model" in fields else None,
        reranker=choose_model(scorer, trained_rerankers, "reranker") if scorer else None,
    )
