"""The writer: one vLLM engine that answers both calls of a document, as a stage of a Ray Data LLM processor.

Two processors in a row would start two engines for the same weights: twice the memory, twice the start-up,
each idle while the other works. So the processor of `ray.data.llm` is built as usual and its engine stage is
exchanged for one that asks the same engine twice.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.data.llm import Processor, build_processor, vLLMEngineProcessorConfig

# The two seams of ray.data.llm that have no public name in Ray 2.60: what a stage is, and the engine's stage.
from ray.llm._internal.batch.stages.base import StatefulStage
from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF
from transformers import AutoTokenizer

# Nothing here may load numba: vLLM's CPU worker looks through all loaded modules and stumbles over llvmlite.
from components.synthesis.prompts import Message, Prompts
from components.synthesis.validate import UnreadableError, parse_configuration, parse_query

ENGINE_STAGE = "vLLMEngineStage"
ROWS_IN_FLIGHT = {"gpu": 512, "cpu": 32}
"""Rows that an engine works on at once: as many as it can batch, and few where they would all end together."""


@dataclass(frozen=True)
class Sampling:
    """How the writer draws its words.

    Attributes:
        max_tokens: of one answer.
        seed: of the whole step.
        seed_rows: give each request the seed of its row. The CPU engine of vLLM 0.32 dies of it ("CPU
            Generator does not use offset"), so there only the engine is seeded and a repeated run may write
            other words.
    """

    temperature: float
    top_p: float
    frequency_penalty: float
    max_tokens: int
    seed: int
    seed_rows: bool


@dataclass(frozen=True)
class Hardware:
    """Where an engine runs and what it may use.

    Attributes:
        num_cpus, num_gpus: of one engine; with several GPUs the model is spread over them (tensor parallel).
            Without a GPU `num_cpus` is also its number of threads.
        num_engines: engines side by side, each with the whole model.
        dtype: of the weights, as vLLM names it.
        max_model_length: tokens of prompt and answer together.
    """

    num_cpus: float
    num_gpus: int
    num_engines: int
    dtype: str
    max_model_length: int


class ErrorShareExceededError(Exception):
    """More rows failed than the step may lose."""


class TwoCalls(vLLMEngineStageUDF):
    """The engine stage that asks twice: for a configuration, then, given that, for the query.

    A row comes with `document_id, passage, characters, length, request_seed` and leaves with
    `configuration, query` (the raw answers), `character, question_type, difficulty`, `input_tokens,
    output_tokens` and `fault` (a reason) with `error` (its words), empty if both calls were answered.
    """

    def __init__(
        self, *, prompts: Prompts, language: str, sampling: Sampling, ledger: ActorHandle, **engine: Any
    ) -> None:
        ray.get(ledger.begin_engine.remote())
        began = time.perf_counter()
        super().__init__(**engine)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(self.model)
        self._prompts: Prompts = prompts
        self._language: str = prompts.language_name(language)
        self._sampling: Sampling = sampling
        self._ledger: ActorHandle = ledger
        ledger.engine_ready.remote(time.perf_counter() - began)

    async def udf(  # type: ignore[misc, override]
        self, rows: list[dict[str, Any]]
    ) -> AsyncIterator[dict[str, Any]]:
        """Answers both calls for a batch of rows; yields one dict a row, as they are finished."""
        for answered in asyncio.as_completed([self._answer(row) for row in rows]):
            result = await answered
            fault = result["fault"]
            if not await self._ledger.add.remote(result["output_tokens"], fault, result["error"]):
                raise ErrorShareExceededError(result["error"])
            yield result

    async def _answer(self, row: dict[str, Any]) -> dict[str, Any]:
        """Both calls for one row; the second one needs what the first one chose."""
        result = _blank(row[self.IDX_IN_BATCH_COLUMN])
        try:
            characters = list(row["characters"])
            answer = await self._ask(
                row,
                self._prompts.configuration_messages(row["passage"], characters),
                self._prompts.configuration_schema(characters),
            )
            _book(result, "configuration", answer)
            if result["fault"]:
                return result
            choice = parse_configuration(result["configuration"], characters)
            result.update(choice.model_dump())
            answer = await self._ask(
                row,
                self._prompts.query_messages(row["passage"], choice, int(row["length"]), self._language),
                self._prompts.query_schema(),
            )
            _book(result, "query", answer)
            if not result["fault"]:
                parse_query(result["query"])
        except UnreadableError as error:
            call = "query" if result["question_type"] else "configuration"
            result.update(fault=f"{call}_unreadable", error=str(error))
        return result

    async def _ask(self, row: dict[str, Any], messages: list[Message], schema: str) -> dict[str, Any]:
        async for answer in super().udf([self._request(row, messages, schema)]):
            return answer
        raise RuntimeError("the engine gave no answer")

    def _request(self, row: dict[str, Any], messages: list[Message], schema: str) -> dict[str, Any]:
        sampling = {
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "frequency_penalty": self._sampling.frequency_penalty,
            "max_tokens": self._sampling.max_tokens,
            "structured_outputs": {"json": schema},
        }
        if self._sampling.seed_rows:
            sampling["seed"] = int(row["request_seed"])
        tokens = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return {
            self.IDX_IN_BATCH_COLUMN: row[self.IDX_IN_BATCH_COLUMN],
            "tokenized_prompt": tokens,
            "sampling_params": sampling,
        }


def build_writer(
    model: str,
    prompts: Prompts,
    language: str,
    sampling: Sampling,
    hardware: Hardware,
    batch_size: int,
    ledger: ActorHandle,
) -> Processor:
    """The Ray Data processor that turns rows of requests into rows of answers (see `TwoCalls`)."""
    engine_kwargs: dict[str, Any] = {
        "dtype": hardware.dtype,
        "max_model_len": hardware.max_model_length,
        "seed": sampling.seed,
        "disable_log_stats": True,
        # Without this a small model may fill an answer with white space, which JSON allows.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    environment = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
    bundle: dict[str, float] = {"CPU": hardware.num_cpus}
    in_flight = ROWS_IN_FLIGHT["gpu" if hardware.num_gpus else "cpu"]
    if hardware.num_gpus:
        bundle["GPU"] = 1
        engine_kwargs["tensor_parallel_size"] = hardware.num_gpus
    else:
        engine_kwargs["enforce_eager"] = True
        environment["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
        # By default the engine binds to every core of the machine, whatever its share is.
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        environment["OMP_NUM_THREADS"] = str(math.ceil(hardware.num_cpus))
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs=engine_kwargs,
        placement_group_config={"bundle_per_worker": bundle},
        concurrency=(hardware.num_engines, hardware.num_engines),
        batch_size=batch_size,
        max_concurrent_batches=max(2, in_flight // batch_size),
        should_continue_on_error=True,
        runtime_env={"env_vars": environment},
        log_engine_metrics=False,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    # What stands around the engine is light and books nothing.
    aside = {"num_cpus": 0}
    processor = build_processor(config, preprocess_map_kwargs=aside, postprocess_map_kwargs=aside)
    engine = processor.get_stage_by_name(ENGINE_STAGE)
    own = {"prompts": prompts, "language": language, "sampling": sampling, "ledger": ledger}
    processor.stages[ENGINE_STAGE] = StatefulStage(
        fn=TwoCalls,
        fn_constructor_kwargs={**engine.fn_constructor_kwargs, **own},
        map_batches_kwargs=engine.map_batches_kwargs | _booking(hardware),
    )
    return processor


def _booking(hardware: Hardware) -> dict[str, float]:
    """What an engine books of the step's CPUs.

    Ray Data lists files and cuts blocks in tasks of one CPU, and leaves out finished rows with an actor of another.
    Those two come out of the step's share: if the engines booked all of it, each would wait for the other for ever.
    """
    if hardware.num_gpus > 1:
        return {}  # the engine's placement group holds its CPUs
    share = hardware.num_engines * hardware.num_cpus
    return {"num_cpus": max(share - 2, 0) / hardware.num_engines}


def _blank(index: int) -> dict[str, Any]:
    texts = dict.fromkeys(
        ["configuration", "query", "character", "question_type", "difficulty", "fault", "error"], ""
    )
    return {
        vLLMEngineStageUDF.IDX_IN_BATCH_COLUMN: index,
        **texts,
        "input_tokens": 0,
        "output_tokens": 0,
    }


def _book(result: dict[str, Any], call: str, answer: dict[str, Any]) -> None:
    result[call] = answer["generated_text"]
    if answer["__inference_error__"]:
        result.update(fault="engine_error", error=answer["__inference_error__"])
    result["input_tokens"] += answer["num_input_tokens"]
    result["output_tokens"] += answer["num_generated_tokens"]
