"""Submissions as real processes: killed, interrupted, and two at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from workflows.engine.lease import Contender
from workflows.engine.plan import plan
from workflows.engine.store import Store

sys.path.insert(0, os.path.dirname(__file__))
import submit


class Submission:
    """A process of submit.py over one store."""

    def __init__(self, root: Path, tracking_directory: Path, seconds: float) -> None:
        self.root, self.calls = root, root.parent / "calls"
        self.seconds = seconds
        self.process = subprocess.Popen(
            [
                sys.executable,
                submit.__file__,
                str(root),
                str(tracking_directory),
                str(self.calls),
                str(seconds),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def wait_for_calls(self, count: int) -> None:
        deadline = time.monotonic() + 90
        while len(self.called()) < count:
            assert time.monotonic() < deadline, "the steps did not start"
            assert self.process.poll() is None
            time.sleep(0.05)

    def called(self) -> list[str]:
        return [path.name for path in self.calls.glob("*")]

    def result(self) -> dict:
        said, _ = self.process.communicate(timeout=120)
        return json.loads(said.splitlines()[-1])

    def free_leases(self) -> dict[str, bool]:
        """By step: whether its lease can be had at once."""
        store = Store(self.root)
        planned = plan(submit.steps(str(self.calls), self.seconds), store)
        free = {}
        for each in planned:
            lease = Contender(store.folder(each.step, each.fingerprint), 60.0).acquire()
            free[each.step.name] = lease is not None
            if lease:
                lease.release()
        return free


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def api(tracking_uri: str) -> Iterator[MlflowClient]:
    return MlflowClient(tracking_uri)


def _runs(api: MlflowClient, parent: str) -> dict[str, str]:
    experiment = api.get_experiment_by_name("submit")
    children = api.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.info.run_name: run.info.status for run in children}


def test_two_submissions_compute_each_step_once(root: Path, tracking_directory: Path) -> None:
    both = [Submission(root, tracking_directory, 4.0) for _ in range(2)]
    results = [each.result() for each in both]
    assert [each.process.returncode for each in both] == [0, 0]
    for name in ("left", "right", "both"):
        assert sorted(result["states"][name] for result in results) == ["computed", "reused"]
    assert len(both[0].called()) == 3


def test_sigterm_ends_runs_as_killed_and_frees_leases(
    root: Path, tracking_directory: Path, api: MlflowClient
) -> None:
    submission = Submission(root, tracking_directory, 60.0)
    submission.wait_for_calls(2)
    submission.process.send_signal(signal.SIGTERM)
    result = submission.result()
    assert submission.process.returncode == 143
    assert result["message"] == "interrupted by SIGTERM; the same command goes on from here"
    assert result["states"] == {"left": "killed", "right": "killed", "both": "waiting"}
    assert api.get_run(result["run_id"]).info.status == "KILLED"
    assert _runs(api, result["run_id"]) == {"left": "KILLED", "right": "KILLED"}
    assert all(submission.free_leases().values())


def test_after_kill_9_of_the_driver_the_next_one_goes_on(
    root: Path, tracking_directory: Path, api: MlflowClient
) -> None:
    killed = Submission(root, tracking_directory, 3.0)
    killed.wait_for_calls(2)
    killed.process.kill()
    killed.process.wait()
    assert all(killed.free_leases().values())
    experiment = api.get_experiment_by_name("submit").experiment_id
    left_running = {run.info.run_id for run in api.search_runs([experiment], "attributes.status = 'RUNNING'")}
    assert len(left_running) >= 1

    following = Submission(root, tracking_directory, 3.0)
    result = following.result()
    assert following.process.returncode == 0
    assert set(result["states"].values()) == {"computed"}
    assert {api.get_run(run_id).info.status for run_id in left_running} == {"KILLED"}
    store = Store(root)
    for each in plan(submit.steps(str(following.calls), 3.0), store):
        # what the killed attempt left is swept away
        assert len(store.folder(each.step, each.fingerprint).names("attempt-*")) == 1
