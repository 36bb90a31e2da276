"""A corpus of number words with labelled queries, a tiny model and the command line: the whole workflow in a minute."""

import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from mlflow import MlflowClient
from tiny_model import WORDS, write_tiny_model

from workflows.engine import server

DOCUMENTS = 240
STEPS = {
    "documents", "duplicates", "split", "base", "weak-pairs", "weak-batches", "weak", "supervised-pairs", "mined",
    "supervised-batches", "supervised", "merged", "evaluate-bm25", "evaluate-base", "evaluate-weak",
    "evaluate-supervised-checkpoints", "evaluate-supervised", "evaluate-merged", "report", "card", "register",
    "judged", "reranker-base", "reranker-batches", "reranker", "rerank-bm25-by-reranker",
    "rerank-merged-by-reranker", "card-reranker", "register-reranker",
    *(f"evaluate-{model}-on-alike" for model in ("base", "weak", "supervised", "merged")),
}  # fmt: skip


@dataclass(frozen=True)
class Workspace:
    """A folder with a corpus, a recipe and a profile in it."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus" / "corpus.jsonl"

    def command(self, *arguments: str, root: str = "results") -> list[str]:
        return [sys.executable, "-m", "workflows.cli", *arguments, "--root", str(self.folder / root)]

    def run(self, *arguments: str, root: str = "results") -> subprocess.CompletedProcess[str]:
        """`embedloom run` of the recipe, to its end."""
        return self.call(
            "run", str(self.recipe), "--profile", str(self.folder / "profile.yaml"), *arguments, root=root
        )

    def call(self, *arguments: str, root: str = "results") -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments, root=root)
        return subprocess.run(
            command, capture_output=True, text=True, timeout=800, cwd=self.folder, check=False
        )

    def plan(self, *arguments: str, root: str = "results") -> dict[str, dict]:
        """`embedloom plan --json`, by step."""
        done = self.call("plan", str(self.recipe), "--json", *arguments, root=root)
        assert done.returncode == 0, done.stderr
        return {row["step"]: row for row in json.loads(done.stdout)}

    def end(self, root: str = "results") -> None:
        self.call("mlflow", "stop", root=root)


def client(folder: Path) -> MlflowClient:
    running = server.find(folder / "mlflow")
    assert running is not None
    return MlflowClient(running.uri)


def submissions(api: MlflowClient) -> list[tuple]:
    """Every parent run with its child runs, oldest first."""
    (experiment,) = (e for e in api.search_experiments() if e.name == "tiny")
    runs = api.search_runs([experiment.experiment_id], max_results=1000)
    parents = sorted((r for r in runs if "step.name" not in r.data.tags), key=lambda r: r.info.start_time)
    return [(p, [r for r in runs if r.data.tags.get("mlflow.parentRunId") == p.info.run_id]) for p in parents]


def write_workspace(folder: Path) -> Workspace:
    """The same corpus and recipe each time, so that two workspaces agree in every fingerprint."""
    rng = random.Random(0)
    words = [f"w{i}" for i in range(WORDS)]
    corpus = folder / "corpus"
    (corpus / "qrels").mkdir(parents=True)
    documents, queries = [], []
    for number in range(DOCUMENTS):
        text = rng.sample(words, 20)
        documents.append({"_id": f"d{number}", "title": " ".join(text[:3]), "text": " ".join(text[3:])})
        queries.append({"_id": f"q{number}", "text": " ".join(rng.sample(text, 5))})
    for name, rows in (("corpus", documents), ("queries", queries)):
        (corpus / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, numbers in (("train", range(160)), ("test", range(160, DOCUMENTS))):
        lines = [f"q{number}\td{number}\t1\n" for number in numbers]
        (corpus / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    write_tiny_model(folder / "model", dropout=0.1)
    stage = {
        "batch_size": 8,
        "learning_rate": 0.003,
        "precision": "float32",
        "query_length": 16,
        "document_length": 32,
    }
    recipe = {
        "name": "tiny",
        "documents": {"sources": ["corpus"]},
        "split": {"evaluation_split": "test"},
        "model": {"base": "model"},
        "steps": {
            "weak-pairs": {"do": "collect", "kinds": ["title_body"]},
            "weak": {"do": "train", **stage, "epochs": 6.0},  # long enough to be killed in
            "supervised-pairs": {"do": "collect", "kinds": ["labelled"]},
            # To a random model all texts are alike.
            "mined": {
                "do": "mine",
                "negatives_per_query": 1,
                "exclude": ["known_positives", "copies"],
                "relative_margin": None,
            },
            "supervised": {"do": "train", **stage, "negatives_per_query": 1, "checkpoints": 3},
            "merged": {"do": "merge"},
            "judged": {"do": "rerank-data"},
            "reranker": {
                "do": "train-reranker",
                "base": "model",
                "prompt": {"length": 48},
                "objective": {"loss": "listwise"},
                "batch_size": 16,
                "learning_rate": 0.003,
                "precision": "float32",
                "evaluation": {"depth": 10, "queries": 20},
            },
        },
        "evaluations": {"alike": {"kind": "similarity", "data": "sets"}},
    }
    (folder / "sets").mkdir()
    pairs = [(rng.sample(words, 6), rng.sample(words, 6), shared) for shared in range(7) for _ in range(6)]
    (folder / "sets" / "test.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "sentence1": " ".join(one),
                    "sentence2": " ".join([*one[:shared], *other[shared:]]),
                    "score": shared,
                }
            )
            + "\n"
            for one, other, shared in pairs
        )
    )
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    # Ray Train takes in a checkpoint every two seconds or so, and a stage ends when it has taken in all.
    (folder / "profile.yaml").write_text("{workers: 2, encoder_cpus: 2, checkpoint_every_s: 1.0}\n")
    return Workspace(folder)
