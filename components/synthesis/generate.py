"""Synthesis: a language model writes training pairs for documents (Qwen3 Embedding, arXiv 2506.05176).

Four families: retrieval (a query for a document), bitext mining (a sentence and its translation), semantic textual
similarity (a sentence, one like it, one less like it), classification (a text, its label, other labels). Everything
about a row but the model's words is drawn from its document's id and the seed. Two steps, one an engine; what they
share stands below them.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pydantic import ValidationError
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayActorError

from components.corpus.digests import digests
from components.corpus.schema import DOCUMENTS, REJECTED_FILE
from components.monitor import Monitor
from components.ray_data import data_context
from components.storage import Folder
from components.synthesis.answers import (
    Finished,
    arrow_filesystem,
    ask_failures_again,
    forget_failures,
    read_finished,
)
from components.synthesis.collect import Provenance, collect
from components.synthesis.draws import Draws, is_kept, keep_rates
from components.synthesis.endpoint import Endpoint, ask_endpoint
from components.synthesis.ledger import end_engines, new_ledger, read_book, watched
from components.synthesis.personas import PersonaSearch
from components.synthesis.prompts import (
    Prompts,
    load_personas,
    load_prompts,
    personas_version,
    prompt_version,
)
from components.synthesis.requests import make_requests
from components.synthesis.settings import Settings, read_options

SOURCE = "synthesis/documents.parquet"
ROWS_PER_BLOCK = 16  # documents that go to an engine together
WAIT_FOR_ENGINE = 1200  # seconds until engines that do not start are given up

_COLUMNS = ["document_id", "title", "text", "language"]


def synthesise(
    *,
    split: Folder,
    writer: Folder,
    llm: str,
    chat_template_arguments: dict[str, Any] | None = None,
    output: Folder,
    monitor: Monitor,
    state: Folder,
    retriever: Folder | None = None,
    **options: Any,
) -> dict[str, float]:
    """Have a model in the cluster (vLLM) write one row a document, and keep the rows that pass validation.

    Rows that are finished are recorded in `state`: called again with the same `state`, the step asks only for
    the missing ones. On a GPU each row has its own seed; on the CPU only the engine has one (see
    `ask_cluster`), so there a run repeated from nothing may write other words.

    Args:
        split: holds `synthesis/documents.parquet`.
        writer: an instruct model with a chat template, in a directory that vLLM loads.
        llm: the writer's name, as the pairs will carry it.
        chat_template_arguments: what the writer's chat template wants to know beside the messages, as
            `{"enable_thinking": False}`.
        output: receives `pairs.parquet` (PAIRS) and `rejected/rejected.parquet`, both by document id.
        state: what survives an attempt.
        retriever: the embedding model that chooses five personas for a document; None: BM25 does.
        options: the fields of `settings.Settings` and of `writer.Hardware`.

    Returns:
        rows_in (documents), left_out_by_language, rows_out, pairs_<family>, rejected_<reason>, kept_share,
        input_tokens, output_tokens, and of this attempt engine_start_seconds, rows_per_second,
        output_tokens_per_second (0 if nothing was left to write).

    Raises:
        TypeError: an option that there is not.
        ValueError: a file or a setting is wrong, more rows failed than `max_error_share` allows, or no row passes.
    """
    from components.synthesis.writer import Hardware, ask_cluster  # loads vLLM, which takes a while

    settings, hardware = read_options(options, Hardware)
    task = _prepare(split, settings, llm)
    _check_chat_template(writer)

    def ask(requests: Dataset, ledger: ActorHandle) -> Dataset:
        return ask_cluster(
            requests,
            model=writer.path() if writer.is_local else writer.uri,
            prompts=task.prompts,
            sampling=settings.sampling,
            hardware=hardware,
            chat_template_arguments=chat_template_arguments or {},
            ledger=ledger,
            state=state,
        )

    return _run(task, ask, hardware.num_engines, retriever, output, monitor, state)


def synthesise_at_endpoint(
    *,
    split: Folder,
    llm: str,
    output: Folder,
    monitor: Monitor,
    state: Folder,
    retriever: Folder | None = None,
    **options: Any,
) -> dict[str, float]:
    """As `synthesise`, by a model behind an OpenAI-compatible endpoint.

    A row whose requests fail for good costs that row; a key, address or account that the endpoint refuses ends
    the step at once. Rows that were answered are in `state` a second later and are not paid for twice.

    Args:
        llm: the model's name at the endpoint; the pairs carry it.
        options: the fields of `settings.Settings` and of `endpoint.Endpoint`.

    Returns: as `synthesise`.

    Raises:
        TypeError: an option that there is not.
        ValueError: a file or a setting is wrong, the key is not set, the endpoint refuses every request,
            more rows failed than `max_error_share` allows, or no row passes.
    """
    settings, endpoint = read_options(options, Endpoint, model=llm)
    task = _prepare(split, settings, llm)
    endpoint.key()

    def ask(requests: Dataset, ledger: ActorHandle) -> Dataset:
        return ask_endpoint(
            requests,
            endpoint=endpoint,
            prompts=task.prompts,
            sampling=settings.sampling,
            ledger=ledger,
            state=state,
        )

    return _run(task, ask, 1, retriever, output, monitor, state)


@dataclass(frozen=True)
class _Task:
    """What is to be written, whoever writes it, with all files read.

    Attributes:
        documents, used: there are, and are written about.
        rates: the share used of the documents of each language.
    """

    split: Folder
    settings: Settings
    llm: str
    prompts: Prompts
    personas: list[str]
    draws: Draws
    documents: int
    used: int
    rates: dict[str, float]


def _prepare(split: Folder, settings: Settings, llm: str) -> _Task:
    """Read and check all that can be wrong before anything is started."""
    prompts, personas = load_prompts(settings.prompts), load_personas(settings.personas)
    for field, path, planned, found in (
        ("prompts", settings.prompts, settings.prompt_version, prompt_version(settings.prompts)),
        ("personas", settings.personas, settings.persona_version, personas_version(settings.personas)),
    ):
        if planned != found:
            raise ValueError(
                f"{field}: the file {path or 'of the project'} has changed since the plan was made "
                f"(version {planned} then, {found} now); submit again"
            )
    draws = _read_draws(settings.draws)
    prompts.check_draws(draws)
    documents, languages = _survey(split)
    rates = keep_rates(languages, draws.corpus_languages)
    _check_languages(languages, rates, draws, prompts)
    used = sum(
        is_kept(key, settings.seed, rates.get(language, 0.0))
        for batch in _read_ids(split)
        for key, language in zip(*batch, strict=True)
    )
    return _Task(split, settings, llm, prompts, personas, draws, documents, used, rates)


def _check_languages(
    languages: Mapping[str, int], rates: Mapping[str, float], draws: Draws, prompts: Prompts
) -> None:
    """Raises ValueError if the prompt file can name the language of no document that is used."""
    used = sorted(language for language in languages if rates.get(language))
    others_serve = "retrieval" in draws.families and draws.query_languages is not None
    if not others_serve and not any(language in prompts.languages for language in used):
        there = ", ".join(f"{language or '(none)'} {languages[language]}" for language in used)
        raise ValueError(
            f"the prompt file names the language of no document: there are {there}, it has "
            f"{', '.join(prompts.languages)}; say the documents' language, or add it to `languages` of the prompts"
        )


def _read_draws(draws: Mapping[str, Any]) -> Draws:
    """Raises ValueError for the first mistake."""
    try:
        return Draws.model_validate(draws)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["draws", *map(str, first["loc"])])
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


def _run(
    task: _Task,
    ask: Callable[[Dataset, ActorHandle], Dataset],
    num_engines: int,
    retriever: Folder | None,
    output: Folder,
    monitor: Monitor,
    state: Folder,
) -> dict[str, float]:
    forget_failures(state)
    finished = read_finished(state)
    facts = {"engine_start_seconds": 0.0, "rows_per_second": 0.0, "output_tokens_per_second": 0.0}
    if len(finished.digests_N) < task.used:
        most_errors = math.floor(task.settings.max_error_share * task.used) - finished.failed
        ledger = new_ledger(most_errors, num_engines)
        try:
            with watched(ledger, monitor, len(finished.digests_N), task.used), data_context(WAIT_FOR_ENGINE):
                answered = ask(_requests(task, finished, retriever), ledger)
                for _ in answered.iter_internal_ref_bundles():
                    pass
        except Exception as error:
            with contextlib.suppress(RayActorError):  # a ledger that died too knows nothing better
                _explain(error, ledger, task, finished.failed, most_errors, state)
            raise
        facts = read_book(ledger).speed()
    with data_context(WAIT_FOR_ENGINE):
        collected = collect(
            state,
            output,
            task.prompts,
            task.draws.longest_words,
            Provenance(task.llm, task.settings.prompt_version, task.settings.instructions),
        )
    rows_out = collected.families.total()
    if not rows_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in collected.reasons.most_common())
        raise ValueError(
            f"no pair is left of {task.used} documents: {reasons}; what was written stands in {REJECTED_FILE} of "
            f"{output.uri}"
        )
    return {
        "rows_in": task.documents,
        "left_out_by_language": task.documents - task.used,
        "rows_out": rows_out,
        **{f"pairs_{family}": count for family, count in sorted(collected.families.items())},
        **{f"rejected_{reason}": count for reason, count in sorted(collected.reasons.items())},
        "kept_share": rows_out / task.used,
        "input_tokens": collected.input_tokens,
        "output_tokens": collected.output_tokens,
        **facts,
    }


def _explain(
    error: Exception, ledger: ActorHandle, task: _Task, failed_before: int, most_errors: int, state: Folder
) -> None:
    """End the engines of a step that failed. Raises ValueError if the ledger knows why it did."""
    book = read_book(ledger)
    end_engines(ledger)
    if book.stopped:
        raise ValueError(book.stopped) from error
    if book.errors > most_errors:
        ask_failures_again(state)
        kinds = ", ".join(f"{fault} {count}" for fault, count in book.faults.most_common())
        raise ValueError(
            f"the writer failed for {book.errors + failed_before} of {task.used} rows ({kinds}), more than "
            f"max_error_share = {task.settings.max_error_share} allows; the last one: {book.last_error}"
        ) from error


def _requests(task: _Task, finished: Finished, retriever: Folder | None) -> Dataset:
    """The rows that are still to be asked for."""
    held, seed = ray.put(finished), task.settings.seed
    characters = task.settings.passage_characters

    def request(batch: pa.Table) -> pa.Table:
        return make_requests(batch, task.prompts, task.draws, task.rates, ray.get(held), characters, seed)

    documents = ray.data.read_parquet(
        task.split.path(SOURCE), filesystem=arrow_filesystem(task.split), columns=_COLUMNS, num_cpus=0
    )
    blocks = documents.repartition(target_num_rows_per_block=ROWS_PER_BLOCK)
    requests = blocks.map_batches(request, batch_format="pyarrow", num_cpus=0)
    if "retrieval" not in task.draws.families:
        return requests
    return requests.map_batches(
        PersonaSearch,
        fn_constructor_args=(task.personas, retriever, seed),
        batch_size=ROWS_PER_BLOCK,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=task.settings.num_retrievers),
        num_cpus=0,
    )


def _survey(split: Folder) -> tuple[int, Counter[str]]:
    """How many documents there are, and of which languages. Raises ValueError: none, or an id stands twice."""
    if not split.exists(SOURCE):
        raise ValueError(f"the split holds no {SOURCE}")
    with split.open(SOURCE) as source:
        missing = [f.name for f in DOCUMENTS if not f.nullable and f.name not in pq.read_schema(source).names]
    if missing:
        raise ValueError(f"{SOURCE} of the split has no column {missing[0]}")
    languages: Counter[str] = Counter()
    found = [np.empty(0, dtype=np.int64)]
    for ids, spoken in _read_ids(split):
        languages.update(spoken)
        found.append(digests(ids))
    id_N = np.concatenate(found)
    if not len(id_N):
        raise ValueError(f"{SOURCE} of the split holds no document to write queries for")
    if repeated := len(id_N) - len(np.unique(id_N)):
        raise ValueError(f"{SOURCE} of the split holds {repeated} document ids more than once")
    return len(id_N), languages


def _read_ids(split: Folder) -> Iterator[tuple[list[str], list[str]]]:
    """Ids and languages, some at a time."""
    with split.open(SOURCE) as source:
        for batch in pq.ParquetFile(source).iter_batches(columns=["document_id", "language"]):
            yield batch.column("document_id").to_pylist(), batch.column("language").to_pylist()


def _check_chat_template(writer: Folder) -> None:
    in_config = writer.exists("tokenizer_config.json") and b'"chat_template"' in writer.read(
        "tokenizer_config.json"
    )
    if not in_config and not writer.exists("chat_template.jinja"):
        raise ValueError(f"the writer in {writer.uri} has no chat template; it must be an instruct model")
