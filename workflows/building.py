"""One step of a recipe -> one step of the DAG: which function, what makes its identity, what it may take."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.corpus import contamination
from components.evaluation import labelled
from components.model import names
from components.pairs.sources import hub, outside
from components.serving.calls import Kind
from components.synthesis import prompts
from workflows.engine.step import Budget, Following, Step, Sub, closure, producer
from workflows.profile import Profile
from workflows.recipe import steps as asks
from workflows.recipe.documents import Contamination
from workflows.recipe.evaluations import OnSet, Retrieval
from workflows.recipe.references import Reads
from workflows.recipe.schema import Model, Recipe
from workflows.recipe.training import EmbeddingStage, Stage, TrainReranker

Inputs = dict[str, Step | Sub]

READ = {"do", "pairs", "add", "model", "base", "checkpoints"}
"""Fields of a recipe's step that name other steps: these become inputs."""

BATCH_FIELDS = {
    "batch_size", "epochs", "task_weights", "keep_last", "negatives_per_query", "query_length",
    "document_length", "document_instructions", "seed",
}  # fmt: skip
"""Of a training stage: what its batches are made by; the seed is the training's as well."""

RERANKER_FIELDS = {"layers", "prompt", "evaluation"}
"""Of a reranker's training: what the model is brought in by, and how it is judged."""

FILTERS: dict[type, str] = {
    asks.FilterByCosine: "cosine:filter_by_cosine",
    asks.FilterByConsistency: "consistency:filter_by_consistency",
    asks.FilterByReranker: "reranker:filter_by_reranker",
    asks.FilterByJudge: "judge:filter_by_judge",
}


def inputs(
    name: str,
    reads: Reads,
    made: Mapping[str, Step],
    models: Mapping[str, Step | Sub],
    rerankers: Mapping[str, Step | Sub],
) -> dict[str, Step | Sub]:
    """What a step of a recipe reads of the DAG so far. A model from outside is brought in for it."""
    found: Inputs = {f"added_{number:02}": made[added] for number, added in enumerate(reads.added)}
    if reads.pairs:
        found["pairs"] = made[reads.pairs]
    if reads.model:
        found["model"] = models.get(reads.model) or import_model(f"{name}-model", reads.model, {"spec": {}})
    if reads.reranker:
        found["reranker"] = rerankers.get(reads.reranker) or _import_writer(
            f"{name}-reranker", reads.reranker
        )
    return found


def import_model(name: str, model: str, config: Mapping[str, Any]) -> Step:
    """An embedding model from outside: its digest is identity, where it lies is not."""
    return _import(name, "source:import_model", model, config)


def model_config(model: Model) -> dict[str, Any]:
    """How the base is brought in."""
    return {"layers": model.layers, "spec": model.encoding.model_dump(exclude_none=True)}


def encoding(profile: Profile) -> tuple[dict[str, Any], Budget]:
    """Of a step that encodes texts in its own process: execution and budget."""
    return {"tokens_per_batch": profile.tokens_per_batch}, Budget(cpus=profile.encoder_cpus)


def by_workers(profile: Profile) -> tuple[dict[str, Any], Budget]:
    """Of a step whose workers encode or score texts: execution and budget."""
    count = profile.encoder_workers
    execution = {
        "tokens_per_batch": profile.tokens_per_batch,
        "num_workers": count,
        "num_cpus": profile.encoder_cpus,
        "num_gpus": profile.encoder_gpus,
    }
    return execution, Budget(cpus=count * profile.encoder_cpus, gpus=count * profile.encoder_gpus)


def pairs(name: str, asked: Any, profile: Profile, split: Step, inputs: Inputs) -> Step:
    """A step that leaves pairs. Raises ValueError if what it takes from outside cannot be had."""
    match asked:
        case asks.Collect():
            return Step(
                name,
                "components.pairs.sources.collect:collect_pairs",
                config=_config(asked),
                inputs={"split": split, **inputs},
            )
        case asks.Import():
            return _import_pairs(name, asked)
        case asks.Synthesise() | asks.SynthesiseAtEndpoint():
            return _synthesise(name, asked, profile, split)
        case asks.Decontaminate():
            return decontaminate(name, asked, profile, **inputs, split=split)
        case asks.Mine():
            return _score(
                name,
                "components.pairs.mining:mine_negatives",
                _config(asked, "reranker"),
                {**inputs, "split": split},
                profile,
            )
        case asks.RerankData():
            if "reranker" in inputs:
                inputs["teacher"] = inputs.pop("reranker")
            return _score(
                name,
                "components.pairs.reranking:prepare_reranking",
                _config(asked, "teacher"),
                inputs,
                profile,
            )
        case asks.FilterByConsistency():
            inputs["documents"] = split / "train"
        case asks.FilterByReranker():
            inputs["model"] = inputs.pop("reranker")
        case asks.FilterByJudge():
            inputs["model"] = _import_writer(f"{name}-judge", asked.judge)
    config = _config(asked, "reranker", "judge")
    if config.get("instruction", "") is None:
        del config["instruction"]  # the filter's own
    return _score(name, f"components.pairs.filters.{FILTERS[type(asked)]}", config, inputs, profile)


def decontaminate(name: str, asked: Contamination, profile: Profile, **inputs: Step | Sub) -> Step:
    """Documents or pairs without those that overlap an evaluation set."""
    what = "documents" if "documents" in inputs else "pairs"
    return Step(
        name,
        f"components.corpus.contamination:remove_contaminated_{what}",
        config=_config(asked, "evaluation_sets"),
        inputs=inputs,
        external=contamination.evaluation_digests(asked.evaluation_sets),
        execution={"evaluation_sets": asked.evaluation_sets, "num_workers": profile.document_workers},
        budget=Budget(cpus=profile.document_workers),
    )


def plan_batches(
    name: str, stage: EmbeddingStage, profile: Profile, pairs: Step | Sub, tokenizer: Step
) -> Step:
    """The batches of a stage. All models of a workflow have the tokenizer and the templates of the base."""
    return Step(
        name,
        "components.training.plan:plan_batches",
        config=stage.model_dump(include=BATCH_FIELDS),
        inputs={"pairs": pairs, "model": tokenizer},
        budget=Budget(cpus=profile.encoder_cpus),
        deadline_s=profile.step_deadline_s,
    )


def train(name: str, stage: EmbeddingStage, profile: Profile, batches: Step, model: Step | Sub) -> Step:
    """A stage, from a model and its batches."""
    return _stage(name, "components.training.stage:train_stage", stage, profile, batches, model)


def import_reranker(name: str, stage: TrainReranker) -> Step:
    """What a reranker's training starts from, with its prompt."""
    config = {"layers": stage.layers, "spec": stage.prompt.model_dump(exclude_none=True), "seed": stage.seed}
    return _import(name, "reranker_source:import_reranker", stage.base, config)


def plan_reranking(name: str, stage: TrainReranker, profile: Profile, pairs: Step | Sub, base: Step) -> Step:
    """The batches of a reranker's training."""
    return Step(
        name,
        "components.training.reranker_plan:plan_reranking",
        config=stage.model_dump(include={*BATCH_FIELDS, "objective"}),
        inputs={"pairs": pairs, "model": base},
        budget=Budget(cpus=profile.encoder_cpus),
        deadline_s=profile.step_deadline_s,
    )


def train_reranker(name: str, stage: TrainReranker, profile: Profile, batches: Step, model: Step) -> Step:
    """The training of a reranker, from what it starts from and its batches."""
    function = "components.training.reranker_stage:train_reranker"
    return _stage(name, function, stage, profile, batches, model)


def evaluate_reranker(
    name: str, asked: TrainReranker, profile: Profile, split: Step, first_stage: Step, model: Step | Sub
) -> Step:
    """What a reranker makes of what a retrieval system found."""
    execution, budget = encoding(profile)
    return Step(
        name,
        "components.evaluation.reranking:evaluate_reranker",
        config=asked.evaluation.model_dump(),
        inputs={"split": split, "model": model, "first_stage": first_stage},
        execution=execution,
        budget=budget,
        headline=("ndcg@10", "gain_ndcg@10"),
    )


HEADLINE = ("ndcg@10", "recall@100")
"""Of an evaluation on held-out queries."""


def evaluate_bm25(name: str, split: Step) -> Step:
    """BM25 on the held-out queries."""
    return Step(
        name,
        "components.evaluation.retrieval:evaluate_bm25",
        version=2,
        inputs={"split": split},
        headline=HEADLINE,
    )


def evaluate(name: str, profile: Profile, split: Step, model: Step | Sub) -> Step:
    """A model on the held-out queries."""
    execution, budget = by_workers(profile)
    return Step(
        name,
        "components.evaluation.retrieval:evaluate_model",
        version=2,
        inputs={"split": split, "model": model},
        execution=execution,
        budget=budget,
        headline=HEADLINE,
    )


def evaluate_checkpoints(name: str, profile: Profile, split: Step, stage: Step) -> Step:
    """The checkpoints of a stage on the held-out queries, beside its work."""
    execution, budget = encoding(profile)
    return Step(
        name,
        "components.evaluation.checkpoints:evaluate_checkpoints",
        version=2,
        inputs={"stage": Following(stage), "split": split},
        execution=execution,
        budget=budget,
    )


EVALUATIONS = {
    "retrieval": "components.evaluation.retrieval:evaluate_on_beir",
    "similarity": "components.evaluation.kinds:evaluate_similarity",
    "pair-classification": "components.evaluation.kinds:evaluate_pair_classification",
    "classification": "components.evaluation.kinds:evaluate_classification",
    "clustering": "components.evaluation.kinds:evaluate_clustering",
    "bitext": "components.evaluation.kinds:evaluate_bitext",
}


def evaluate_on(name: str, asked: OnSet, profile: Profile, model: Step | Sub) -> Step:
    """A model judged on a set from outside. Raises ValueError if the set is not there."""
    execution, budget = encoding(profile)
    return Step(
        name,
        EVALUATIONS[asked.kind],
        config=asked.model_dump(exclude={"kind", "data"}),
        inputs={"model": model},
        external=external_of(asked),
        execution={**execution, "data": asked.data},
        budget=budget,
    )


def external_of(asked: OnSet) -> dict[str, str]:
    """SHA-256 of each file of a set. Raises ValueError if one is missing or does not hold what the kind needs."""
    if isinstance(asked, Retrieval):
        return contamination.evaluation_digests([f"{asked.data}#{asked.split}"])
    files = dict.fromkeys((getattr(asked, "train_file", asked.file), asked.file))
    return {file: labelled.file_digest(asked.data, file, asked.kind) for file in files}


def _stage(
    name: str, function: str, stage: Stage, profile: Profile, batches: Step, model: Step | Sub
) -> Step:
    of_training = stage.model_dump(exclude=READ - {"checkpoints"} | BATCH_FIELDS - {"seed"} | RERANKER_FIELDS)
    return Step(
        name,
        function,
        config=of_training,
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


def merge(name: str, asked: asks.Merge, stage: Step) -> Step:
    """The merge of a stage's checkpoints, relative to the model that it started from."""
    return Step(
        name,
        "components.merge.spherical:merge_checkpoints",
        config=_config(asked),
        inputs={"checkpoints": stage, "base": stage.inputs["model"]},
    )


def card(name: str, kind: Kind, recipe: Recipe, judged: Mapping[str, Step | Sub]) -> Step:
    """The card of a model, from all steps that it was made by.

    Args:
        judged: the arguments `model`, `evaluation` and `base_evaluation`.
    """
    made = closure([producer(judged["model"])])
    ingredients, places = _from_outside(recipe, made)
    return Step(
        name,
        "components.serving.card:write_card",
        config={"kind": kind, "recipe": recipe.shown(), "ingredients": ingredients},
        inputs={**judged, **{f"made_{step.name.replace('-', '_')}": step for step in made}},
        execution={"places": places},
    )


def _from_outside(recipe: Recipe, made: Iterable[Step]) -> tuple[dict[str, str], dict[str, str]]:
    """What steps took from outside -> which did; and where of that lies somewhere on this machine."""
    places = {label(source): source for source in recipe.documents.sources}
    taken = {source: ["documents"] for source in places}
    for step in made:
        if step.fn.startswith("components.model."):
            [name] = step.external
            place = step.execution["model"]
        elif "source" in step.execution:
            place = step.execution["source"]
            name = label(place)
        elif step.fn.endswith(":synthesise_at_endpoint"):
            name = place = step.config["llm"]
        else:
            continue
        taken.setdefault(name, []).append(step.name)
        places[name] = name if "://" in name else place
    return {name: ", ".join(steps) for name, steps in taken.items()}, places


def _score(
    name: str, function: str, config: Mapping[str, Any], inputs: Mapping[str, Step | Sub], profile: Profile
) -> Step:
    """A step whose workers encode or score texts."""
    execution, budget = by_workers(profile)
    return Step(
        name,
        function,
        version=2,
        config=config,
        inputs=inputs,
        execution=execution,
        budget=budget,
        deadline_s=profile.step_deadline_s,
    )


def _import_pairs(name: str, asked: asks.Import) -> Step:
    source = outside.Source(asked.source, asked.subset, asked.split)
    digests = outside.source_digests(source, asked.kind)
    uri = asked.source
    if source.on_hub:
        uri = hub.pinned(uri, next(iter(digests.values())))
    else:
        outside.check_source(source, asked.kind, asked.columns)
    return Step(
        name,
        "components.pairs.sources.imports:import_pairs",
        config=_config(asked, "source"),
        external=digests,
        execution={"source": uri},
    )


def _synthesise(
    name: str, asked: asks.Synthesise | asks.SynthesiseAtEndpoint, profile: Profile, split: Step
) -> Step:
    prompts.load_prompts(asked.prompts).check_draws(asked.draws)
    prompts.load_personas(asked.personas)
    files = {"prompts": asked.prompts, "personas": asked.personas}
    execution: dict[str, Any] = {
        **files,
        "num_retrievers": profile.encoder_workers,
        "max_error_share": profile.max_error_share,
    }
    config = _config(asked, "writer", "retriever", *files) | {
        "prompt_version": prompts.prompt_version(asked.prompts),
        "persona_version": prompts.personas_version(asked.personas),
    }
    inputs: Inputs = {"split": split}
    if asked.retriever:
        inputs["retriever"] = import_model(f"{name}-retriever", asked.retriever, {"spec": {}})
    if isinstance(asked, asks.SynthesiseAtEndpoint):
        return Step(
            name,
            "components.synthesis.generate:synthesise_at_endpoint",
            config=config,
            inputs=inputs,
            execution=execution | _endpoint(name, profile),
            deadline_s=profile.step_deadline_s,
        )
    return Step(
        name,
        "components.synthesis.generate:synthesise",
        config=config | {"llm": label(asked.writer)},
        inputs={**inputs, "writer": _import_writer(f"{name}-writer", asked.writer)},
        execution={
            **execution,
            "num_cpus": profile.writer_cpus,
            "num_gpus": profile.writer_gpus,
            "num_engines": profile.writers,
        },
        budget=Budget(cpus=profile.writers * profile.writer_cpus, gpus=profile.writers * profile.writer_gpus),
        deadline_s=profile.step_deadline_s,
    )


def _endpoint(name: str, profile: Profile) -> dict[str, Any]:
    if profile.endpoint is None:
        raise ValueError(
            f"step `{name}` writes at an endpoint, and the profile names none; give --profile a file that says "
            "`endpoint: {base_url: https://host/v1, key_variable: NAME}`"
        )
    return profile.endpoint.model_dump(exclude={"input_price", "output_price"})


def _import_writer(name: str, model: str) -> Step:
    """A language model, or a cross-encoder, from outside."""
    return _import(name, "source:import_language_model", model, {})


def _import(name: str, function: str, model: str, config: Mapping[str, Any]) -> Step:
    found = names.resolve_model(model)
    return Step(
        name,
        f"components.model.{function}",
        config=config,
        external={label(model): found.digest},
        execution={"model": found.uri},
    )


def label(model: str) -> str:
    """A model's name without the folders of this machine."""
    return Path(model).name if Path(model).is_absolute() else model


def _config(asked: Any, *left_out: str) -> dict[str, Any]:
    """The fields of a section that change the result, as they are handed to its function."""
    return asked.model_dump(mode="json", exclude=READ | set(left_out))
