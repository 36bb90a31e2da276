"""What the filters of documents cost, how that grows, and which planted near-copies are found.

Run: python benchmarks/filters.py [--sizes 10000 40000 160000] [--workers 2]
Documents of 60 to 140 words, drawn by their frequency from SciFact and MedQuAD in ../shared/data. Every tenth is a copy
of the one before with its last words replaced, so that the Jaccard similarity of the two sets of word 5-grams is
known exactly; every hundredth holds a passage of an evaluation set. At the two smaller sizes the groups are found, in
turn, by datasketch's own index over everything in memory, one process; they must be the same.

Bars: finding duplicates takes no more time than datasketch; from the middle size to the largest time grows at most 1.15
times as fast as the documents; of the copies at a similarity of 0.1 above the threshold or more 99 % are found, and
99 % of what is found lies at most 0.1 below it; every planted passage is found and nothing else. The last line is JSON.

Each filter is one function (folder of documents, scratch folder, workers -> seconds) in FILTERS; growth is measured
for all of them alike.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import networkx as nx
import pyarrow as pa
import ray
from datasketch import MinHash, MinHashLSH

from components.corpus.contamination import remove_contaminated_documents
from components.corpus.duplicates import group_duplicates
from components.corpus.schema import DOCUMENTS, QRELS, QUERIES
from components.corpus.tables import TableWriter, read_batches
from components.corpus.words import normalise, shingles, words
from components.monitor import Silent
from components.storage import Folder
from workflows.recipe.documents import Duplicates

DATA = Path(__file__).parents[1].parent / "shared" / "data"
SETTINGS = Duplicates().model_dump(exclude={"remove"})
NGRAM, SHARE = 13, 0.3
EVALUATED = 500
SHARDS = 8
BAR_TIME = 1.0
BAR_GROWTH = 1.15
BAR_FOUND = 0.99
MARGIN = 0.1


@dataclass(frozen=True)
class Planted:
    """What stands in a corpus by intention.

    Attributes:
        copies: id of each, id of its original, Jaccard similarity of the two.
        contaminated: ids.
    """

    copies: list[tuple[str, str, float]]
    contaminated: set[str]


def vocabulary() -> tuple[list[str], list[int]]:
    """Words and how often each occurs."""
    counts: Counter[str] = Counter()
    for name in ("scifact", "medquad-nih"):
        with open(DATA / name / "corpus.jsonl", encoding="utf-8") as file:
            for line in file:
                counts.update(words(json.loads(line)["text"]))
    found = counts.most_common()
    return [word for word, _ in found], [count for _, count in found]


def similarity(first: str, second: str) -> float:
    a, b = (set(shingles(text, SETTINGS["ngram"])) for text in (first, second))
    return len(a & b) / len(a | b)


def write_split(folder: Folder, spoken: Callable[[int], list[str]]) -> list[list[str]]:
    """An evaluation side of EVALUATED documents and queries. Returns the words of the documents."""
    texts = [spoken(100) for _ in range(EVALUATED)]
    ids = [f"e{number}" for number in range(EVALUATED)]
    rows = [
        {"document_id": key, "text": " ".join(text), "language": "en", "source": "evaluation"}
        for key, text in zip(ids, texts, strict=True)
    ]
    queries = [{"query_id": key, "text": " ".join(spoken(9))} for key in ids]
    qrels = [{"query_id": key, "document_id": key, "score": 1, "split": "all"} for key in ids]
    folder.write_table("evaluation/documents.parquet", pa.Table.from_pylist(rows, schema=DOCUMENTS))
    folder.write_table("evaluation/queries.parquet", pa.Table.from_pylist(queries, schema=QUERIES))
    folder.write_table("evaluation/qrels.parquet", pa.Table.from_pylist(qrels, schema=QRELS))
    return texts


def write_documents(
    folder: Folder,
    count: int,
    spoken: Callable[[int], list[str]],
    evaluated: list[list[str]],
    rng: random.Random,
) -> Planted:
    copies: list[tuple[str, str, float]] = []
    contaminated: set[str] = set()
    before: list[str] = []
    for shard in range(SHARDS):
        rows = []
        for number in range(count * shard // SHARDS, count * (shard + 1) // SHARDS):
            key, text = f"d{number:08}", spoken(rng.randrange(60, 141))
            if number % 10 == 9:
                # n words from the end replaced: at most n + 4 of the 5-grams are others
                replaced = round(len(before) * rng.uniform(0, 0.4))
                text = before[: len(before) - replaced] + spoken(replaced)
                same = similarity(" ".join(before), " ".join(text))
                copies.append((key, f"d{number - 1:08}", same))
            elif number % 100 == 50:
                start = rng.randrange(40)
                text[30:30] = rng.choice(evaluated)[start : start + 60]
                contaminated.add(key)
            rows.append({"document_id": key, "text": " ".join(text), "language": "en", "source": "synthetic"})
            before = text
        table = pa.Table.from_pylist(rows, schema=DOCUMENTS)
        with TableWriter(folder, f"documents.parquet/{shard:05d}.parquet", DOCUMENTS) as writer:
            for start in range(0, table.num_rows, 1024):
                writer.write(table.slice(start, 1024))
    return Planted(copies, contaminated)


def find_duplicates(root: Folder, corpus: Folder, workers: int) -> float:
    began = time.perf_counter()
    group_duplicates(
        documents=corpus, output=root / "groups", monitor=Silent(), num_workers=workers, **SETTINGS
    )
    return time.perf_counter() - began


def find_contamination(root: Folder, corpus: Folder, workers: int) -> float:
    began = time.perf_counter()
    remove_contaminated_documents(
        documents=corpus, split=root / "split", ngram=NGRAM, share=SHARE, parts=["queries", "relevant"],
        output=root / "clean", monitor=Silent(), num_workers=workers,
    )  # fmt: skip
    return time.perf_counter() - began


FILTERS: dict[str, Callable[[Folder, Folder, int], float]] = {
    "duplicates": find_duplicates,
    "contamination": find_contamination,
}


def by_datasketch(corpus: Folder) -> tuple[float, dict[str, str]]:
    """Seconds, and the group of each document, as datasketch's documentation has it done."""
    began = time.perf_counter()
    threshold, permutations = SETTINGS["threshold"], SETTINGS["num_permutations"]
    rows = [
        (row["document_id"], row["text"])
        for batch in read_batches(corpus, "documents.parquet", ["document_id", "text"])
        for row in batch.to_pylist()
    ]
    index = MinHashLSH(threshold=threshold, num_perm=permutations, weights=(0.1, 0.9))
    graph = nx.Graph()
    graph.add_nodes_from(key for key, _ in rows)
    first: dict[str, str] = {}
    known: dict[str, MinHash] = {}
    sets = (set(shingles(text, SETTINGS["ngram"])) for _, text in rows)
    signatures = MinHash.generator(sets, num_perm=permutations, seed=SETTINGS["seed"], scheme="affine32")
    for (key, text), signature in zip(rows, signatures, strict=True):
        graph.add_edge(first.setdefault(normalise(text), key), key)
        for candidate in index.query(signature):
            if signature.jaccard(known[candidate]) >= threshold:
                graph.add_edge(candidate, key)
        index.insert(key, signature, check_duplication=False)
        known[key] = signature
    groups = {key: min(members) for members in nx.connected_components(graph) for key in members}
    return time.perf_counter() - began, groups


def read_groups(folder: Folder) -> dict[str, str]:
    columns = folder.read_table("groups.parquet", ["document_id", "group_id"])
    return dict(zip(*(columns[name].to_pylist() for name in columns.column_names), strict=True))


def judge_groups(groups: dict[str, str], planted: Planted) -> dict[str, Any]:
    """Recall by similarity, recall above the threshold and precision."""
    threshold = SETTINGS["threshold"]
    found = [(same, groups[key] == groups[original]) for key, original, same in planted.copies]
    together = sum(is_found for _, is_found in found)
    strangers = len(groups) - len(set(groups.values())) - together

    def recall(least: float, most: float = 1.01) -> float:
        within = [is_found for same, is_found in found if least <= same < most]
        return round(sum(within) / max(1, len(within)), 4)

    def precision(least: float) -> float:
        right = sum(is_found for same, is_found in found if same >= least)
        return round(right / max(1, together + strangers), 4)

    levels = [round(0.4 + 0.05 * step, 2) for step in range(12)]
    return {
        "planted": len(found),
        "recall_at": {f"{level:.2f}": recall(level, level + 0.05) for level in levels},
        "recall": recall(threshold),
        "precision": precision(threshold),
        "recall_0.1_above": recall(threshold + MARGIN),
        "precision_0.1_below": precision(threshold - MARGIN),
        "found_that_were_not_planted": strangers,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs=3, default=[10_000, 40_000, 160_000])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if not (DATA / "scifact").is_dir():
        print(f"the words come from {DATA}, which is not there")
        return 2
    rng = random.Random(0)
    known, counts = vocabulary()
    cumulative = list(accumulate(counts))

    def spoken(count: int) -> list[str]:
        return rng.choices(known, cum_weights=cumulative, k=count)

    os.environ["RAY_AUTH_MODE"] = "disabled"
    directory = tempfile.mkdtemp(prefix="filters-", dir="/tmp")  # short: it holds sockets
    ray.init(
        num_cpus=options.workers, include_dashboard=False, log_to_driver=False, _temp_dir=f"{directory}/ray"
    )
    try:
        root = Folder(f"{directory}/work")
        evaluated = write_split(root / "split", spoken)
        seconds: dict[str, dict[int, float]] = {name: {} for name in (*FILTERS, "datasketch")}
        for size in options.sizes:
            corpus = root / f"documents-{size}"
            planted = write_documents(corpus, size, spoken, evaluated, rng)
            for name, run in FILTERS.items():
                seconds[name][size] = run(root, corpus, options.workers)
                print(
                    f"{name:14s} {size:9,d} documents {size / seconds[name][size]:9,.0f} rows/s", flush=True
                )
            groups = read_groups(root / "groups")
            if size != options.sizes[-1]:
                seconds["datasketch"][size], theirs = by_datasketch(corpus)
                print(
                    f"{'datasketch':14s} {size:9,d} documents {size / seconds['datasketch'][size]:9,.0f} rows/s"
                )
                if theirs != groups:
                    raise AssertionError("the groups are not those of datasketch")
        judged = judge_groups(groups, planted)
        removed = set((root / "clean").read_table("rejected/documents.parquet")["document_id"].to_pylist())
    finally:
        ray.shutdown()
        shutil.rmtree(directory, ignore_errors=True)

    _, middle, largest = options.sizes
    growth = {
        name: round(seconds[name][largest] / seconds[name][middle] / (largest / middle), 3)
        for name in FILTERS
    }
    ours, peer = seconds["duplicates"][middle], seconds["datasketch"][middle]
    contamination = {
        "planted": len(planted.contaminated),
        "found": len(removed & planted.contaminated),
        "others_removed": len(removed - planted.contaminated),
    }
    holds = (
        ours / peer <= BAR_TIME
        and max(growth.values()) <= BAR_GROWTH
        and min(judged["recall_0.1_above"], judged["precision_0.1_below"]) >= BAR_FOUND
        and removed == planted.contaminated
    )
    line = {
        "benchmark": "filters",
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "ratio": round(ours / peer, 3),
        "bar": BAR_TIME,
        "holds": holds,
        "detail": {
            "unit": f"s for the duplicates among {middle} documents",
            "workers": options.workers,
            "settings": SETTINGS,
            "rows_per_second": {
                name: {size: round(size / taken) for size, taken in times.items()}
                for name, times in seconds.items()
            },
            "growth": growth,
            "growth_bar": BAR_GROWTH,
            "near_duplicates": judged,
            "contamination": contamination,
        },
    }
    print(json.dumps(line))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
