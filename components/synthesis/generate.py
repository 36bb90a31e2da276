"""Synthesis for retrieval: a language model writes one query a document (Qwen3 Embedding, arXiv 2506.05176).

Two calls a document: the first picks a character, a question type and a difficulty for the passage, the
second writes the query. Everything about a document but the model's words is drawn from its id and the seed.
"""

import math
from collections import Counter
from typing import Any

import pyarrow as pa

from components.corpus.schema import DOCUMENTS, PAIRS, conform, content_id, passage
from components.monitor import Monitor
from components.storage import Folder
from components.synthesis.answers import (
    checkpointed,
    forget_failures,
    read_answers,
    read_dataset,
    write_answers,
)
from components.synthesis.ledger import new_ledger, read_book, watched
from components.synthesis.personas import choose_candidates, draw_length, row_seed
from components.synthesis.prompts import load_personas, load_prompts, personas_version
from components.synthesis.prompts import prompt_version as version_of_prompts
from components.synthesis.validate import Candidate, judge, parse_query
from components.synthesis.writer import Hardware, Sampling, build_writer

SOURCE = "synthesis/documents.parquet"
ORIGIN = "synthetic"
TASK = "retrieval"
ROWS_PER_BLOCK = (
    16  # finished rows are recorded by the block: so many are lost in a crash, for each block in work
)


def synthesise(
    *,
    split: Folder,
    writer: Folder,
    llm: str,
    instruction: str,
    language: str,
    prompt_version: str,
    persona_version: str,
    length_words: list[int],
    passage_characters: int,
    temperature: float,
    top_p: float,
    frequency_penalty: float,
    max_tokens: int,
    dtype: str,
    seed: int,
    output: Folder,
    monitor: Monitor,
    state: Folder,
    prompts: str | None = None,
    personas: str | None = None,
    num_cpus: float = 1,
    num_gpus: int = 0,
    num_engines: int = 1,
    max_model_length: int = 2560,
    max_error_share: float = 0.2,
) -> dict[str, float]:
    """Write one query a document and keep those that pass validation.

    Rows that are finished are recorded in `state`: called again with the same `state`, the step asks only for
    the missing documents. On a GPU each row has its own seed; on the CPU only the engine has one (see
    `Sampling`), so there a run repeated from nothing may write other words.

    Args:
        split: holds `synthesis/documents.parquet`.
        writer: an instruct model with a chat template, in a directory that vLLM loads.
        llm: the writer's name, as the pairs will carry it.
        instruction: goes into the pairs; it says what the queries are for.
        language: ISO code of the language of the queries.
        prompt_version, persona_version: of the files `prompts` and `personas` (see
            `components.synthesis.prompts`); a file that has changed since is refused.
        length_words: the least and the greatest length that is asked for, drawn uniformly.
        passage_characters: so much of a document's title and text is shown to the writer.
        temperature, top_p, frequency_penalty, max_tokens: of each of the two calls.
        dtype: in which the writer computes, as vLLM names it.
        output: receives `pairs.parquet` (PAIRS, ordered as the documents) and `rejected/rejected.parquet`.
        state: what survives an attempt.
        prompts, personas: files (path or URI) in place of the project's own.
        num_cpus, num_gpus: of one engine. num_engines: engines side by side, each with the whole model.
        max_model_length: tokens of a prompt (with its examples and the passage) and its answer.
        max_error_share: share of the documents for which the engine may fail or answer unreadably.

    Returns:
        documents, rows_out, rejected_<reason>, kept_share, input_tokens, output_tokens, and of this attempt
        engine_start_seconds, rows_per_second, output_tokens_per_second (0 if nothing was left to write).

    Raises:
        ValueError: a file or a setting is wrong, or more documents failed than `max_error_share` allows.
    """
    shown = load_prompts(prompts)
    characters = load_personas(personas)
    _check_version("synthesis.prompts", prompts, prompt_version, version_of_prompts(prompts))
    _check_version("synthesis.personas", personas, persona_version, personas_version(personas))
    shown.language_name(language)
    shortest, longest = length_words
    if not 1 <= shortest <= longest:
        raise ValueError(
            f"length_words is {length_words}; it must be [least, greatest], the least at least 1"
        )
    documents = _read_documents(split)
    _check_chat_template(writer)

    def request(batch: pa.Table) -> pa.Table:
        ids = batch.column("document_id").to_pylist()
        passages = [
            " ".join(passage(title, text).split())[:passage_characters]
            for title, text in zip(
                batch.column("title").to_pylist(), batch.column("text").to_pylist(), strict=True
            )
        ]
        return pa.table(
            {
                "document_id": ids,
                "passage": passages,
                "characters": choose_candidates(ids, passages, characters, seed),
                "length": [draw_length(document_id, (shortest, longest), seed) for document_id in ids],
                "request_seed": [row_seed(document_id, seed) for document_id in ids],
            }
        )

    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        frequency_penalty=frequency_penalty,
        max_tokens=max_tokens,
        seed=seed,
        seed_rows=num_gpus > 0,
    )
    hardware = Hardware(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        num_engines=num_engines,
        dtype=dtype,
        max_model_length=max_model_length,
    )

    answers = read_answers(state)
    facts = {"engine_start_seconds": 0.0, "rows_per_second": 0.0, "output_tokens_per_second": 0.0}
    if answers.num_rows < documents.num_rows:
        most_errors = math.floor(max_error_share * documents.num_rows)
        ledger = new_ledger(most_errors, num_engines)
        try:
            with watched(ledger, monitor, answers.num_rows, documents.num_rows), checkpointed(state):
                model = writer.path() if writer.is_local else writer.uri
                process = build_writer(model, shown, language, sampling, hardware, ROWS_PER_BLOCK, ledger)
                blocks = read_dataset(split, SOURCE, ["document_id", "title", "text"], ROWS_PER_BLOCK)
                write_answers(state, process(blocks.map_batches(request, batch_format="pyarrow", num_cpus=0)))
        except Exception as error:
            book = read_book(ledger)
            if book.errors > most_errors:
                forget_failures(state)
                kinds = ", ".join(f"{fault} {count}" for fault, count in book.faults.most_common())
                raise ValueError(
                    f"the writer failed for {book.errors} of {documents.num_rows} documents ({kinds}), more than "
                    f"max_error_share = {max_error_share} allows; the last one: {book.last_error}"
                ) from error
            raise
        facts = read_book(ledger).speed()
        answers = read_answers(state)

    answers = _in_order(answers, documents)
    reasons = _judge(answers, [example.query for example in shown.query.examples], longest)
    pairs = _pairs(answers, documents, reasons, instruction, language, llm, prompt_version)
    rejected = answers.append_column("reason", pa.array(reasons, pa.string()))
    rejected = rejected.filter(pa.array([reason is not None for reason in reasons], pa.bool_()))
    output.write_table("pairs.parquet", pairs)
    output.write_table("rejected/rejected.parquet", rejected)
    counts = Counter(reason for reason in reasons if reason is not None)
    return {
        "documents": documents.num_rows,
        "rows_out": pairs.num_rows,
        **{f"rejected_{reason}": count for reason, count in sorted(counts.items())},
        "kept_share": pairs.num_rows / documents.num_rows,
        "input_tokens": sum(answers.column("input_tokens").to_pylist()),
        "output_tokens": sum(answers.column("output_tokens").to_pylist()),
        **facts,
    }


def _read_documents(split: Folder) -> pa.Table:
    documents = conform(split.read_table(SOURCE), DOCUMENTS)
    ids = documents.column("document_id").to_pylist()
    if not ids:
        raise ValueError(f"{SOURCE} of the split holds no document to write queries for")
    if len(set(ids)) < len(ids):
        raise ValueError(
            f"{SOURCE} of the split holds {len(ids) - len(set(ids))} document ids more than once"
        )
    return documents


def _check_version(field: str, path: str | None, planned: str, found: str) -> None:
    if planned != found:
        raise ValueError(
            f"{field}: the file {path or 'of the project'} has changed since the plan was made "
            f"(version {planned} then, {found} now); submit again"
        )


def _check_chat_template(writer: Folder) -> None:
    in_config = writer.exists("tokenizer_config.json") and b'"chat_template"' in writer.read(
        "tokenizer_config.json"
    )
    if not in_config and not writer.exists("chat_template.jinja"):
        raise ValueError(f"the writer in {writer.uri} has no chat template; it must be an instruct model")


def _in_order(answers: pa.Table, documents: pa.Table) -> pa.Table:
    """The answers in the order of the documents; which engine finished first must not show."""
    rows = {document_id: row for row, document_id in enumerate(answers.column("document_id").to_pylist())}
    return answers.take([rows[document_id] for document_id in documents.column("document_id").to_pylist()])


def _judge(answers: pa.Table, examples: list[str], longest_asked: int) -> list[str | None]:
    """The reason why each answer is turned away; None for those that are kept."""
    rows = answers.to_pylist()
    readable = [row for row in rows if not row["fault"]]
    candidates = [
        Candidate(query=parse_query(row["query"]), passage=row["passage"], character=row["character"])
        for row in readable
    ]
    verdicts = dict(
        zip(
            (row["document_id"] for row in readable),
            judge(candidates, examples, longest_asked),
            strict=True,
        )
    )
    return [row["fault"] or verdicts[row["document_id"]] for row in rows]


def _pairs(
    answers: pa.Table,
    documents: pa.Table,
    reasons: list[str | None],
    instruction: str,
    language: str,
    llm: str,
    prompt_version: str,
) -> pa.Table:
    """The kept answers as pairs, in the order of the answers."""
    texts = {
        document_id: passage(title, text)
        for document_id, title, text in zip(
            *(documents.column(name).to_pylist() for name in ("document_id", "title", "text")), strict=True
        )
    }
    rows: list[dict[str, Any]] = []
    for answer, reason in zip(answers.to_pylist(), reasons, strict=True):
        if reason is not None:
            continue
        query, document_id = parse_query(answer["query"]), answer["document_id"]
        rows.append(
            {
                "pair_id": content_id(ORIGIN, query, document_id),
                "query": query,
                "positive": texts[document_id],
                "query_id": content_id(query),
                "positive_id": document_id,
                "task": TASK,
                "instruction": instruction,
                "language": language,
                "origin": ORIGIN,
                "persona": answer["character"],
                "question_type": answer["question_type"],
                "difficulty": answer["difficulty"],
                "llm": llm,
                "prompt_version": prompt_version,
                "seed": answer["request_seed"],
            }
        )
    return pa.Table.from_pylist(rows, schema=PAIRS)
