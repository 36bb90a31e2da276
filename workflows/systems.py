"""Several systems in one run: comparison -> DAG.

    each system:  documents ─ ... ─ its model, as in pipeline.py    or a model from outside
                                        |
                    evaluate-on-SET, each set of the comparison ─┐
                    evaluate-on-held-out, the recipes' queries   ├─ compare: every pair tested on every set
    the stages of its training ─ what they took ─────────────────┘

What systems have in common is one step. Nothing is registered, and nothing runs here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from components.evaluation.keywords import BATCHES, EVALUATION, MODEL, STAGE, keyword
from workflows import building
from workflows.engine.fingerprint import fingerprints
from workflows.engine.step import Step, Sub, closure, producer
from workflows.engine.unite import unite
from workflows.pipeline import make
from workflows.profile import Profile
from workflows.recipe.comparison import HELD_OUT, Comparison, System
from workflows.recipe.load import Compared

COMPARE = "compare"


@dataclass(frozen=True)
class _Built:
    """A system before it is judged."""

    model: Step | Sub
    split: Step | None
    """None of a model from outside."""


def compare_systems(compared: Compared, profile: Profile) -> list[Step]:
    """The steps of a comparison; the last one is `compare`.

    Raises:
        ValueError: as `pipeline`, or there is nothing to judge the systems on.
    """
    comparison = compared.comparison
    built = {label: _build(label, system, compared, profile) for label, system in comparison.systems.items()}
    held_out = _held_out(built)
    if held_out is None and not comparison.evaluations:
        raise ValueError(
            f"{comparison.name}: `evaluations` names no set, and its recipes hold out different queries, or there "
            "is none; the systems need a set to be judged on"
        )

    # ---- judgement: every system on every set
    judged: dict[str, dict[str, Step]] = {}
    for label, system in built.items():
        judged[label] = {
            name: building.evaluate_on(f"evaluate-on-{name}", asked, profile, system.model)
            for name, asked in comparison.evaluations.items()
        }
        if held_out is not None:
            split = system.split or held_out
            judged[label][HELD_OUT] = building.evaluate(
                f"evaluate-on-{HELD_OUT}", profile, split, system.model
            )

    # ---- one DAG of all
    united = unite({label: judged[label].values() for label in built})
    return [_compare(compared, built, judged, united)]


def _build(label: str, system: System, compared: Compared, profile: Profile) -> _Built:
    if system.model is not None:
        config = {"layers": system.layers, "spec": system.encoding.model_dump(exclude_none=True)}
        return _Built(building.import_model("base", system.model, config), None)
    made = make(compared.recipes[label], profile)
    return _Built(made.models[made.last], made.split)


def _held_out(built: Mapping[str, _Built]) -> Step | None:
    """The split whose held-out queries are those of all recipes; None: there are several such sets, or none."""
    splits = {_evaluation_side(each.split): each.split for each in built.values() if each.split}
    return next(iter(splits.values())) if len(splits) == 1 else None


def _evaluation_side(split: Step) -> str:
    """What decides which queries are held out: not how many documents there are to train on."""
    of_training = {"training_documents", "synthesis_documents"}
    alike = replace(
        split, config={key: value for key, value in split.config.items() if key not in of_training}
    )
    return fingerprints([alike])[alike]


def _compare(
    compared: Compared,
    built: Mapping[str, _Built],
    judged: Mapping[str, Mapping[str, Step]],
    united: Mapping[Step, Step],
) -> Step:
    comparison = compared.comparison
    inputs: dict[str, Step | Sub] = {}
    for label, system in built.items():
        for name, step in judged[label].items():
            inputs[keyword(EVALUATION, label, name)] = united[step]
        model = system.model
        inputs[keyword(MODEL, label)] = (
            united[model] if isinstance(model, Step) else united[model.step] / model.path
        )
        for step in closure([producer(model)]):
            if "batches" in step.inputs:  # a stage of training
                inputs[keyword(STAGE, label, step.name)] = united[step]
                inputs[keyword(BATCHES, label, step.name)] = united[producer(step.inputs["batches"])]
    sets = list(next(iter(judged.values())))
    return Step(
        COMPARE,
        "components.evaluation.systems:compare_systems",
        config={
            "systems": list(built),
            "about": {label: _words(label, compared) for label in built},
            "baseline": comparison.baseline or next(iter(built)),
            "sets": sets,
            **_points(comparison),
        },
        inputs=inputs,
        headline=tuple(f"{name}/{label}" for name in sets for label in built),
    )


def _points(comparison: Comparison) -> dict[str, dict[str, dict[str, Any]]]:
    """Where the systems differ by values of the same fields of one recipe: these, to be drawn."""
    systems = comparison.systems.values()
    alike = {(each.recipe, tuple(each.without), tuple(each.set)) for each in systems}
    if len(alike) > 1 or not all(each.recipe and each.set for each in systems):
        return {}
    return {"points": {label: each.set for label, each in comparison.systems.items()}}


def _words(label: str, compared: Compared) -> str:
    """What a system is."""
    system = compared.comparison.systems[label]
    if system.model is not None:
        said = [building.label(system.model)]
        said += [f"{system.layers} layers"] if system.layers else []
        said += [f"{name} {value!r}" for name, value in system.encoding.model_dump(exclude_none=True).items()]
        return ", ".join(said)
    said = [f"recipe {compared.recipes[label].name}"]
    said += [f"without {', '.join(system.without)}"] if system.without else []
    said += [f"{key} {value!r}" for key, value in system.set.items()]
    return "; ".join(said)
