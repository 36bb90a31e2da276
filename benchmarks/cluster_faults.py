"""What becomes of a workflow on several nodes when something breaks under it?

Run: python benchmarks/cluster_faults.py [--only FAULT ...] [--demo] [--keep FOLDER]
Head, coordinator and two workers, each in a network namespace of its own on this machine (`nodes.py`: Linux and root),
MLflow with users and passwords over Postgres, an S3-compatible object store (moto) that holds results and artifacts. A
small recipe is submitted, once undisturbed; its two training workers find no room on one node, so FSDP2 shards over
both. MLflow's databases are backed up and restored by the commands of docs/operations.md. Then once for each fault,
which strikes while the first stage trains and has left a checkpoint. What ends by it is resumed at once.

A row a fault: batches of the stage that were trained on again, for how long it stood still, whether a second command
was needed. Bars: no finished step is computed twice, the merged weights are those of the undisturbed run to the bit,
and every submission ends. Postgres is Debian's `postgresql`; MLflow's server gets an environment of its own with what
mlflow/Dockerfile installs. `ours` is the number of faults that were survived, `peer` how many there were. The last line
is JSON.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psutil
import requests
import yaml
from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "workflow")]

from nodes import HOST, Node, nodes  # noqa: E402
from peer_environment import peer_python  # noqa: E402
from workspace import write_workspace  # noqa: E402

from workflows import jobs  # noqa: E402

POSTGRES = Path("/usr/lib/postgresql")
BUCKET, STORE_PORT, TRACKING_PORT, DATABASE_PORT = "embedloom", 9000, 5000, 5432
STAGE, EPOCHS = "weak", 12.0
PROFILE = {"workers": 2, "cpus_per_worker": 2, "encoder_cpus": 2, "checkpoint_every_s": 5.0}
DEADLINE_S = 120.0
DEMO = (
    "name=demo", "split.evaluation_documents=300", "split.evaluation_queries=60", "split.training_documents=400",
    "split.synthesis_documents=8", "steps.weak-pairs.limit_per_kind=256", "steps.supervised-pairs.limit_per_kind=512",
    "steps.reranker.evaluation.queries=10",
)  # fmt: skip
"""docs-search at its smallest."""
PATIENCE_S = 900.0

OBJECT_STORE = """
import sys, time
from pathlib import Path
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
store = DomainDispatcherApplication(create_backend_app)
def answer(environ, start_response):
    told = Path(sys.argv[3]).read_text()
    if told == "503":
        start_response("503 Slow Down", [("Content-Length", "0")])
        return [b""]
    time.sleep(float(told or 0))
    return store(environ, start_response)
make_server(sys.argv[1], int(sys.argv[2]), answer, threaded=True).serve_forever()
"""


@dataclass
class Cluster:
    """The four nodes and the three servers, all of which can be killed and started again."""

    head: Node
    coordinator: Node
    workers: list[Node]
    folder: Path
    environment: dict[str, str]
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://{self.head.address}:8265"

    @property
    def tracking_uri(self) -> str:
        return f"http://{HOST}:{TRACKING_PORT}"

    def start_node(self, node: Node) -> None:
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
        ray += [f"--node-ip-address={node.address}", "--object-store-memory=400000000"]
        if node is self.head:
            ray += ["--head", "--port=6379", f"--dashboard-host={node.address}", "--num-cpus=0"]
            ray += [f"--temp-dir={self.folder / 'ray'}"]
        else:
            ray += [f"--address={self.head.address}:6379"]
        if node is self.coordinator:
            ray += ["--num-cpus=0", f"--resources={json.dumps({jobs.COORDINATOR: 4})}"]
        if node in self.workers:
            ray += ["--num-cpus=2"]
        node.start(ray, self.environment, self.folder / f"{node.name}.log")

    def start_ray(self) -> None:
        self.start_node(self.head)
        headers = {"Authorization": f"Bearer {Path(self.environment['RAY_AUTH_TOKEN_PATH']).read_text()}"}
        _wait_for(lambda: _answers(f"{self.address}/api/version", headers), 90, "Ray's head")
        # One after another: Ray gives each half a minute to come up.
        for number, node in enumerate((self.coordinator, *self.workers), start=2):
            self.start_node(node)
            _wait_for(lambda number=number: len(self.alive()) == number, 90, f"node {number}")

    def alive(self) -> list[Any]:
        with contextlib.suppress(Exception):
            return jobs.alive_nodes(self.address)
        return []

    def stop_jobs(self) -> None:
        """What has not ended by itself, so that the next fault finds the cluster free."""
        client = jobs.connect(self.address)
        for job in jobs.submissions(client):
            if not job.has_ended:
                jobs.stop(client, job.id)

    def start_server(
        self, name: str, command: list[str], environment: dict[str, str], user: str | None = None
    ) -> None:
        with (self.folder / f"{name}.log").open("ab") as output:
            self.servers[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | environment,
                start_new_session=True, user=user,
            )  # fmt: skip

    def start_mlflow(self) -> None:
        python = peer_python("mlflow-server", _mlflow_requirements())
        configuration = self.folder / "auth.ini"
        text = (ROOT / "mlflow" / "auth.ini").read_text()
        configuration.write_text(text.replace("@postgres/", f"@127.0.0.1:{DATABASE_PORT}/"))
        environment = {
            "MLFLOW_AUTH_CONFIG_PATH": str(configuration),
            "MLFLOW_AUTH_ADMIN_USERNAME": self.environment["MLFLOW_TRACKING_USERNAME"],
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.environment["MLFLOW_TRACKING_PASSWORD"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(24),
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"{HOST}:{TRACKING_PORT}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_S3_ENDPOINT_URL": self.environment["AWS_ENDPOINT_URL"],
            "PYTHONPATH": "",
        }
        command = [str(python.with_name("mlflow")), "server", "--host", HOST, "--port", str(TRACKING_PORT)]
        command += [
            "--app-name",
            "basic-auth",
            f"--artifacts-destination=s3://{BUCKET}/artifacts",
            "--workers=2",
        ]
        command += [f"--backend-store-uri=postgresql+psycopg://mlflow@127.0.0.1:{DATABASE_PORT}/mlflow"]
        keys = {key: value for key, value in self.environment.items() if key.startswith("AWS_")}
        self.start_server("mlflow", command, environment | keys)
        _wait_for(lambda: _answers(f"{self.tracking_uri}/health"), 120, "MLflow")

    def kill_server(self, name: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.servers[name].pid, signal.SIGKILL)
        self.servers[name].wait()

    def trouble_store(self, what: str) -> None:
        """What it does from now on: "503", seconds that every answer takes longer, or nothing of the kind."""
        (self.folder / "store").write_text(what)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """All of it, from nothing; ended at the end."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "AWS_ENDPOINT_URL": f"http://{HOST}:{STORE_PORT}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": secrets.token_hex(12),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    os.environ |= environment
    os.environ.pop("RAY_ADDRESS", None)
    with nodes("head", "coordinator", "worker1", "worker2") as (head, coordinator, *workers):
        made = Cluster(head, coordinator, workers, folder, environment)
        try:
            made.trouble_store("")
            store = [sys.executable, "-c", OBJECT_STORE, HOST, str(STORE_PORT), str(folder / "store")]
            made.start_server("store", store, {})
            _wait_for(lambda: _answers(environment["AWS_ENDPOINT_URL"]), 60, "the object store")
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            _start_postgres(made)
            made.start_mlflow()
            made.start_ray()
            yield made
        finally:
            for name in made.servers:
                made.kill_server(name)


def _start_postgres(made: Cluster) -> None:
    (programs, *_) = sorted(POSTGRES.glob("*/bin"), reverse=True)
    data = made.folder / "postgres"
    data.mkdir()
    shutil.chown(data, "postgres")
    made.folder.chmod(0o755)
    options = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run(
        [programs / "initdb", "--auth=trust", "-U", "mlflow", "-D", data], user="postgres", **options
    )
    server = [
        str(programs / "postgres"),
        "-D",
        str(data),
        "-p",
        str(DATABASE_PORT),
        "-k",
        str(data),
        "-h",
        "127.0.0.1",
    ]
    made.start_server("postgres", server, {}, user="postgres")
    ask = [programs / "psql", "-h", "127.0.0.1", "-p", str(DATABASE_PORT), "-U", "mlflow"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    _wait_for(lambda: subprocess.run([*ask, "-c", "", "postgres"], **quiet).returncode == 0, 30, "Postgres")
    subprocess.run([*ask, "-c", "CREATE DATABASE mlflow", "postgres"], **options)
    subprocess.run([*ask, "-f", ROOT / "mlflow" / "kubernetes" / "databases.sql", "postgres"], **options)


def _mlflow_requirements() -> list[str]:
    """What mlflow/Dockerfile installs."""
    (line,) = re.findall(
        r"pip install --no-cache-dir (.*?) \\\n", (ROOT / "mlflow" / "Dockerfile").read_text()
    )
    return [each.strip('"') for each in line.split()]


# ---- one submission


@dataclass(frozen=True)
class Submitted:
    """A recipe under way on the cluster, and all that was resumed of it."""

    cluster: Cluster
    workspace: Path
    name: str
    profile: str = "profile.yaml"
    root: str = ""

    @property
    def place(self) -> str:
        return self.root or f"s3://{BUCKET}/{self.name}"

    def call(self, verb: str, *arguments: str) -> str:
        """`embedloom VERB ... --detach`; the id of the job."""
        command = [sys.executable, "-m", "workflows.cli", verb, *arguments, "--address", self.cluster.address]
        done = subprocess.run(
            [*command, "--detach"], cwd=self.workspace, capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout.split()[-1]

    def submit(self, recipe: str = "small.yaml", changes: Sequence[str] = ()) -> str:
        changes = changes or (f"name={self.name}", f"steps.{STAGE}.epochs={EPOCHS}")
        return self.call(
            "submit", recipe, *(part for change in changes for part in ("--set", change)),
            "--profile", self.profile, "--root", self.place, "--tracking-uri", self.cluster.tracking_uri,
        )  # fmt: skip

    def resume(self, job: str) -> str:
        return self.call("resume", job)

    def wait(self, job: str) -> jobs.Job:
        client = jobs.connect(self.cluster.address)
        _wait_for(lambda: jobs.find(client, job).has_ended, PATIENCE_S, f"the end of {job}")
        return jobs.find(client, job)

    def files(self, pattern: str) -> list[str]:
        """Keys below the root, or paths, that match."""
        if self.root:
            found = [str(path) for path in Path(self.root).rglob("*") if path.is_file()]
        else:
            pages = (
                boto3.client("s3")
                .get_paginator("list_objects_v2")
                .paginate(Bucket=BUCKET, Prefix=f"{self.name}/")
            )
            found = [row["Key"] for page in pages for row in page.get("Contents", [])]
        return [name for name in found if re.search(pattern, name)]

    def wait_for_training(self, job: str) -> None:
        """Until the first stage has left a checkpoint."""
        client = jobs.connect(self.cluster.address)

        def has_trained() -> bool:
            if jobs.find(client, job).has_ended:
                raise RuntimeError(f"{job} ended before it trained: {jobs.output(client, job)[-1000:]}")
            return bool(self.files(r"train_stage/.*/checkpoint-\d+/"))

        _wait_for(has_trained, PATIENCE_S, f"a checkpoint of {STAGE}")

    def weights(self) -> str:
        (name,) = self.files(r"merge_checkpoints/[^/]+/attempt-[^/]+/model\.safetensors$")
        data = (
            Path(name).read_bytes()
            if self.root
            else boto3.client("s3").get_object(Bucket=BUCKET, Key=name)["Body"].read()
        )
        return hashlib.sha256(data).hexdigest()

    def runs(self) -> list[Any]:
        api = MlflowClient(self.cluster.tracking_uri)
        experiment = api.get_experiment_by_name(self.name)
        found = api.search_runs([experiment.experiment_id], max_results=1000)
        return [run for run in found if "step.name" in run.data.tags]

    def tracked(self) -> dict[str, Any]:
        """What MLflow says of the runs: status, parameters, tags, and how many values each metric has."""
        api = MlflowClient(self.cluster.tracking_uri)
        return {
            run.info.run_id: (
                run.info.status,
                run.data.params,
                run.data.tags,
                {name: len(api.get_metric_history(run.info.run_id, name)) for name in run.data.metrics},
            )
            for run in self.runs()
        }

    def computed(self) -> Counter[str]:
        """How often each step was computed to its end."""
        return Counter(
            run.data.tags["step.name"]
            for run in self.runs()
            if run.data.tags["step.cached"] == "false" and run.info.status == "FINISHED"
        )

    def batches(self) -> list[tuple[float, int]]:
        """When each batch of the first stage was trained on, as MLflow was told: (time, number)."""
        api = MlflowClient(self.cluster.tracking_uri)
        return sorted(
            (metric.timestamp / 1000, metric.step)
            for run in self.runs()
            if run.data.tags["step.name"] == STAGE and run.data.tags["step.cached"] == "false"
            for metric in api.get_metric_history(run.info.run_id, "loss")
        )


# ---- faults: each strikes a submission that trains, mends what a person would, and says which job is to be waited for


def _one(processes: list[psutil.Process], what: str) -> psutil.Process:
    if not processes:
        raise RuntimeError(f"there is no process of {what}")
    return processes[0]


def training_worker(node: Node) -> psutil.Process:
    return _one(node.processes("RayTrainWorker"), f"a training worker on {node.name}")


def kill_training_worker(on: Submitted, job: str) -> str:
    training_worker(on.cluster.workers[1]).kill()
    return job


def kill_node(on: Submitted, job: str) -> str:
    """A whole node, which is back ten seconds later."""
    on.cluster.workers[1].kill()
    time.sleep(10)
    on.cluster.start_node(on.cluster.workers[1])
    return job


def kill_driver(on: Submitted, job: str) -> str:
    found = on.cluster.coordinator.processes("workflows.cli run")
    # Not the shell that has started it, whose end it would outlive.
    _one([process for process in found if process.name().startswith("python")], "the driver").kill()
    return job


def kill_head(on: Submitted, job: str) -> str:
    """With it all that Ray knew of jobs goes; its nodes end when they miss it, and here at once."""
    everything = (on.cluster.head, on.cluster.coordinator, *on.cluster.workers)
    for node in everything:
        node.kill()
    shutil.rmtree(on.cluster.folder / "ray", ignore_errors=True)
    on.cluster.start_ray()
    return on.submit()


def stop_mlflow(on: Submitted, job: str) -> str:
    on.cluster.kill_server("mlflow")
    time.sleep(60)
    on.cluster.start_mlflow()
    return job


def refuse_storage(on: Submitted, job: str) -> str:
    on.cluster.trouble_store("503")
    time.sleep(20)
    on.cluster.trouble_store("")
    return job


def slow_storage(on: Submitted, job: str) -> str:
    on.cluster.trouble_store("1.0")
    time.sleep(60)
    on.cluster.trouble_store("")
    return job


def fill_disk(on: Submitted, job: str) -> str:
    filling = Path(on.root) / "filling"
    with contextlib.suppress(OSError), filling.open("wb") as file:
        while True:
            file.write(bytes(2**20))
    ended = on.wait(job)
    filling.unlink()
    return ended.id


def hang(on: Submitted, job: str) -> str:
    """A training worker that neither works nor ends, until the deadline of the step."""
    training_worker(on.cluster.workers[1]).suspend()
    return job


def submit_again(on: Submitted, job: str) -> str:
    second = on.submit()
    on.wait(job)
    return second


FAULTS: dict[str, Callable[[Submitted, str], str]] = {
    "a training worker": kill_training_worker,
    "a node with a training worker, back after 10 s": kill_node,
    "the driver": kill_driver,
    "the head": kill_head,
    "MLflow's server, back after 60 s": stop_mlflow,
    "the object store answers 503 for 20 s": refuse_storage,
    "the object store takes 1 s longer to answer for 60 s": slow_storage,
    "the disk with the results is full": fill_disk,
    f"a training worker hangs, deadline {DEADLINE_S:g} s": hang,
    "the same recipe submitted a second time": submit_again,
}


@dataclass(frozen=True)
class Suffered:
    """What one fault came to.

    Attributes:
        ended: how the submission ended, after what was resumed; or what did not come in time.
        again: whether a second command was needed.
        repeated: batches of the stage that MLflow saw twice. unseen: that it never saw.
        stood_still_s: the longest time after the fault in which no batch was trained on.
        twice: finished steps that were computed again.
        same: whether the merged weights are those of the undisturbed run.
    """

    fault: str
    ended: str
    again: bool = False
    repeated: int = 0
    unseen: int = 0
    stood_still_s: float = 0.0
    twice: list[str] = field(default_factory=list)
    same: bool = False
    seconds: float = 0.0

    @property
    def survived(self) -> bool:
        return self.ended == "SUCCEEDED" and self.same and not self.twice


def suffer(fault: str, on: Submitted, undisturbed: str, batches: int) -> Suffered:
    began = time.time()
    job = on.submit()
    on.wait_for_training(job)
    struck = time.time()
    job = FAULTS[fault](on, job)
    ended = on.wait(job)
    again = FAULTS[fault] is kill_head
    if ended.status == "FAILED":
        again = True
        ended = on.wait(on.resume(job))
    trained = on.batches()
    times = [moment for moment, _ in trained]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times) if later > struck]
    numbers = Counter(number for _, number in trained)
    return Suffered(
        fault=fault,
        ended=ended.status,
        again=again,
        repeated=sum(numbers.values()) - len(numbers),
        unseen=batches - len(numbers),
        stood_still_s=round(max(gaps, default=0.0), 1),
        twice=[step for step, count in on.computed().items() if count > 1],
        same=ended.status == "SUCCEEDED" and on.weights() == undisturbed,
        seconds=round(time.time() - began),
    )


def run_demo(on: Submitted) -> dict[str, Any]:
    """The project's own demo, small, undisturbed: writer, stages, merge and reranker, on nodes that share no disk."""
    began = time.time()
    job = on.submit("docs-search", DEMO)
    on.wait_for_training(job)
    places = training_nodes(on.cluster)
    ended = on.wait(job)
    steps = len(on.computed())
    return {
        "ended": ended.status,
        "seconds": round(time.time() - began),
        "steps": steps,
        "training_workers_on": places,
    }


def back_up_and_restore(on: Submitted) -> dict[str, Any]:
    """The commands of docs/operations.md, as they stand there; the runs must be as before, and a new user."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), flags=re.DOTALL)
    user, dump, restore = (
        next(block for block in blocks if word in block) for word in ("users/create", "pg_dump", "pg_restore")
    )
    administrator = on.cluster.environment["MLFLOW_TRACKING_PASSWORD"]
    user = user.replace("HOST:5000", f"{HOST}:{TRACKING_PORT}").replace("PASSWORD", administrator)
    _shell(on.cluster, user.replace('"..."', f'"{secrets.token_hex(12)}"'))
    before = on.tracked()
    began = time.time()
    _shell(on.cluster, dump.replace("HOST", "127.0.0.1"))
    on.cluster.kill_server("mlflow")
    _shell(on.cluster, restore.replace("HOST", "127.0.0.1"))
    on.cluster.start_mlflow()
    if on.tracked() != before:
        raise RuntimeError("MLflow does not say the same after its databases were restored")
    users = f"{on.cluster.tracking_uri}/api/2.0/mlflow/users/get?username=trainer"
    requests.get(users, auth=("admin", administrator), timeout=30).raise_for_status()
    return {"seconds": round(time.time() - began), "runs": len(before)}


def _shell(made: Cluster, commands: str) -> None:
    (programs, *_) = sorted(POSTGRES.glob("*/bin"), reverse=True)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", commands]
    subprocess.run(command, cwd=made.folder, env=environment, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 64 MB that all nodes see."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)


def training_nodes(made: Cluster) -> list[str]:
    """Where training workers are at this moment."""
    return [node.name for node in made.workers if node.processes("RayTrainWorker")]


def table(found: list[Suffered]) -> str:
    rows = [
        "| what | ended | second command | batches again | not told to MLflow | stood still | weights |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in found:
        rows.append(
            f"| {each.fault} | {each.ended.lower()} | {'yes' if each.again else 'no'} | {each.repeated} | "
            f"{each.unseen} | {each.stood_still_s} s | {'the same' if each.same else 'OTHER'} |"
        )
    return "\n".join(rows)


def measure(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[Suffered]]:
    workspace = folder / "workspace"
    workspace.mkdir()
    recipe = yaml.safe_load(write_workspace(workspace).recipe.read_text())
    del recipe["evaluations"], recipe["steps"]["judged"], recipe["steps"]["reranker"]
    (workspace / "small.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (workspace / "profile.yaml").write_text(yaml.safe_dump(PROFILE))
    (workspace / "deadline.yaml").write_text(yaml.safe_dump(PROFILE | {"step_deadline_s": DEADLINE_S}))
    # Before the nodes: they see what is mounted when they start.
    with small_disk(folder / "disk") as disk, cluster(folder) as made:
        on = Submitted(made, workspace, "undisturbed")
        began = time.time()
        job = on.submit()
        on.wait_for_training(job)
        places = training_nodes(made)
        ended = on.wait(job)
        if ended.status != "SUCCEEDED":
            raise RuntimeError(
                f"undisturbed, it ended as {ended.status}: {jobs.output(jobs.connect(made.address), job)}"
            )
        weights, batches = on.weights(), len(on.batches())
        undisturbed = {
            "seconds": round(time.time() - began),
            "training_workers_on": places,
            "batches": batches,
        }
        undisturbed["restored"] = back_up_and_restore(on)
        print(json.dumps({"undisturbed": undisturbed}), file=sys.stderr, flush=True)
        if options.demo:
            undisturbed["demo"] = run_demo(Submitted(made, workspace, "demo"))
            print(json.dumps(undisturbed["demo"]), file=sys.stderr, flush=True)
        found = []
        for number, fault in enumerate(FAULTS if options.only is None else options.only):
            extra: dict[str, str] = {}
            if FAULTS[fault] is hang:
                extra["profile"] = "deadline.yaml"
            if FAULTS[fault] is fill_disk:
                extra["root"] = str(disk)
            try:
                found.append(
                    suffer(fault, Submitted(made, workspace, f"fault-{number}", **extra), weights, batches)
                )
            except RuntimeError as error:
                found.append(Suffered(fault, ended=str(error).splitlines()[0]))
                made.stop_jobs()
            print(json.dumps(asdict(found[-1])), file=sys.stderr, flush=True)
    return undisturbed, found


def _end(*_: object) -> None:
    """Ended from outside: end what was started, whatever comes meanwhile."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _answers(url: str, headers: dict[str, str] | None = None) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(url, headers=headers, timeout=5).status_code < 500
    return False


def _wait_for(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come within {timeout_s:g} s")
        time.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=list(FAULTS), metavar="FAULT")
    parser.add_argument("--demo", action="store_true", help="Also run the project's demo at its smallest.")
    parser.add_argument("--keep", type=Path, help="Work in this new folder, and leave its logs there.")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(exist_ok=True)
    try:
        undisturbed, found = measure(options, folder)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(table(found), file=sys.stderr)
    survived = sum(each.survived for each in found)
    line = {
        "benchmark": "cluster_faults", "ours": survived, "peer": len(found),
        "ratio": round(survived / max(1, len(found)), 3), "bar": 1.0, "holds": survived == len(found),
        "detail": {"undisturbed": undisturbed, "faults": [asdict(each) for each in found]},
    }  # fmt: skip
    print(json.dumps(line))
    return 0 if line["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
