"""A cluster that is not ours: a recipe submitted over its job server, the driver killed, resumed, followed, stopped."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import requests
import yaml
from mlflow import MlflowClient
from workspace import Workspace, write_workspace

FAST, LONG = 1.0, 500.0
"""Epochs of the only stage: for one that is to end, and for one that is to be stopped in it."""


class Cluster:
    """A head with a job server and a token, and what `embedloom` says when it is told of them."""

    def __init__(self, workspace: Workspace, address: str, token: Path, tracking_uri: str) -> None:
        self.workspace, self.address = workspace, address
        self.environment = {
            "EMBEDLOOM_ADDRESS": address,
            "EMBEDLOOM_ROOT": str(workspace.folder / "results"),
            "MLFLOW_TRACKING_URI": tracking_uri,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        }

    def call(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "workflows.cli", *arguments], capture_output=True, text=True, timeout=300,
            cwd=self.workspace.folder, env=os.environ | self.environment | environment, check=False,
        )  # fmt: skip

    def submit(self, name: str, epochs: float) -> str:
        done = self.call(
            "submit", "small.yaml", "--profile", "profile.yaml", "--detach",
            "--set", f"name={name}", "--set", f"steps.weak.epochs={epochs}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def driver(self, name: str) -> psutil.Process:
        """The process on the cluster that runs the recipe of this name."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if "workflows.cli" in command and "run" in command and f"name={name}" in command:
                    return process
        raise AssertionError(f"no driver of {name} runs")

    def wait_for_training(self, name: str, attempt: int = 1) -> None:
        """Until MLflow has the loss of a batch of so many attempts."""
        deadline = time.monotonic() + 240
        while sum("loss" in run.data.metrics for run in self.runs(name)) < attempt:
            assert time.monotonic() < deadline, self.call("logs").stdout
            time.sleep(0.5)

    def runs(self, name: str) -> list:
        api = MlflowClient(self.environment["MLFLOW_TRACKING_URI"])
        experiment = api.get_experiment_by_name(name)
        return api.search_runs([experiment.experiment_id]) if experiment else []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, tracking_uri):
    workspace = write_workspace(tmp_path_factory.mktemp("submit"))
    recipe = yaml.safe_load(workspace.recipe.read_text())
    recipe["steps"] = {name: recipe["steps"][name] for name in ("weak-pairs", "weak")}
    del recipe["evaluations"]
    (workspace.folder / "small.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (workspace.folder / "profile.yaml").write_text("{workers: 1, checkpoint_every_s: 1.0}\n")

    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: it holds sockets
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    gcs, dashboard, client, agent = _free_ports(4)
    made = Cluster(workspace, f"http://127.0.0.1:{dashboard}", token, tracking_uri)
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0",
        "--max-worker-port=0", f"--temp-dir={folder / 'ray'}", "--num-cpus=2", "--object-store-memory=200000000",
    ]  # fmt: skip
    environment = (
        os.environ | made.environment | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    )
    with (folder / "log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for_job_server(made.address, token.read_text(), folder / "log")
        yield made
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_for_job_server(address: str, token: str, log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(requests.RequestException):
            headers = {"Authorization": f"Bearer {token}"}
            if requests.get(f"{address}/api/version", headers=headers, timeout=5).ok:
                return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)


def test_a_driver_that_is_killed_and_resumed(cluster):
    job = cluster.submit("killed", LONG)
    assert job.startswith("killed-")
    cluster.wait_for_training("killed")
    cluster.driver("killed").kill()
    followed = cluster.call("logs", job, "--follow")
    assert followed.returncode == 128 + signal.SIGKILL
    assert f"embedloom resume {job}" in followed.stdout + followed.stderr
    assert "weak: started" in followed.stdout

    # The same submission goes on: what was finished is reused.
    resumed = cluster.call("resume", job, "--detach")
    assert resumed.returncode == 0, resumed.stderr
    again = resumed.stdout.strip()
    assert again != job
    cluster.wait_for_training("killed", attempt=2)
    reused = [
        run.data.tags["step.name"]
        for run in cluster.runs("killed")
        if run.data.tags.get("step.cached") == "true"
    ]
    assert {"documents", "split", "weak-pairs", "weak-batches"} <= set(reused)

    stopped = cluster.call("stop", again)
    assert stopped.returncode == 0, stopped.stderr
    assert cluster.call("logs", again, "--follow").returncode == 143
    states = {run.info.status for run in cluster.runs("killed") if run.data.tags.get("step.name") == "weak"}
    assert "RUNNING" not in states
    assert "KILLED" in states


def test_followed_to_its_end(cluster):
    """The exit code is the submission's, and results lie where they were asked for."""
    done = cluster.call(
        "submit", "small.yaml", "--profile", "profile.yaml", "--set", "name=followed",
        "--set", f"steps.weak.epochs={FAST}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "weak: done" in done.stdout
    planned = cluster.call(
        "plan", "small.yaml", "--json", "--set", "name=followed", "--set", f"steps.weak.epochs={FAST}",
        "--root", cluster.environment["EMBEDLOOM_ROOT"],
    )  # fmt: skip
    assert planned.returncode == 0, planned.stderr
    states = {row["step"]: row["state"] for row in json.loads(planned.stdout)}
    assert states["weak"] == states["register"] == "HIT"
    assert set(states.values()) == {"HIT"}


def test_without_the_token_nothing_is_told(cluster, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text(secrets.token_hex(32))
    done = cluster.call("logs", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert done.returncode == 3
    assert "RAY_AUTH_TOKEN_PATH" in done.stderr
    assert "Traceback" not in done.stderr
