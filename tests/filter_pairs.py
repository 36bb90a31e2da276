"""Tables of pairs for the filters, three rows of which cannot be scored, and what a filter made of them."""

import numpy as np
import pyarrow as pa

from components.corpus.schema import PAIRS, conform
from components.monitor import Silent
from components.storage import Folder

BAD = {"b0": "empty_query", "b1": "empty_positive", "b2": "empty_query"}


class Watching(Silent):
    """A monitor that keeps what it is given."""

    def __init__(self):
        object.__setattr__(self, "figures", [])
        object.__setattr__(self, "numbers", {})

    def figure(self, name, figure):
        figure.savefig("/dev/null", format="png")
        self.figures.append(name)

    def metrics(self, values, step=None):
        self.numbers.update(values)


def pair(row, query, positive, instruction=None, **changes):
    return {
        "pair_id": f"p{row}",
        "query": query,
        "positive": positive,
        "query_id": f"q{row}",
        "positive_id": f"d{row}",
        "task": "retrieval",
        "instruction": instruction,
        "language": "en",
        "origin": "synthetic",
        "score": row % 3,  # what the source says stays what it is
    } | changes


def write_pairs(folder: Folder, rows: list[dict]) -> Folder:
    folder.write_table("pairs.parquet", conform(pa.Table.from_pylist(rows), PAIRS))
    return folder


def write_parts(folder: Folder, rows: list[dict], size: int) -> Folder:
    """The same as a folder of files."""
    table = conform(pa.Table.from_pylist(rows), PAIRS)
    for start in range(0, len(rows), size):
        folder.write_table(f"pairs.parquet/{start:04d}.parquet", table.slice(start, size))
    return folder


def make_rows() -> list[dict]:
    """p0 to p19 are sound; b0 to b2 lack a text."""
    generator = np.random.default_rng(0)

    def words(number):
        return " ".join(f"w{word}" for word in generator.integers(0, 200, number))

    sound = [pair(row, words(4), words(12), None if row % 2 else "find") for row in range(20)]
    blank = [("", words(12)), (words(4), " \n"), ("\t", "")]
    bad = [pair(row, *texts, pair_id=f"b{row}") for row, texts in enumerate(blank)]
    return [*bad[:1], *sound, *bad[1:]]


def run(step, output, **settings):
    """A filter, with a state of its own beside the output."""
    return step(output=output, **{"state": Folder(f"{output.uri}-state"), **settings})


def outcome(output: Folder) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """Scores of what was kept, scores of what was rejected, reasons; by pair id."""
    kept, rejected = output.read_table("pairs.parquet"), output.read_table("rejected/rejected.parquet")
    assert kept.schema == PAIRS
    scores = [
        dict(zip(table["pair_id"].to_pylist(), table["measured"].to_pylist(), strict=True))
        for table in (kept, rejected)
    ]
    reasons = zip(rejected["pair_id"].to_pylist(), rejected["reason"].to_pylist(), strict=True)
    return scores[0], scores[1], dict(reasons)
