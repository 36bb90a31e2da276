"""The steps that judge a model by other things than search: five kinds, each on JSON lines.

Every text of a kind is encoded on one side (`side`), because none of its two is a document that the other asks for.
Computed in float32 whatever precision the model was trained or will be served in.
"""

import time
from collections.abc import Callable

import numpy as np

from components.evaluation.cache import load_encoder
from components.evaluation.labelled import ROLES, Kind, digest_of, read_labelled
from components.evaluation.labels import cluster, probe
from components.evaluation.outcome import judge, write_outcome
from components.model.spec import Side
from components.monitor import Monitor
from components.search.exact import top_k
from components.storage import Folder

Encode = Callable[[list[str]], np.ndarray]


def evaluate_similarity(
    *,
    data: str,
    model: Folder,
    output: Folder,
    monitor: Monitor,
    file: str = "test.jsonl",
    side: Side = "query",
    instruction: str | None = None,
    tokens_per_batch: int = 8192,
    cache: Folder | None = None,
) -> dict[str, float]:
    """Semantic textual similarity: do cosines of sentence pairs rank them as people did?

    Args:
        data: folder, path or URI, that holds `file`: JSON lines of sentence1, sentence2, score.
        model: a model directory.
        output: gets per_row.parquet (cosine, score) and metrics.json.
        side: whose template both sentences take.
        instruction: in place of the model's own.
        tokens_per_batch: padded tokens encoded at once; execution only.
        cache: a folder for vectors (`cache.CachedEncoder`); execution only.

    Returns: spearman (the main figure) and pearson with 95 % intervals, rows, seconds.

    Raises:
        ValueError: the file or a column of it is missing, or a score is no number.
    """
    columns = read_labelled(Folder(data), file, ROLES["similarity"])
    score_N = _numbers(columns["score"], "score", Folder(data).path(file))

    def work(encode: Encode) -> np.ndarray:
        return _cosines(encode, columns)

    digest = digest_of(columns, side, instruction)
    encode = _encoder(model, side, instruction, tokens_per_batch, cache, monitor)
    return _finish("similarity", work, encode, score_N, digest, output, monitor)


def evaluate_pair_classification(
    *,
    data: str,
    model: Folder,
    output: Folder,
    monitor: Monitor,
    file: str = "test.jsonl",
    side: Side = "query",
    instruction: str | None = None,
    tokens_per_batch: int = 8192,
    cache: Folder | None = None,
) -> dict[str, float]:
    """Pair classification: are pairs of label 1 (paraphrases, duplicates) told from those of label 0 by cosine?

    Arguments as of `evaluate_similarity`; `file` holds text1, text2 and label (1 or 0).

    Returns: average_precision (the main figure), and f1 and accuracy at the best threshold, with 95 % intervals.

    Raises:
        ValueError: the file or a column of it is missing, or a label is neither 0 nor 1.
    """
    columns = read_labelled(Folder(data), file, ROLES["pair-classification"])
    label_N = _numbers(columns["label"], "label", Folder(data).path(file))
    wrong = np.flatnonzero(~np.isin(label_N, (0, 1)))
    if len(wrong):
        label = columns["label"][wrong[0]]
        raise ValueError(
            f"{Folder(data).path(file)}: label in row {wrong[0] + 1} is {label!r}; it must be 0 or 1"
        )
    encode = _encoder(model, side, instruction, tokens_per_batch, cache, monitor)
    digest = digest_of(columns, side, instruction)
    return _finish(
        "pair-classification", lambda encode: _cosines(encode, columns), encode, label_N.astype(np.int64), digest,
        output, monitor,
    )  # fmt: skip


def evaluate_classification(
    *,
    data: str,
    model: Folder,
    output: Folder,
    monitor: Monitor,
    train_file: str = "train.jsonl",
    file: str = "test.jsonl",
    per_label: int = 8,
    experiments: int = 10,
    seed: int = 42,
    side: Side = "query",
    instruction: str | None = None,
    tokens_per_batch: int = 8192,
    cache: Folder | None = None,
) -> dict[str, float]:
    """Classification by linear probe: can a regression on few rows of each label tell it from the vector?

    Arguments as of `evaluate_similarity`; both files hold text and label.

    Args:
        train_file: rows that probes are fitted to. The same as `file`: half of each label's rows, by position.
        per_label, experiments, seed: as of `labels.probe`.

    Returns: accuracy (the main figure) and macro_f1, means over experiments, with 95 % intervals over rows.

    Raises:
        ValueError: a file or a column is missing, or there are fewer than two labels.
    """
    train, test = (read_labelled(Folder(data), name, ROLES["classification"]) for name in (train_file, file))
    if train_file == file:
        train, test = _halves(train)
    names = sorted(set(map(str, train["label"])))
    if len(names) < 2:
        raise ValueError(f"{Folder(data).path(train_file)} has one label; a classification needs two or more")
    number = {name: at for at, name in enumerate(names)}
    train_label_N = np.array([number[str(label)] for label in train["label"]])
    # a label that no probe has seen is one that every probe gets wrong
    test_label_M = np.array([number.get(str(label), -1) for label in test["label"]])

    def work(encode: Encode) -> np.ndarray:
        vectors_ND, vectors_MD = encode(train["text"]), encode(test["text"])
        return probe(
            vectors_ND, train_label_N, vectors_MD, per_label=per_label, experiments=experiments, seed=seed
        )

    encode = _encoder(model, side, instruction, tokens_per_batch, cache, monitor)
    digest = digest_of({"train": [train], "test": [test]}, side, instruction, per_label, experiments, seed)
    return _finish("classification", work, encode, test_label_M, digest, output, monitor)


def evaluate_clustering(
    *,
    data: str,
    model: Folder,
    output: Folder,
    monitor: Monitor,
    file: str = "test.jsonl",
    experiments: int = 3,
    seed: int = 42,
    side: Side = "query",
    instruction: str | None = None,
    tokens_per_batch: int = 8192,
    cache: Folder | None = None,
) -> dict[str, float]:
    """Clustering: does k-means, k being the number of labels, find the labels again?

    Arguments as of `evaluate_similarity`; `file` holds text and label.

    Args:
        experiments: runs of k-means, of seeds `seed`, `seed` + 1, ...

    Returns: v_measure, mean over runs, with its 95 % interval over rows.

    Raises:
        ValueError: the file or a column is missing.
    """
    columns = read_labelled(Folder(data), file, ROLES["clustering"])
    names, label_N = np.unique([str(label) for label in columns["label"]], return_inverse=True)

    def work(encode: Encode) -> np.ndarray:
        return cluster(encode(columns["text"]), len(names), experiments=experiments, seed=seed)

    encode = _encoder(model, side, instruction, tokens_per_batch, cache, monitor)
    digest = digest_of(columns, side, instruction, experiments, seed)
    return _finish("clustering", work, encode, label_N.astype(np.int64), digest, output, monitor)


def evaluate_bitext(
    *,
    data: str,
    model: Folder,
    output: Folder,
    monitor: Monitor,
    file: str = "test.jsonl",
    side: Side = "query",
    instruction: str | None = None,
    tokens_per_batch: int = 8192,
    cache: Folder | None = None,
) -> dict[str, float]:
    """Bitext mining: is the nearest sentence of the other language the translation?

    Arguments as of `evaluate_similarity`; `file` holds sentence1 and sentence2, translations of one another.

    Returns: f1 (weighted, as MTEB's; the main figure) and accuracy, with 95 % intervals.

    Raises:
        ValueError: the file or a column is missing.
    """
    columns = read_labelled(Folder(data), file, ROLES["bitext"])
    # a sentence that stands twice is one sentence: its first row is the right one
    first_row: dict[str, int] = {}
    row_N = np.array([first_row.setdefault(text, row) for row, text in enumerate(columns["second"])])

    def work(encode: Encode) -> np.ndarray:
        query_ND, document_ND = _unit(encode(columns["first"])), _unit(encode(columns["second"]))
        return row_N[top_k(query_ND, document_ND, 1)[1][:, 0]]

    encode = _encoder(model, side, instruction, tokens_per_batch, cache, monitor)
    digest = digest_of(columns, side, instruction)
    return _finish("bitext", work, encode, row_N, digest, output, monitor)


def _encoder(
    model: Folder,
    side: Side,
    instruction: str | None,
    tokens_per_batch: int,
    cache: Folder | None,
    monitor: Monitor,
) -> Encode:
    encoder = load_encoder(model, cache)
    return lambda texts: encoder.encode(texts, side, instruction, tokens_per_batch, monitor)


def _finish(
    kind: Kind,
    work: Callable[[Encode], np.ndarray],
    encode: Encode,
    right_N: np.ndarray,
    digest: str,
    output: Folder,
    monitor: Monitor,
) -> dict[str, float]:
    started = time.perf_counter()
    given = work(encode)
    outcome = judge(kind, given, right_N, digest, time.perf_counter() - started)
    write_outcome(outcome, output)
    monitor.params({"evaluation_digest": digest})
    return outcome.numbers()


def _cosines(encode: Encode, columns: dict[str, list]) -> np.ndarray:
    """To six decimals: texts of the same tokens tie, whatever the rounding of the batches that they were in."""
    first_ND, second_ND = _unit(encode(columns["first"])), _unit(encode(columns["second"]))
    return (first_ND.astype(np.float64) * second_ND).sum(axis=1).round(6)


def _unit(vector_ND: np.ndarray) -> np.ndarray:
    return vector_ND / np.maximum(np.linalg.norm(vector_ND, axis=1, keepdims=True), 1e-12)


def _numbers(values: list, name: str, where: str) -> np.ndarray:
    numbers_N = np.array(
        [value if isinstance(value, int | float) else np.nan for value in values], dtype=np.float64
    )
    if not np.isfinite(numbers_N).all():
        row = int(np.flatnonzero(~np.isfinite(numbers_N))[0])
        raise ValueError(f"{where}: {name} in row {row + 1} is {values[row]!r}; it must be a number")
    return numbers_N


def _halves(columns: dict[str, list]) -> tuple[dict[str, list], dict[str, list]]:
    """Of each label every other row, and the rest."""
    seen: dict[str, int] = {}
    halves: tuple[list[int], list[int]] = ([], [])
    for row, label in enumerate(map(str, columns["label"])):
        halves[seen.get(label, 0) % 2].append(row)
        seen[label] = seen.get(label, 0) + 1
    first, second = (
        {name: [values[row] for row in rows] for name, values in columns.items()} for rows in halves
    )
    return first, second
