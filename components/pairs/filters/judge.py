"""Turn away pairs of which an instruct model, asked in words, says that they do not belong together."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.model.embedder import Precision
from components.model.inference import inference_reranker
from components.model.prompt import RerankerSpec, chat_spec
from components.model.tokens import load_tokenizer
from components.monitor import Monitor
from components.pairs.filters.outcome import write_cut
from components.pairs.filters.reranker import score_by
from components.pairs.filters.scores import Cut, score_pairs
from components.search.workers import Workers
from components.storage import Folder

INSTRUCTION = (
    "Decide whether the passage answers the query. A passage that is merely about the same subject does not."
)
_PAIR = "\n\nQuery: {query}\n\nPassage: {document}"
_CLOSING = "\n\nDoes the passage answer the query? Reply with one word, yes or no."


def filter_by_judge(
    *,
    pairs: Folder,
    model: Folder,
    instruction: str = INSTRUCTION,
    threshold: float | None = 0.5,
    quantile: float | None = None,
    length: int = 2048,
    precision: Precision = "bfloat16",
    output: Folder,
    monitor: Monitor,
    state: Folder,
    tokens_per_batch: int = 8192,
    num_workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> dict[str, float]:
    """Keep the pairs to which an instruct model says yes.

    The score is the probability of yes against no as the first word of the answer, under the model's own chat
    template. What a pair's own instruction says is not shown: the judge is asked one question for all.

    Args:
        pairs: `pairs.parquet` in the schema PAIRS, a file or a folder of files.
        model: a causal language model with a chat template.
        instruction: what the judge is told to decide.
        threshold: the least probability of yes that is kept.
        quantile: in its place the share of pairs to drop, the lowest scores (`threshold` is null then).
        length: longest prompt in tokens; a longer passage loses its end.
        precision: in which the model computes.
        output: `pairs.parquet` with `score` filled, `rejected/rejected.parquet` with score and reason.
        state: what survives an attempt: pairs that are judged there are not judged again.
        tokens_per_batch: padded tokens in one forward pass.
        num_workers: processes that score at once. num_cpus, num_gpus: of each.

    Returns: as `filter_by_cosine`.

    Raises:
        ValueError: not exactly one of threshold and quantile, no instruct model, no pairs, or none is kept.
    """
    cut = Cut(threshold, quantile)
    with model.local() as directory:
        _spec(directory, instruction, length)
    load = partial(_load, model, precision, instruction, length, tokens_per_batch)
    score_N = score_pairs(pairs, load, state, monitor, Workers(num_workers, num_cpus, num_gpus))
    return write_cut(pairs, score_N, cut.of(score_N), "probability of yes", output, monitor)


def _spec(directory: Path, instruction: str, length: int) -> RerankerSpec:
    return chat_spec(load_tokenizer(directory), instruction + _PAIR, _CLOSING, length)


def _load(
    model: Folder, precision: Precision, instruction: str, length: int, tokens_per_batch: int, device: str
) -> Callable[[pa.Table], np.ndarray]:
    with model.local() as directory:
        spec = _spec(directory, instruction, length)
        return score_by(inference_reranker(directory, precision, device, spec), tokens_per_batch)
