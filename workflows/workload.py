"""What the steps of a recipe ask of the hardware, before anything is computed: rows, tokens, hours, storage.

Upper bounds on the work, guesses at its speed: every text counts as long as it may be, a filter with a threshold as
if it kept all, and the profile says what a device sustains. What is assumed stands at each formula.

    FLOPs of a token, forward            2 N          N: weights in matrix products (Kaplan et al., arXiv 2001.08361)
    and backward                        +4 N          2 N where the weights are frozen (adapters)
    gradient cache                      +2 N          for the share of a batch that is encoded twice
    activation checkpointing            +2 N
    exact search                         2 Q D d      Q queries, D documents, d dimensions
    device hours                         FLOPs / (device_tflops 10^12) / 3600
    an engine's hours                    tokens written / writer_tokens_per_second / 3600, and what it reads, forward

Attention's own products are left out: below some 2,000 tokens a text they are few beside 2 N.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from components.model.size import ModelSize, model_size
from components.synthesis.estimate import Estimate
from workflows.profile import Profile
from workflows.recipe import steps as asks
from workflows.recipe.references import embedders, find_reads
from workflows.recipe.schema import Recipe
from workflows.recipe.training import EmbeddingStage, Stage, TrainReranker

BYTES_PER_TOKEN = 4.0
"""Of text, in Parquet before compression, which about halves it; that half is left as reserve."""
BYTES_PER_TOKEN_ID = 4.0
BYTES_PER_WEIGHT = 4.0
"""float32, as models and checkpoints are kept. A checkpoint holds the weights and Adam's two moments."""
BYTES_PER_DIMENSION = 4.0
DIMENSIONS = 1024
"""Of a vector: counts in exact search and in what vectors take."""
LENGTH = 512
"""Tokens of a text, where the recipe does not say how many are read."""
LONGEST = 8192
"""Tokens of a pair that a reranker reads, where the recipe does not say."""


@dataclass(frozen=True)
class Work:
    """Of one step, at most.

    Attributes:
        rows: that it leaves, or that a training reads in all epochs; None: the recipe does not say how many there are.
        tokens: read or written by a model; None: that number, or the size of the model, is not known.
        device_hours: of GPUs, or of the processes that stand for them on a machine without.
        hours: on as many devices as the profile gives the step.
        stored: bytes that it leaves in the storage root.
    """

    rows: int | None
    tokens: int | None = None
    device_hours: float | None = None
    hours: float | None = None
    stored: int | None = None


def workload(
    recipe: Recipe,
    profile: Profile,
    documents: int | None,
    synthesis: Mapping[str, Estimate],
    assumed: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Work]:
    """Work of the recipe's steps by name, and of all judgements together as `evaluate`.

    Args:
        documents: how many the corpus has, if that is known.
        synthesis: what the writers will be asked for.
        assumed: rows of a step, in place of what the recipe says of them.
    """
    split = recipe.split
    corpus = _corpus(recipe, documents)
    base = model_size(recipe.model.base, recipe.model.layers)
    query, passage = _lengths(recipe)
    pair_bytes = (query + passage) * BYTES_PER_TOKEN
    reads = find_reads(recipe.steps)
    left: dict[str, int | None] = {}
    found: dict[str, Work] = {}

    def encoded(
        tokens: float | None, size: ModelSize | None, stored: float | None, search: float = 0.0
    ) -> Work:
        return _computed(profile, profile.encoder_workers, rows, tokens, size, 2.0, stored, search)

    for name, asked in recipe.steps.items():
        pairs = reads[name].pairs
        read = left[pairs] if pairs else None
        added = [left[each] for each in reads[name].added]
        rows = left[name] = assumed.get(name, _rows(asked, read, added, corpus, split.synthesis_documents))
        stored = _times(rows, pair_bytes)
        match asked:
            case asks.Synthesise():
                found[name] = _written(profile, rows, synthesis.get(name), model_size(asked.writer), stored)
            case asks.FilterByCosine() | asks.FilterByConsistency():
                pool = asked.pool_size * passage if isinstance(asked, asks.FilterByConsistency) else 0
                found[name] = encoded(read and read * (query + passage) + pool, base, stored)
            case asks.FilterByReranker() | asks.FilterByJudge():
                scorer = asked.reranker if isinstance(asked, asks.FilterByReranker) else asked.judge
                trained = reads[scorer].checkpoints or scorer if scorer in recipe.steps else None
                size = _size(recipe.steps[trained], base) if trained else model_size(scorer)
                tokens = _times(read, min(asked.length or LONGEST, query + passage))
                found[name] = encoded(tokens, size, stored)
            case asks.Mine() if rows is not None and corpus is not None:
                # Queries and all documents are encoded; every query is held against every document.
                vectors = (rows + corpus) * DIMENSIONS * BYTES_PER_DIMENSION
                stored = rows * pair_bytes * (1 + asked.negatives_per_query / 2) + vectors
                search = 2.0 * rows * corpus * DIMENSIONS
                found[name] = encoded(rows * query + corpus * passage, base, stored, search)
            case Stage():
                found[name] = _trained(profile, asked, read, base, _negatives(recipe, pairs))
            case asks.Merge():
                size = _size(recipe.steps[reads[name].checkpoints or ""], base)
                found[name] = Work(None, stored=round(size.weights * BYTES_PER_WEIGHT) if size else None)
            case _:
                tokens = (
                    synthesis[name].input_tokens + synthesis[name].output_tokens
                    if name in synthesis
                    else None
                )
                found[name] = Work(rows, tokens, stored=_whole(stored))
    models = 1 + len(embedders(recipe.steps, reads))
    rows = models * (split.evaluation_documents + split.evaluation_queries)
    judged = models * (split.evaluation_documents * passage + split.evaluation_queries * query)
    found["evaluate"] = encoded(judged, base, rows * DIMENSIONS * BYTES_PER_DIMENSION)
    return found


def _corpus(recipe: Recipe, documents: int | None) -> int | None:
    """Documents to train on: no more than the split allows; if nobody says, as many as are written for."""
    split = recipe.split
    known = _least(documents, split.training_documents)
    written = any(
        isinstance(each, asks.Synthesise | asks.SynthesiseAtEndpoint) for each in recipe.steps.values()
    )
    return split.synthesis_documents if known is None and written else known


def _lengths(recipe: Recipe) -> tuple[int, int]:
    """Tokens of a query and of a passage when they are encoded, at most."""
    encoding = recipe.model.encoding
    passage = encoding.document_length or LENGTH
    if recipe.chunks:
        passage = min(passage, recipe.chunks.max_tokens)
    return min(encoding.query_length or passage, passage), passage


def _rows(
    asked: object, read: int | None, added: Sequence[int | None], corpus: int | None, written: int
) -> int | None:
    """Rows that a step leaves, of those that it reads. None: nothing says."""
    match asked:
        case asks.Collect():
            # A kind gives one pair a document, at most; `neighbours`, which cut documents, are counted likewise.
            parts = [*(_least(asked.limit_per_kind, corpus) for _ in asked.kinds), *added]
            known = [part for part in parts if part is not None]
            return sum(known) if known else None
        case asks.Import():
            return asked.limit
        case asks.Synthesise() | asks.SynthesiseAtEndpoint():
            return written
        case asks.FilterByCosine() | asks.FilterByReranker() | asks.FilterByJudge() if (
            asked.quantile is not None
        ):
            return None if read is None else round(read * (1 - asked.quantile))
        case asks.Merge():
            return None
    return read


def read_rows(options: Sequence[str], steps: Collection[str]) -> dict[str, int]:
    """`kept=12M` -> 12,000,000. Raises ValueError for what is no number of a step's rows."""
    found = {}
    for option in options:
        name, _, text = option.partition("=")
        number = re.fullmatch(r"(\d+(?:\.\d+)?)([kMB]?)", text)
        if number is None or name not in steps:
            raise ValueError(
                f"--rows {option}: write it as STEP=12000000 or STEP=12M; steps: {', '.join(steps)}"
            )
        found[name] = round(float(number[1]) * {"": 1, "k": 1e3, "M": 1e6, "B": 1e9}[number[2]])
    return found


def render(found: Mapping[str, Work]) -> list[tuple[str, ...]]:
    """Rows of a table: step, rows, tokens, device hours, hours, storage; the last one holds the sums."""
    rows = [
        (
            name,
            _short(work.rows),
            _short(work.tokens),
            _hours(work.device_hours),
            _hours(work.hours),
            _bytes(work.stored),
        )
        for name, work in found.items()
    ]
    total = Work(
        None,
        sum(work.tokens or 0 for work in found.values()),
        sum(work.device_hours or 0.0 for work in found.values()),
        sum(work.hours or 0.0 for work in found.values()),
        sum(work.stored or 0 for work in found.values()),
    )
    sums = (_short(total.tokens), _hours(total.device_hours), _hours(total.hours), _bytes(total.stored))
    return [*rows, ("together", "", *sums)]


def assumptions(found: Mapping[str, Work], profile: Profile) -> str:
    """What the figures stand on, and what the hours cost, in a sentence or two."""
    device = "GPU" if profile.gpus_per_worker else "worker"
    said = (
        f"At most, if every text is as long as it may be and a {device} sustains {profile.device_tflops:g} TFLOP/s "
        f"(`device_tflops` of the profile; an engine writes {profile.writer_tokens_per_second:,.0f} tokens/s)."
    )
    if profile.device_price is not None:
        spent = sum(work.device_hours or 0.0 for work in found.values()) * profile.device_price
        said += f" {spent:,.2f} in the currency of `device_price`."
    unknown = [name for name, work in found.items() if work.tokens is None and work.stored is None]
    if unknown:
        said += (
            f" Not counted, since their rows or their model's size are not known yet: {', '.join(unknown)}; "
            "`--rows STEP=NUMBER` says it, or a `limit` in the recipe."
        )
    return said


def _trained(
    profile: Profile, asked: Stage, rows: int | None, base: ModelSize | None, negatives: int
) -> Work:
    """A stage. Its store: the model, its checkpoints with the optimizer's state, its tokens once."""
    size, twice = _size(asked, base), 0.0
    if isinstance(asked, TrainReranker):
        given = negatives if asked.negatives_per_query is None else asked.negatives_per_query
        length = asked.prompt.length * (1 + given)
    else:
        assert isinstance(asked, EmbeddingStage)
        length = asked.query_length + asked.document_length * (1 + asked.negatives_per_query)
        twice = max(0.0, 1 - profile.graph_tokens * profile.workers / (asked.batch_size * length))
    flops = (4.0 if asked.lora else 6.0) + 2.0 * twice + 2.0 * profile.activation_checkpointing
    seen = None if rows is None else round(rows * asked.epochs)
    stored = None
    if size is not None and rows is not None:
        states = 1 + 3 * (1 + asked.checkpoints)
        stored = size.weights * BYTES_PER_WEIGHT * states + rows * length * BYTES_PER_TOKEN_ID
    return _computed(profile, profile.workers, seen, _times(seen, length), size, flops, stored)


def _size(asked: object, base: ModelSize | None) -> ModelSize | None:
    """Of the model that a stage trains."""
    return model_size(asked.base, asked.layers) if isinstance(asked, TrainReranker) else base


def _written(
    profile: Profile,
    rows: int | None,
    expected: Estimate | None,
    writer: ModelSize | None,
    stored: float | None,
) -> Work:
    """Pairs of a writer in the cluster, whose engines keep what all prompts begin with."""
    if expected is None or writer is None:
        return Work(rows, stored=_whole(stored))
    tokens = expected.input_tokens + expected.output_tokens
    read = 2.0 * writer.in_products * expected.own_tokens / (profile.device_tflops * 1e12)
    engine_seconds = expected.output_tokens / profile.writer_tokens_per_second
    device_hours = (read + engine_seconds * max(1, profile.writer_gpus)) / 3600
    return Work(
        rows,
        tokens,
        device_hours,
        device_hours / profile.writers / max(1, profile.writer_gpus),
        _whole(stored),
    )


def _computed(
    profile: Profile,
    devices: int,
    rows: int | None,
    tokens: float | None,
    size: ModelSize | None,
    flops_per_weight: float,
    stored: float | None,
    more_flops: float = 0.0,
) -> Work:
    """Tokens through a model."""
    if tokens is None or size is None:
        return Work(rows, stored=_whole(stored))
    flops = tokens * flops_per_weight * size.in_products + more_flops
    device_hours = flops / (profile.device_tflops * 1e12) / 3600
    return Work(rows, _whole(tokens), device_hours, device_hours / devices, _whole(stored))


def _negatives(recipe: Recipe, pairs: str | None) -> int:
    """How many negatives the pairs of a step carry: those of the mining that they come from."""
    reads = find_reads(recipe.steps)
    while pairs is not None:
        asked = recipe.steps[pairs]
        if isinstance(asked, asks.Mine):
            return asked.negatives_per_query
        pairs = reads[pairs].pairs
    return 0


def _least(*numbers: int | None) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def _times(number: float | None, factor: float) -> float | None:
    return None if number is None else number * factor


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)


def _short(number: int | None) -> str:
    """150 M, 12.3 B."""
    if number is None:
        return ""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:,.3g} {unit}"
    return f"{number:,}"


def _hours(hours: float | None) -> str:
    if hours is None:
        return ""
    if hours >= 1:
        return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def _bytes(stored: int | None) -> str:
    if stored is None:
        return ""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30)):
        if stored >= size:
            return f"{stored / size:,.1f} {unit}"
    return f"{stored / 2**20:,.1f} MiB"
