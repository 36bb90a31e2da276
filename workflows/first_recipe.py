"""A first recipe for documents that were looked at: what is chosen, why, and the YAML that says so."""

import json
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from components.corpus.formats import Column
from components.corpus.known_items import Part
from components.corpus.survey import MAX_DOCUMENTS, Survey
from workflows.cost import Backbone, Cost, Work, estimate

LENGTHS = (64, 96, 128, 192, 256)
"""Tokens of a document, of which the least is taken that holds nine of ten documents."""
LEAST_QUERIES = 40
"""With a known answer; of fewer no quarter can be held out and the rest be trained on."""
JUDGED_SPLITS = ("test", "dev", "validation", "valid")
MOST_EVALUATION_QUERIES, MOST_EVALUATION_DOCUMENTS = 500, 3000
HELD_OUT = 0.2
"""Share of queries and documents, where the source has no split."""
PAIRS = (50_000, 20_000, 10_000, 5000, 2000, 1000)
"""Limits of the pairs of a stage, of which the largest is taken that keeps to the minutes."""
FILLED = 0.88
"""Of what a piece may hold, so much it does, for it ends where a paragraph or a sentence does: measured on the pages of
Python's and SQLite's documentation, cut to 128 and to 256 tokens (0.84 to 0.91)."""
CHECKPOINTS = 3
MIN_CHARACTERS = 20
FEW = 0.1
"""Of the documents; in code and lists of names languages are mistaken for one another."""
QUERY_TOKENS = 16.0
"""Of a query, about."""
SMALL_MODEL = 60_000_000
"""Weights in matrices: below it a model takes the higher learning rate."""


@dataclass(frozen=True)
class Lengths:
    """Of the documents of the sample: title and text, in tokens of the base, or in words where it is not here."""

    unit: str
    counts_N: np.ndarray

    @property
    def median(self) -> int:
        return int(np.median(self.counts_N))

    @property
    def ninth_decile(self) -> int:
        return int(np.quantile(self.counts_N, 0.9))


@dataclass(frozen=True)
class Choice:
    """What the recipe says.

    Attributes:
        candidates: languages that are told apart, where the documents are in several and do not say in which.
        known_items: what is asked for in place of queries that there are not.
        evaluation_split: of the source, to judge by; None: some are held out.
        evaluation_queries, evaluation_documents: how many there will be, about.
        chunk: documents are cut to `document_length`.
        documents: to search in, pieces of those that are cut.
        pairs: rows by kind, about: of the first and of the second stage, or of both.
        limit: of the pairs of a kind; None: all of them.
    """

    name: str
    sources: list[str]
    base: str
    language: str
    candidates: list[str]
    columns: dict[Column, str | None]
    known_items: Part | None
    evaluation_split: str | None
    evaluation_queries: int
    evaluation_documents: int
    document_length: int
    chunk: bool
    documents: int
    pairs: dict[str, int]
    batch_size: int
    learning_rate: float
    bfloat16: bool
    limit: int | None = None


def choose(
    survey: Survey,
    lengths: Lengths,
    name: str,
    sources: list[str],
    base: str,
    backbone: Backbone | None,
    bfloat16: bool,
) -> Choice:
    """What suits the documents.

    Args:
        backbone: of the base; None: it is not on this machine.
        bfloat16: the CPU, or a GPU, computes in it.

    Raises:
        ValueError: there is nothing to judge a model by, with what to bring.
    """
    columns = dict(survey.columns)
    if survey.shared_ids:
        columns["id"] = None
    longest = min(LENGTHS[-1], (backbone.longest if backbone else None) or LENGTHS[-1])
    in_tokens = lengths.ninth_decile * (1.0 if lengths.unit == "tokens" else 1.4)
    document_length = next((length for length in LENGTHS if min(in_tokens, longest) <= length), longest)

    known_items = None if survey.queries else _known_items(survey)
    chunk = known_items is not None and lengths.unit == "tokens" and lengths.median > document_length
    is_cut_N = lengths.counts_N > document_length
    pieces_N = np.where(is_cut_N, np.ceil(lengths.counts_N / (FILLED * document_length)), 1)
    pieces = float(np.mean(pieces_N)) if chunk else 1.0
    documents = round(survey.documents * pieces)

    split = next((split for split in JUDGED_SPLITS if split in survey.queries), None)
    queries = sum(survey.queries.values())
    if known_items:
        queries = round(survey.askable[known_items] * survey.documents)
    titles = known_items != "title" and survey.askable["title"] >= 0.3
    others = len(survey.queries) > 1
    if split and (others or titles):
        held, searched = survey.queries[split], documents
    else:
        split = None
        searched = min(MOST_EVALUATION_DOCUMENTS, round(HELD_OUT * documents))
        held = min(MOST_EVALUATION_QUERIES, round(HELD_OUT * queries), int(searched / pieces))
        searched, held = _round(searched), _round(held)
    pairs: dict[str, int] = {}
    if titles:
        pairs["title_body"] = documents - (held if split else searched)
    if others or not split:
        pairs["labelled"] = round((queries - held) * (pieces if known_items else 1.0))
    fewest = min(pairs.values())
    return Choice(
        name=name,
        sources=sources,
        base=base,
        language=_main_language(survey),
        candidates=_candidates(survey),
        columns=columns,
        known_items=known_items,
        evaluation_split=split,
        evaluation_queries=held,
        evaluation_documents=searched,
        document_length=document_length,
        chunk=chunk,
        documents=documents,
        pairs=pairs,
        batch_size=64 if fewest >= 1500 else 32 if fewest >= 400 else 16,
        learning_rate=1e-4 if backbone is None or backbone.weights < SMALL_MODEL else 2e-5,
        bfloat16=bfloat16,
    )


def _round(count: int) -> int:
    """Down to two digits: an exact figure would say more than is known."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return count // unit * unit


def _known_items(survey: Survey) -> Part:
    """The part of a document that is asked for: titles, unless many more documents have a first sentence."""
    title, sentence = survey.askable["title"], survey.askable["first_sentence"]
    part: Part = "title" if title >= 0.5 or title >= sentence else "first_sentence"
    found = round(survey.askable[part] * survey.documents)
    if found < LEAST_QUERIES:
        others = ", ".join(f"{count:,} {kind}" for kind, count in survey.left_out.most_common(3))
        below = (
            f"; not read are {others}: tables are read from the folder that is named, not below it"
            if others
            else ""
        )
        raise ValueError(
            f"there is nothing to judge a model by: no queries with known answers, and of {survey.documents} documents "
            f"only {found} have a title or a first sentence that could be asked for in their place (at least "
            f"{LEAST_QUERIES}){below}; give more documents, or a BEIR folder: corpus.jsonl (_id, title, text), "
            f"queries.jsonl (_id, text) and qrels/test.tsv (query-id, corpus-id, score)"
        )
    return part


def _main_language(survey: Survey) -> str:
    found = survey.stated or survey.detected
    return found.most_common(1)[0][0] if found else "en"


def _candidates(survey: Survey) -> list[str]:
    total = survey.detected.total()
    common = [code for code, count in survey.detected.most_common() if count >= FEW * total]
    return common if len(common) > 1 else []


def other_languages(survey: Survey) -> str:
    """Which part of the documents is not in English, if it is more than a few."""
    counts = survey.stated or survey.detected
    share = 1 - counts["en"] / counts.total() if counts else 0.0
    return f"{share:.0%}" if share >= FEW else ""


def knows_english_only(base: str) -> bool:
    """Of the small encoder that is chosen where the user names none."""
    return "minilm_l6" in base.casefold().replace("-", "_")


def work_of(choice: Choice, lengths: Lengths) -> Work:
    """What a run of the recipe computes."""
    kept_N = np.minimum(lengths.counts_N, choice.document_length)
    length = float(choice.document_length * FILLED if choice.chunk else np.mean(kept_N))
    limit = choice.limit or math.inf
    first, *_, second = (min(limit, count) for count in [*choice.pairs.values()] * 2)
    # Base, weak, merged, and the checkpoints, of which the last is the stage's model.
    models = 3 + CHECKPOINTS
    searched = choice.evaluation_documents
    mined = choice.documents - (0 if choice.evaluation_split else searched)
    return Work(
        documents=choice.documents,
        encoded=round(models * (searched + choice.evaluation_queries) + mined + second),
        encoded_tokens=(models * searched + mined) * length
        + (models * choice.evaluation_queries + second) * QUERY_TOKENS,
        trained=round(first + second),
        trained_tokens=first * (QUERY_TOKENS + length) + second * (QUERY_TOKENS + 2 * length),
        length=length,
        steps=19 + len(choice.pairs) + choice.chunk + sum(map(bool, (choice.known_items, choice.candidates))),
    )


def within(
    choice: Choice, lengths: Lengths, backbone: Backbone, rate: float, minutes: float
) -> tuple[Choice, Cost]:
    """The choice with as many pairs as keep a run to so many minutes, or the fewest of PAIRS."""
    most = max(choice.pairs.values())
    limits: list[int | None] = [None, *(limit for limit in PAIRS if limit < most)]
    for limit in limits:
        limited = replace(choice, limit=limit)
        cost = estimate(work_of(limited, lengths), backbone, rate)
        if cost.minutes <= minutes:
            break
    return limited, cost


def to_yaml(choice: Choice, survey: Survey, schema_file: str) -> str:
    """The recipe, with its reasons as comments."""
    return "\n".join(_lines(choice, survey, schema_file)) + "\n"


def _lines(choice: Choice, survey: Survey, schema_file: str) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={schema_file}"
    yield from _comment(
        "Written by `embedloom init` for the documents named below. Everything in it changes the result; where and how "
        "fast it runs is in a profile (--profile). Lines may be changed freely: `embedloom plan` says what would be "
        "computed again."
    )
    yield f"name: {choice.name}          # of the run, and of the model in the registry"
    yield ""
    yield "documents:"
    yield f"  sources: {_list(choice.sources)}"
    if choice.columns:
        if survey.shared_ids:
            yield from _comment(
                f"id: {survey.shared_ids:,} documents have an id that stands for another one already, so ids are "
                "made of the content.",
                2,
            )
        yield f"  columns: {{{', '.join(f'{role}: {_scalar(name)}' for role, name in choice.columns.items())}}}"
    yield f"  language: {choice.language}               # of documents that do not say"
    yield f"  min_characters: {MIN_CHARACTERS}         # shorter ones are turned away, and kept with that reason"
    yield ""
    if choice.candidates:
        yield from _comment("The documents do not say in which language they are: it is detected, of these.")
        yield f"languages: {{candidates: [{', '.join(choice.candidates)}]}}"
        yield ""
    if choice.known_items:
        part = "title" if choice.known_items == "title" else "first sentence"
        yield from _comment(
            f"There are no queries with known answers, so the {part} of each document is taken out of it and asked "
            "for in their place; the rest of the document is the answer. Nobody asked these: they use the documents' "
            "own words, so the figures are kinder than people's queries would be. Better are some hundred real ones: "
            "a BEIR folder as source (corpus.jsonl, queries.jsonl, qrels/test.tsv), and this section taken out."
        )
        yield "known_items:"
        yield f"  query: {choice.known_items}"
        yield f"  max_documents: {MAX_DOCUMENTS}           # what more documents share is no query"
        yield ""
    if choice.chunk:
        yield from _comment(
            f"Half of the documents are longer than {choice.document_length} tokens, which is as far as the model "
            "would read: they are cut where paragraphs and sentences end, and each piece is searched by itself."
        )
        yield f"chunks: {{max_tokens: {choice.document_length}}}"
        yield ""
    yield from _split(choice)
    yield ""
    yield "model:"
    yield from _base_comment(choice, survey)
    yield f"  base: {choice.base}"
    yield "  encoding:"
    yield f"    document_length: {choice.document_length}     # tokens; what is longer loses its end"
    yield ""
    yield from _steps(choice)


def _split(choice: Choice) -> Iterator[str]:
    yield "split:"
    if choice.evaluation_split:
        yield from _comment(
            f"The source's own split: {choice.evaluation_queries:,} queries, searched for in all documents.",
            2,
        )
        yield f"  evaluation_split: {choice.evaluation_split}"
    else:
        yield from _comment(
            "Held out to judge by: neither these queries nor near-copies of their documents are trained on.",
            2,
        )
        yield f"  evaluation_queries: {choice.evaluation_queries}"
        yield f"  evaluation_documents: {choice.evaluation_documents}     # what is searched"


def _base_comment(choice: Choice, survey: Survey) -> Iterator[str]:
    english = knows_english_only(choice.base)
    if english and (others := other_languages(survey)):
        yield from _comment(
            f"This model knows English only, and {others} of the documents are in other languages. Where the hub can "
            "be reached, intfloat/multilingual-e5-small knows 100.",
            2,
        )
    else:
        yield from _comment(
            "22 million parameters, English: what two CPUs can train. With a GPU: Qwen/Qwen3-Embedding-0.6B."
            if english
            else "Where the training starts from: hub id, directory, models:/name/version or package://name.",
            2,
        )


def _steps(choice: Choice) -> Iterator[str]:
    yield "# In this order; each reads the nearest earlier pairs and model."
    yield "steps:"
    asked = "queries that are not held out, with their answers"
    what = {"title_body": "each title asks for its text", "labelled": asked}
    first, *more = choice.pairs
    yield from _collect(choice, "weak-pairs" if more else "pairs", first, what[first])
    yield from _train(choice, "weak")
    for kind in more:
        yield from _collect(choice, "supervised-pairs", kind, what[kind])
    yield "  mined:                       # for each query a document that the model takes for an answer, wrongly"
    yield "    do: mine"
    yield "    negatives_per_query: 1"
    yield "    window: [0, 30]            # ranks"
    if choice.bfloat16:
        yield "    precision: bfloat16"
    yield ""
    yield from _train(choice, "supervised")
    yield "    negatives_per_query: 1"
    yield f"    checkpoints: {CHECKPOINTS}             # the last ones are judged, and merged"
    yield ""
    yield "  merged:                      # the mean of the checkpoints on the sphere"
    yield "    do: merge"
    yield ""
    yield from _comment(
        "More pairs: `do: synthesise` has a language model write queries for documents, which takes a GPU or an "
        "endpoint to be worth it; `do: import` takes pairs from files. A reranker: `do: train-reranker`. "
        "README shows them.",
        2,
    )


def _collect(choice: Choice, name: str, kind: str, what: str) -> Iterator[str]:
    yield f"  {name + ':':<28} # {what}"
    yield "    do: collect"
    yield f"    kinds: [{kind}]"
    if choice.limit:
        yield f"    limit_per_kind: {choice.limit}"
    yield ""


def _train(choice: Choice, name: str) -> Iterator[str]:
    yield f"  {name}:"
    yield "    do: train"
    yield f"    batch_size: {choice.batch_size:<14} # the other documents of a batch are a query's negatives"
    yield f"    learning_rate: {choice.learning_rate:.1e}".replace("e-0", "e-")
    yield f"    query_length: {min(32, choice.document_length)}           # tokens"
    yield f"    document_length: {choice.document_length}"
    yield "    objective: {temperature: 0.03}"
    if not choice.bfloat16:
        yield "    precision: float32         # this CPU does not compute in bfloat16"
    if name == "weak":
        yield ""


def _comment(text: str, indent: int = 0) -> list[str]:
    lead = " " * indent + "# "
    return textwrap.wrap(text, width=110, initial_indent=lead, subsequent_indent=lead, break_on_hyphens=False)


def _list(values: list[str]) -> str:
    return f"[{', '.join(map(_scalar, values))}]"


def _scalar(value: str | None) -> str:
    """A value as YAML; in quotes, which JSON's are."""
    return "null" if value is None else json.dumps(value, ensure_ascii=False)
