"""The whole workflow, read from top to bottom: recipe -> DAG.

    documents - languages - known items - chunks -
                                    contamination - duplicates - split     each but the first and the last if asked
                                                                    |
    the steps of the recipe, in its order; of docs-search:          |
                                                                    |
        queries (synthesise) - kept (filter) --------+--------------+
             |                                       |              |
        weak-pairs (collect)              supervised-pairs (collect)|
             |                                       |              |
        weak-batches                               mined (mine)     |
             |                                       |              |
     base - weak (train) ---------------- supervised-batches        |
                |                                    |              |
                +---------------------------- supervised (train) - merged (merge)
                                                                    |
    evaluate-bm25, -base and every model; checkpoints of a stage beside it - report, card - register
    each model on each set of the recipe's `evaluations`: evaluate-MODEL-on-SET - report

    a reranker: hard (mine) - judged (rerank-data) - reranker-batches - reranker (train-reranker), from reranker-base
                rerank-bm25-by-reranker, rerank-merged-by-reranker - report, card-reranker - register-reranker

A recipe's step reads the nearest earlier step that leaves what it needs, or the one that it names. Each step of the
DAG names its function; `config`, `inputs` and `external` are what changes the result and make its identity,
`execution` says where and how fast. Nothing runs here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.corpus import readers
from components.evaluation.reranking_result import FIRST_STAGE
from components.serving.calls import Kind
from workflows import building
from workflows.engine.step import Budget, Step, Sub
from workflows.profile import Profile
from workflows.recipe.references import BASE, find_reads
from workflows.recipe.schema import Recipe
from workflows.recipe.steps import Merge
from workflows.recipe.training import EmbeddingStage, TrainReranker


def pipeline(recipe: Recipe, profile: Profile, tracking_uri: str | None = None) -> list[Step]:
    """The steps that a recipe asks for; the engine finds what they are made of.

    Everything that comes from outside is looked at here, to know its digest.

    Args:
        tracking_uri: of the MLflow server whose registry takes the model; None where nothing will be run.

    Raises:
        ValueError: a source or a model that cannot be used, in one sentence.
    """
    made = make(recipe, profile)
    split, models, rerankers = made.split, made.models, made.rerankers

    # ---- judgement: every system on the same held-out queries, and on the recipe's other sets
    evaluations = {"bm25": building.evaluate_bm25("evaluate-bm25", split)} | {
        name: building.evaluate(f"evaluate-{name}", profile, split, model) for name, model in models.items()
    }
    checkpoints = [
        building.evaluate_checkpoints(f"evaluate-{name}-checkpoints", profile, split, stage)
        for name, stage in made.stages.items()
        if stage.config["checkpoints"]
    ]
    rerankings = {
        f"{first}-by-{name}": building.evaluate_reranker(
            f"rerank-{first}-by-{name}", asked, profile, split, evaluations[first], reranker
        )
        for name, (asked, reranker) in rerankers.items()
        for first in ("bm25", made.last)
    }
    on_sets = {
        (name, judged_on): building.evaluate_on(f"evaluate-{name}-on-{judged_on}", asked, profile, model)
        for judged_on, asked in recipe.evaluations.items()
        for name, model in models.items()
    }

    # ---- the report of it all, and the registry: the last model that was trained, and the last reranker
    report = Step(
        "report",
        "components.evaluation.report:write_report",
        config={"baseline": BASE},
        # Names of arguments: these allow no dash.
        inputs={name.replace("-", "_"): step for name, step in made.steps.items()}
        | {f"evaluate_{name.replace('-', '_')}": step for name, step in evaluations.items()}
        | {
            f"evaluate_{name.replace('-', '_')}__on__{judged_on.replace('-', '_')}": step
            for (name, judged_on), step in on_sets.items()
        }
        | {f"rerank_{name.replace('-', '_')}": step for name, step in rerankings.items()},
    )
    registers = []
    if made.last != BASE:
        judged = Judged("embedding", models[made.last], evaluations[made.last], evaluations[BASE])
        registers.append(_register("register", recipe.name, judged, recipe, profile, split, tracking_uri))
    for name in list(rerankers)[-1:]:
        after = rerankings[f"{made.last}-by-{name}"]
        judged = Judged("reranker", rerankers[name][1], after, after / FIRST_STAGE)
        registered = reranker_name(recipe.name)
        registers.append(
            _register("register-reranker", registered, judged, recipe, profile, split, tracking_uri)
        )
    return [report, *registers, *checkpoints]


@dataclass(frozen=True)
class Made:
    """What a recipe makes, before any of it is judged.

    Attributes:
        steps: from the documents to the last step of the recipe, by name.
        models: the embedding models, base first.
        stages: the training steps of these.
        rerankers: how each is judged, and the model.
    """

    steps: dict[str, Step]
    models: dict[str, Step | Sub]
    stages: dict[str, Step]
    rerankers: dict[str, tuple[TrainReranker, Step | Sub]]

    @property
    def split(self) -> Step:
        return self.steps["split"]

    @property
    def last(self) -> str:
        """The model that the recipe is for."""
        return list(self.models)[-1]


def make(recipe: Recipe, profile: Profile) -> Made:
    """Documents, pairs and models: the steps of the recipe, in its order.

    Raises:
        ValueError: as `pipeline`.
    """
    base = building.import_model(BASE, recipe.model.base, building.model_config(recipe.model))
    documents = _documents(recipe, profile, base)
    split = documents["split"]
    made: dict[str, Step] = {}
    models: dict[str, Step | Sub] = {BASE: base}
    stages: dict[str, Step] = {}
    rerankers: dict[str, tuple[TrainReranker, Step | Sub]] = {}
    reads = find_reads(recipe.steps)
    for name, asked in recipe.steps.items():
        scorers = {trained: model for trained, (_, model) in rerankers.items()}
        inputs = building.inputs(name, reads[name], made, models, scorers)
        match asked:
            case EmbeddingStage():
                batches = building.plan_batches(f"{name}-batches", asked, profile, inputs["pairs"], base)
                made[batches.name] = batches
                made[name] = stages[name] = building.train(name, asked, profile, batches, inputs["model"])
                models[name] = stages[name] / "model"
            case TrainReranker():
                start = building.import_reranker(f"{name}-base", asked)
                batches = building.plan_reranking(f"{name}-batches", asked, profile, inputs["pairs"], start)
                made |= {start.name: start, batches.name: batches}
                made[name] = building.train_reranker(name, asked, profile, batches, start)
                rerankers[name] = asked, made[name] / "model"
            case Merge():
                stage = reads[name].checkpoints or ""
                made[name] = building.merge(name, asked, made[stage])
                if stage in rerankers:
                    rerankers[name] = rerankers[stage][0], made[name]
                else:
                    models[name] = made[name]
            case _:
                made[name] = building.pairs(name, asked, profile, split, inputs)
    return Made(documents | {BASE: base} | made, models, stages, rerankers)


@dataclass(frozen=True)
class Judged:
    """A model that is registered: its scores, and those of what it is to be better than."""

    kind: Kind
    model: Step | Sub
    evaluation: Step
    base_evaluation: Step | Sub


def _register(
    name: str,
    registered: str,
    judged: Judged,
    recipe: Recipe,
    profile: Profile,
    split: Step,
    tracking_uri: str | None,
) -> Step:
    """The model's card, and its entry into the registry."""
    of_model: dict[str, Step | Sub] = {
        "model": judged.model, "evaluation": judged.evaluation, "base_evaluation": judged.base_evaluation
    }  # fmt: skip
    encoding, budget = building.encoding(profile)
    return Step(
        name,
        f"components.serving.registry:register_{'model' if judged.kind == 'embedding' else 'reranker'}",
        config={"name": registered},
        inputs={
            **of_model,
            "card": building.card(name.replace("register", "card"), judged.kind, recipe, of_model),
            "split": split,
        },
        execution={"tracking_uri": tracking_uri, "experiment": recipe.name, **encoding},
        confirm="components.serving.registration:is_registered",
        budget=budget,
    )


def reranker_name(recipe: str) -> str:
    """Under which name a recipe's reranker is registered."""
    return f"{recipe}-reranker"


def _documents(recipe: Recipe, profile: Profile, base: Step) -> dict[str, Step]:
    """From the sources to the split, by name."""
    documents = Step(
        "documents",
        "components.corpus.readers:read_documents",
        config=recipe.documents.model_dump(exclude={"sources"}),
        external=readers.source_digests(recipe.documents.sources, recipe.documents.columns),
        execution={"sources": recipe.documents.sources},
        explain="components.corpus.readers:changed_documents",
    )
    chain = {documents.name: documents}

    def add(name: str, function: str, config: Mapping[str, Any], **inputs: Step) -> Step:
        """A step on what the one before it left."""
        [*_, previous] = chain.values()
        chain[name] = Step(
            name,
            f"components.corpus.{function}",
            config=config,
            inputs={"documents": previous} | inputs,
            execution={"num_workers": profile.document_workers},
            budget=Budget(cpus=profile.document_workers),
        )
        return chain[name]

    if recipe.languages:
        add("languages", "language:identify_languages", recipe.languages.model_dump())
    if recipe.known_items:
        chain["known-items"] = Step(
            "known-items",
            "components.corpus.known_items:make_known_items",
            config=recipe.known_items.model_dump(),
            inputs={"documents": [*chain.values()][-1]},
        )
    if recipe.chunks:
        add("chunks", "chunks:chunk_documents", recipe.chunks.model_dump(), model=base)
    if recipe.contamination:
        chain["contamination"] = building.decontaminate(
            "contamination", recipe.contamination, profile, documents=[*chain.values()][-1]
        )
    [*_, cleaned] = chain.values()
    duplicates = add(
        "duplicates", "duplicates:group_duplicates", recipe.duplicates.model_dump(exclude={"remove"}),
        documents=cleaned,
    )  # fmt: skip
    if recipe.duplicates.remove:
        cleaned = add("unique", "duplicates:remove_duplicates", {}, documents=cleaned, duplicates=duplicates)
    chain["split"] = Step(
        "split",
        "components.corpus.split:split_documents",
        config=recipe.split.model_dump(),
        inputs={"documents": cleaned, "duplicates": duplicates},
    )
    return chain
