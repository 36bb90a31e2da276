"""The small sets that all systems are compared on, and the comparison beside them.

Run: python benchmarks/systems.py FOLDER [--documents 500] [--seed 0]
Then: ./embedloom compare FOLDER/systems.yaml
Takes slices of the data in `../shared/data`, some 500 documents or rows each, and writes them into FOLDER: `lohelp` to
train on (400 pairs) and to be judged on (dev), `scifact` (test), `jsts` (valid), `banking77` (8 rows a label to learn
from, other ones to judge by) and `tatoeba` (German and English). The same seed gives the same bytes. The last line is
JSON.
"""

import argparse
import json
import random
import shutil
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
PER_LABEL = 8
TRAINED_ON = 400
"""Labelled pairs: a stage of a minute on two cores."""


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path: Path, rows: list[dict]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return len(rows)


def judgements(folder: Path, split: str) -> list[tuple[str, str]]:
    """Query and document of each judgement, all of which are positive."""
    lines = (folder / "qrels" / f"{split}.tsv").read_text("utf-8").splitlines()[1:]
    return [(query, document) for query, document, _ in (line.split("\t") for line in lines)]


def slice_of_beir(
    source: Path, target: Path, documents: int, judged: int, splits: list[str], seed: int
) -> dict:
    """So many documents, of which `judged` answer a query of the last split, with all queries that they answer.

    A query that another document answers too is left out, so that no answer is missing from the slice.
    """
    rng = random.Random(seed)
    corpus = read(source / "corpus.jsonl")
    by_split = {split: judgements(source, split) for split in splits}
    answers = sorted({document for _, document in by_split[splits[-1]]})
    chosen = set(rng.sample(answers, min(judged, len(answers))))
    rest = [row["_id"] for row in corpus if row["_id"] not in answers]
    chosen |= set(rng.sample(rest, min(documents - len(chosen), len(rest))))
    sizes = {"documents": write(target / "corpus.jsonl", [row for row in corpus if row["_id"] in chosen])}
    asked = set()
    for split, pairs in by_split.items():
        answered = defaultdict(set)
        for query, document in pairs:
            answered[query].add(document)
        kept = [(query, document) for query, document in pairs if answered[query] <= chosen]
        if split == "train":
            kept = sorted(rng.sample(kept, min(TRAINED_ON, len(kept))))
        asked |= {query for query, _ in kept}
        (target / "qrels").mkdir(exist_ok=True)
        lines = "".join(f"{query}\t{document}\t1\n" for query, document in kept)
        (target / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}", "utf-8")
        sizes[f"{split} pairs"] = len(kept)
    queries = [row for row in read(source / "queries.jsonl") if row["_id"] in asked]
    sizes["queries"] = write(target / "queries.jsonl", queries)
    return sizes


def slice_of_rows(source: Path, target: Path, rows: int, seed: int) -> dict:
    found = read(source)
    return {"rows": write(target / "test.jsonl", random.Random(seed).sample(found, min(rows, len(found))))}


def slice_of_labels(source: Path, target: Path, rows: int, seed: int) -> dict:
    """PER_LABEL rows of each label to learn from, and others to judge by."""
    found = read(source)
    random.Random(seed).shuffle(found)
    by_label = defaultdict(list)
    for row in found:
        by_label[row["label"]].append(row)
    learnt = [row for label in sorted(by_label) for row in by_label[label][:PER_LABEL]]
    others = [row for label in sorted(by_label) for row in by_label[label][PER_LABEL:]]
    return {
        "train rows": write(target / "train.jsonl", learnt),
        "rows": write(target / "test.jsonl", random.Random(seed).sample(others, min(rows, len(others)))),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not DATA.is_dir():
        print(f"{DATA} is not there")
        return 2
    folder, count, seed = given.folder, given.documents, given.seed
    sizes = {
        # A third of the pages is held out with its terms, the others are trained on.
        "lohelp": slice_of_beir(
            DATA / "lohelp-index-en", folder / "lohelp", count, count // 3, ["train", "dev"], seed
        ),
        "scifact": slice_of_beir(DATA / "scifact", folder / "scifact", count, count, ["test"], seed),
        "jsts": slice_of_rows(DATA / "jsts" / "valid.jsonl", folder / "jsts", count, seed),
        "banking77": slice_of_labels(DATA / "banking77" / "train.jsonl", folder / "banking77", count, seed),
        "tatoeba": slice_of_rows(DATA / "tatoeba" / "deu-eng.jsonl", folder / "tatoeba", count, seed),
    }
    shutil.copyfile(ROOT / "benchmarks" / "systems.yaml", folder / "systems.yaml")
    print(f"./embedloom compare {folder / 'systems.yaml'}")
    print(json.dumps({"benchmark": "systems", "folder": str(folder), "sizes": sizes}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
