"""The whole workflow, read from top to bottom: recipe -> DAG.

    documents - duplicates - split -+- synthetic - filtered ----+
                                    |      |                    |
                                    |   weak-pairs       supervised-pairs
                                    |      |                    |
                                    |  weak-batches             |   supervised-batches
                                    |      |                    |    |          |
                       base --------+---- weak -------------- mined -+----- supervised - merged
                                    |      |                                    +- evaluate-checkpoints, beside it
                                    |      |                                    |          |
                                    +- evaluate-bm25 -base -weak -supervised -merged - report, register

Each step names its function; `config`, `inputs` and `external` are what changes the result and make its identity,
`execution` says where and how fast. Nothing runs here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.corpus import readers
from components.model import names
from components.synthesis import prompts
from workflows.engine.step import Budget, Following, Step, Sub
from workflows.profile import Profile
from workflows.recipe import Recipe, Stage

HEADLINE = ("ndcg@10", "recall@100")

BATCH_FIELDS = {
    "batch_size", "epochs", "task_weights", "keep_last", "negatives_per_query", "query_length",
    "document_length", "seed",
}  # fmt: skip
"""Of a training stage: what its batches are made by; the seed is the training's as well."""


def pipeline(recipe: Recipe, profile: Profile, tracking_uri: str | None = None) -> list[Step]:
    """The steps that a recipe asks for; the engine finds what they are made of.

    Everything that comes from outside is looked at here, to know its digest.

    Args:
        tracking_uri: of the MLflow server whose registry takes the model; None where nothing will be run.

    Raises:
        ValueError: a source or a model that cannot be used, in one sentence.
    """
    encoder = {"tokens_per_batch": profile.tokens_per_batch}
    encoder_budget = Budget(cpus=profile.encoder_cpus)

    # ---- documents
    documents = Step(
        "documents",
        "components.corpus.readers:read_documents",
        config=recipe.documents.model_dump(exclude={"sources"}),
        external=readers.source_digests(recipe.documents.sources),
        execution={"sources": recipe.documents.sources},
        explain="components.corpus.readers:changed_documents",
        budget=encoder_budget,
    )
    duplicates = Step(
        "duplicates",
        "components.corpus.duplicates:group_duplicates",
        config=recipe.duplicates.model_dump(),
        inputs={"documents": documents},
        budget=encoder_budget,
    )
    split = Step(
        "split",
        "components.corpus.split:split_documents",
        config=recipe.split.model_dump(),
        inputs={"documents": documents, "duplicates": duplicates},
    )

    # ---- models that come from outside
    base = _import("base", "import_model", recipe.model.base, _model_config(recipe))

    # ---- pairs
    synthetic = filtered = None
    if recipe.synthesis:
        synthetic = _synthesise(recipe, profile, split)
        filtered = Step(
            "filtered",
            "components.pairs.filters.cosine:filter_by_cosine",
            config=recipe.filter.model_dump(),
            inputs={"pairs": synthetic, "model": base},
            execution=encoder,
            budget=encoder_budget,
        )
    weak_pairs = _collect(
        "weak-pairs", recipe, split, synthetic, kinds=recipe.weak.kinds, limit=recipe.weak.limit_per_kind
    )
    supervised_pairs = _collect(
        "supervised-pairs", recipe, split, filtered, kinds=["labelled"], limit=recipe.supervised.limit
    )

    # ---- training: weak stage, hard negatives by its model, supervised stage, merge
    weak_batches = _plan_batches("weak-batches", recipe.weak, profile, weak_pairs, base)
    weak = _train("weak", recipe.weak, profile, weak_batches, base)
    mined = Step(
        "mined",
        "components.pairs.mining:mine_negatives",
        config=recipe.mine.model_dump(),
        inputs={"pairs": supervised_pairs, "split": split, "model": weak / "model"},
        execution=encoder,
        budget=encoder_budget,
    )
    supervised_batches = _plan_batches("supervised-batches", recipe.supervised, profile, mined, base)
    supervised = _train("supervised", recipe.supervised, profile, supervised_batches, weak / "model")
    checkpoints = Step(
        "evaluate-checkpoints",
        "components.evaluation.checkpoints:evaluate_checkpoints",
        inputs={"stage": Following(supervised), "split": split},
        execution=encoder,
        budget=encoder_budget,
    )
    merged = Step(
        "merged",
        "components.merge.spherical:merge_checkpoints",
        config=recipe.merge.model_dump(),
        inputs={"checkpoints": supervised, "base": weak / "model"},
    )

    # ---- judgement: every system on the same held-out queries
    bm25 = Step(
        "evaluate-bm25",
        "components.evaluation.retrieval:evaluate_bm25",
        inputs={"split": split},
        headline=HEADLINE,
    )
    systems: dict[str, Step | Sub] = {
        "base": base,
        "weak": weak / "model",
        "supervised": supervised / "model",
        "merged": merged,
    }
    evaluations = {"bm25": bm25} | {
        name: Step(
            f"evaluate-{name}",
            "components.evaluation.retrieval:evaluate_model",
            inputs={"split": split, "model": model},
            execution=encoder,
            budget=encoder_budget,
            headline=HEADLINE,
        )
        for name, model in systems.items()
    }
    written_up: dict[str, Step | None] = {
        "documents": documents,
        "duplicates": duplicates,
        "split": split,
        "base": base,
        "synthetic": synthetic,
        "filtered": filtered,
        "weak_pairs": weak_pairs,
        "weak_batches": weak_batches,
        "weak": weak,
        "mined": mined,
        "supervised_batches": supervised_batches,
        "supervised": supervised,
        "merged": merged,
    }
    report = Step(
        "report",
        "components.evaluation.report:write_report",
        config={"baseline": "base"},
        inputs={name: step for name, step in written_up.items() if step is not None}
        | {f"evaluate_{name}": step for name, step in evaluations.items()},
    )
    register = Step(
        "register",
        "components.serving.registry:register_model",
        config={"name": recipe.name},
        inputs={
            "model": merged,
            "split": split,
            "evaluation": evaluations["merged"],
            "base_evaluation": evaluations["base"],
        },
        execution={"tracking_uri": tracking_uri, "experiment": recipe.name, **encoder},
        confirm="components.serving.registration:is_registered",
        budget=encoder_budget,
    )
    return [report, register, checkpoints]


def _import(name: str, function: str, model: str, config: Mapping[str, Any]) -> Step:
    """A model from outside: its digest is identity, where it lies is not."""
    found = names.resolve_model(model)
    return Step(
        name,
        f"components.model.source:{function}",
        config=config,
        external={_label(model): found.digest},
        execution={"model": found.uri},
    )


def _label(model: str) -> str:
    """A model's name without the folders of this machine."""
    return model if "://" in model else Path(model).name


def _model_config(recipe: Recipe) -> dict[str, Any]:
    return {"layers": recipe.model.layers, "spec": recipe.model.encoding.model_dump(exclude_none=True)}


def _synthesise(recipe: Recipe, profile: Profile, split: Step) -> Step:
    asked = recipe.synthesis
    assert asked is not None
    writer = _import("writer", "import_language_model", asked.writer, {})
    return Step(
        "synthetic",
        "components.synthesis.generate:synthesise",
        config={
            **asked.model_dump(exclude={"writer", "prompts", "personas", "instruction", "length_words"}),
            "llm": _label(asked.writer),
            "draws": {"length_words": {"{}-{}".format(*asked.length_words): 1.0}},
            "instructions": {"retrieval": asked.instruction},
            "prompt_version": prompts.prompt_version(asked.prompts),
            "persona_version": prompts.personas_version(asked.personas),
        },
        inputs={"split": split, "writer": writer},
        execution={
            "prompts": asked.prompts,
            "personas": asked.personas,
            "num_cpus": profile.writer_cpus,
            "num_gpus": profile.writer_gpus,
        },
        budget=Budget(cpus=profile.writer_cpus, gpus=profile.writer_gpus),
        deadline_s=profile.step_deadline_s,
    )


def _collect(
    name: str, recipe: Recipe, split: Step, synthetic: Step | None, kinds: Sequence[str], limit: int | None
) -> Step:
    return Step(
        name,
        "components.pairs.sources.collect:collect_pairs",
        config={
            "kinds": list(kinds),
            "instruction": None,
            "task": "retrieval",
            "limit_per_kind": limit,
            "seed": recipe.split.seed,
        },
        inputs={"split": split} | ({"synthetic": synthetic} if synthetic else {}),
    )


def _plan_batches(name: str, stage: Stage, profile: Profile, pairs: Step, tokenizer: Step) -> Step:
    """The batches of a stage. All models of a workflow have the tokenizer and the templates of the base."""
    return Step(
        name,
        "components.training.plan:plan_batches",
        config=stage.model_dump(include=BATCH_FIELDS),
        inputs={"pairs": pairs, "model": tokenizer},
        budget=Budget(cpus=profile.encoder_cpus),
        deadline_s=profile.step_deadline_s,
    )


def _train(name: str, stage: Stage, profile: Profile, batches: Step, model: Step | Sub) -> Step:
    of_pairs = {"kinds", "limit_per_kind", "limit"}
    return Step(
        name,
        "components.training.stage:train_stage",
        config=stage.model_dump(exclude=of_pairs | BATCH_FIELDS - {"seed"}),
        inputs={"batches": batches, "model": model},
        execution={
            "num_workers": profile.workers,
            "cpus_per_worker": profile.cpus_per_worker,
            "use_gpu": profile.gpus_per_worker > 0,
            "micro_batch_tokens": profile.micro_batch_tokens,
            "graph_tokens": profile.graph_tokens,
            "gradient_sync": profile.gradient_sync,
            "activation_checkpointing": profile.activation_checkpointing,
            "checkpoint_every_s": profile.checkpoint_every_s,
        },
        budget=Budget(
            cpus=profile.workers * profile.cpus_per_worker, gpus=profile.workers * profile.gpus_per_worker
        ),
        deadline_s=profile.step_deadline_s,
    )
