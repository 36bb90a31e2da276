"""The whole workflow, read from top to bottom: recipe -> DAG.

    documents - languages - chunks - contamination - duplicates - split      each but the first and the last if asked
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
    evaluate-bm25, -base and every model; checkpoints of a stage beside it - report - register

A recipe's step reads the nearest earlier step that leaves what it needs, or the one that it names. Each step of the
DAG names its function; `config`, `inputs` and `external` are what changes the result and make its identity,
`execution` says where and how fast. Nothing runs here.
"""

from collections.abc import Mapping
from typing import Any

from components.corpus import readers
from workflows import building
from workflows.engine.step import Budget, Following, Step, Sub
from workflows.profile import Profile
from workflows.recipe.references import BASE, find_reads
from workflows.recipe.schema import Recipe
from workflows.recipe.steps import Merge
from workflows.recipe.training import Train

HEADLINE = ("ndcg@10", "recall@100")


def pipeline(recipe: Recipe, profile: Profile, tracking_uri: str | None = None) -> list[Step]:
    """The steps that a recipe asks for; the engine finds what they are made of.

    Everything that comes from outside is looked at here, to know its digest.

    Args:
        tracking_uri: of the MLflow server whose registry takes the model; None where nothing will be run.

    Raises:
        ValueError: a source or a model that cannot be used, in one sentence.
    """
    base = building.import_model(BASE, recipe.model.base, building.model_config(recipe.model))
    documents = _documents(recipe, profile, base)
    split = documents["split"]

    # ---- the steps of the recipe, in its order: pairs and models
    made: dict[str, Step] = {}
    models: dict[str, Step | Sub] = {BASE: base}
    stages: dict[str, Step] = {}
    reads = find_reads(recipe.steps)
    for name, asked in recipe.steps.items():
        inputs = building.inputs(name, reads[name], made, models)
        match asked:
            case Train():
                batches = building.plan_batches(f"{name}-batches", asked, profile, inputs["pairs"], base)
                made[batches.name] = batches
                made[name] = stages[name] = building.train(name, asked, profile, batches, inputs["model"])
                models[name] = stages[name] / "model"
            case Merge():
                stage = stages[reads[name].checkpoints or ""]
                made[name] = models[name] = building.merge(name, asked, stage)
            case _:
                made[name] = building.pairs(name, asked, profile, split, inputs)

    # ---- judgement: every system on the same held-out queries
    encoding, budget = building.encoding(profile)
    bm25 = Step(
        "evaluate-bm25",
        "components.evaluation.retrieval:evaluate_bm25",
        inputs={"split": split},
        headline=HEADLINE,
    )
    evaluations = {"bm25": bm25} | {
        name: Step(
            f"evaluate-{name}",
            "components.evaluation.retrieval:evaluate_model",
            inputs={"split": split, "model": model},
            execution=encoding,
            budget=budget,
            headline=HEADLINE,
        )
        for name, model in models.items()
    }
    checkpoints = [
        Step(
            f"evaluate-{name}-checkpoints",
            "components.evaluation.checkpoints:evaluate_checkpoints",
            inputs={"stage": Following(stage), "split": split},
            execution=encoding,
            budget=budget,
        )
        for name, stage in stages.items()
        if stage.config["checkpoints"]
    ]

    # ---- the report of it all, and the registry: the last model
    written_up = documents | {BASE: base} | made
    report = Step(
        "report",
        "components.evaluation.report:write_report",
        config={"baseline": BASE},
        # Names of arguments: these allow no dash.
        inputs={name.replace("-", "_"): step for name, step in written_up.items()}
        | {f"evaluate_{name.replace('-', '_')}": step for name, step in evaluations.items()},
    )
    last = list(models)[-1]
    register = Step(
        "register",
        "components.serving.registry:register_model",
        config={"name": recipe.name},
        inputs={
            "model": models[last],
            "split": split,
            "evaluation": evaluations[last],
            "base_evaluation": evaluations[BASE],
        },
        execution={"tracking_uri": tracking_uri, "experiment": recipe.name, **encoding},
        confirm="components.serving.registration:is_registered",
        budget=budget,
    )
    return [report, register, *checkpoints]


def _documents(recipe: Recipe, profile: Profile, base: Step) -> dict[str, Step]:
    """From the sources to the split, by name."""
    documents = Step(
        "documents",
        "components.corpus.readers:read_documents",
        config=recipe.documents.model_dump(exclude={"sources"}),
        external=readers.source_digests(recipe.documents.sources),
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
