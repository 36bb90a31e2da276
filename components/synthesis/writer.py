"""The writer in the cluster: a vLLM engine that answers all calls of a row, as a stage of a Ray Data LLM processor.

Two processors in a row would start two engines for the same weights: twice the memory, twice the start-up,
each idle while the other works. So the processor of `ray.data.llm` is built as usual and its engine stage is
exchanged for one that asks the same engine as often as a row needs.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.data import Dataset
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

# The two seams of ray.data.llm that have no public name in Ray 2.60: what a stage is, and the engine's stage.
from ray.llm._internal.batch.stages.base import StatefulStage
from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF
from transformers import AutoTokenizer

# Nothing here may load numba: vLLM's CPU worker looks through all loaded modules and stumbles over llvmlite.
from components.storage import Folder
from components.synthesis.answers import ID, AnswerLog, Finished, read_finished
from components.synthesis.conversation import Call, Reply, converse
from components.synthesis.ledger import enter
from components.synthesis.prompts import Prompts
from components.synthesis.settings import Sampling

ENGINE_STAGE = "vLLMEngineStage"
ROWS_IN_FLIGHT = {"gpu": 512, "cpu": 32}
"""Rows that an engine works on at once: as many as it can batch, and few where they would all end together."""
ROWS_PER_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where an engine runs and what it may use.

    Attributes:
        num_cpus, num_gpus: of one engine; with several GPUs the model is spread over them (tensor parallel).
            Without a GPU `num_cpus` is also its number of threads.
        num_engines: engines side by side, each with the whole model.
        dtype: of the weights, as vLLM names it.
        max_model_length: tokens of a prompt (with its examples and the passage) and its answer.
    """

    num_cpus: float = 1
    num_gpus: int = 0
    num_engines: int = 1
    dtype: str
    max_model_length: int = 2560


class RowStage(vLLMEngineStageUDF):
    """The engine stage that answers a row of REQUESTS with all the calls it needs, and keeps the answer."""

    def __init__(
        self,
        *,
        prompts: Prompts,
        sampling: Sampling,
        seed_rows: bool,
        chat_template_arguments: dict[str, Any],
        ledger: ActorHandle,
        state: Folder,
        **engine: Any,
    ) -> None:
        ray.get(ledger.begin_engine.remote(ray.get_runtime_context().current_actor))
        began = time.perf_counter()
        super().__init__(**engine)
        # The directory that the engine reads; `self.model` may be in an object store.
        self._tokenizer: Any = AutoTokenizer.from_pretrained(self.llm.model_source)
        self._prompts: Prompts = prompts
        self._sampling: Sampling = sampling
        self._seed_rows: bool = seed_rows
        self._template_arguments: dict[str, Any] = chat_template_arguments
        self._ledger: ActorHandle = ledger
        self._log: AnswerLog = AnswerLog(state)
        # When an engine dies Ray Data gives its batches to a new one, with the rows that were answered.
        self._finished: Finished = read_finished(state)
        ledger.engine_ready.remote(time.perf_counter() - began)

    async def udf(  # type: ignore[misc, override]
        self, rows: list[dict[str, Any]]
    ) -> AsyncIterator[dict[str, Any]]:
        """Answers a batch of rows; yields one dict a row, as they are finished and kept."""
        for answered in asyncio.as_completed([self._answer(row) for row in rows]):
            yield await answered

    async def _answer(self, row: dict[str, Any]) -> dict[str, Any]:
        index = row[self.IDX_IN_BATCH_COLUMN]
        if row[ID] in self._finished:
            return {self.IDX_IN_BATCH_COLUMN: index}

        async def ask(call: Call) -> Reply:
            async for answer in super(RowStage, self).udf([self._request(index, call)]):
                error = answer["__inference_error__"]
                return Reply(
                    answer["generated_text"],
                    answer["num_input_tokens"],
                    answer["num_generated_tokens"],
                    "engine_error" if error else "",
                    error,
                )
            raise RuntimeError("the engine gave no answer")

        written = await converse(row, self._prompts, ask)
        await enter(written, self._log, self._ledger)
        return {self.IDX_IN_BATCH_COLUMN: index}

    def _request(self, index: int, call: Call) -> dict[str, Any]:
        sampling = {
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "frequency_penalty": self._sampling.frequency_penalty,
            "max_tokens": self._sampling.max_tokens,
            "structured_outputs": {"json": call.schema},
        }
        if self._seed_rows:
            sampling["seed"] = call.seed
        tokens = self._tokenizer.apply_chat_template(
            call.messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **self._template_arguments,
        )
        return {self.IDX_IN_BATCH_COLUMN: index, "tokenized_prompt": tokens, "sampling_params": sampling}


def ask_cluster(
    requests: Dataset,
    *,
    model: str,
    prompts: Prompts,
    sampling: Sampling,
    hardware: Hardware,
    chat_template_arguments: dict[str, Any],
    ledger: ActorHandle,
    state: Folder,
) -> Dataset:
    """The lazy dataset that, run, has every row of REQUESTS answered and kept in `state`; its rows are their ids.

    On a GPU each request has the seed of its row. The CPU engine of vLLM 0.32 dies of it ("CPU Generator does
    not use offset"), so there only the engine is seeded and a repeated run may write other words.
    """
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
        batch_size=ROWS_PER_BATCH,
        max_concurrent_batches=max(2, in_flight // ROWS_PER_BATCH),
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
    own = {
        "prompts": prompts,
        "sampling": sampling,
        "seed_rows": hardware.num_gpus > 0,
        "chat_template_arguments": chat_template_arguments,
        "ledger": ledger,
        "state": state,
    }
    processor.stages[ENGINE_STAGE] = StatefulStage(
        fn=RowStage,
        fn_constructor_kwargs={**engine.fn_constructor_kwargs, **own},
        map_batches_kwargs=engine.map_batches_kwargs | _booking(hardware),
    )
    return processor(requests).select_columns([ID])


def _booking(hardware: Hardware) -> dict[str, float]:
    """What an engine books of the step's CPUs.

    Ray Data lists files and cuts blocks in tasks of one CPU each. They come out of the step's share: if the
    engines booked all of it, each would wait for the other for ever.
    """
    if hardware.num_gpus > 1:
        return {}  # the engine's placement group holds its CPUs
    share = hardware.num_engines * hardware.num_cpus
    return {"num_cpus": max(share - 2, 0) / hardware.num_engines}
