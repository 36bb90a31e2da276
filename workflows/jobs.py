"""Submissions on a cluster as its job server knows them: sent, followed, stopped, found again.

A submission is a Ray job whose driver is `embedloom run`. It needs nothing of the machine that sent it from then on.
"""

import asyncio
import contextlib
import getpass
import json
import logging
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflows.engine.provenance import provenance
from workflows.packing import Package

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

COORDINATOR = "coordinator"
"""The resource of the nodes that drivers are meant for; the files in cluster/ give it to one pool."""
STOP_WAIT_S = 120
"""So long a driver that is told to stop may take to free its leases and close its runs, before it is killed."""
FAILED, UNREACHABLE, STOPPED = 1, 3, 143
"""Exit codes, beside those of the driver itself."""

_SUBMISSION = "embedloom"
"""Key of a job's metadata: the submission, as JSON."""
_LOST_AFTER_S = 120.0
_PENDING_IS_SAID_AFTER_S = 10.0
_POLL_S = 1.0


class UnreachableError(Exception):
    """The cluster does not answer, or knows nothing of such a job."""


@dataclass(frozen=True)
class Submission:
    """What `embedloom run` is told on the cluster. Kept with the job, so that it can be submitted again."""

    recipe: str
    """A file's path relative to the working directory, or the name of one that comes with the project."""
    name: str
    """Of the recipe."""
    overrides: tuple[str, ...]
    profile: str
    root: str
    tracking_uri: str

    @property
    def command(self) -> str:
        """The driver. RAY_ADDRESS, which Ray sets for it, says where the cluster is."""
        options = [part for each in self.overrides for part in ("--set", each)]
        options += ["--profile", self.profile, "--root", self.root, "--tracking-uri", self.tracking_uri]
        return shlex.join(["python", "-m", "workflows.cli", "run", self.recipe, *options])


@dataclass(frozen=True)
class Job:
    """A submission on a cluster."""

    id: str
    submission: Submission
    status: str
    started: datetime
    exit_code: int | None
    """Of a job that has ended: 0; 1, a step failed; 2, a mistake in what was asked; 137, the driver was
    killed; 143, it was stopped."""
    message: str
    package: str
    git: str

    @property
    def has_ended(self) -> bool:
        return self.exit_code is not None


def connect(address: str) -> "JobSubmissionClient":
    """The job server of a cluster, by the address of its dashboard. RAY_AUTH_TOKEN or ~/.ray/auth_token is sent along.

    Raises:
        ValueError: not an address of a dashboard. UnreachableError: it does not answer.
    """
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"--address {address}: give the dashboard of the cluster's head, http://HEAD:8265")
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # to Ray they would count for more
        os.environ.pop(variable, None)
    token = Path.home() / ".ray" / "auth_token"
    if token.exists() or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.job_submission import JobSubmissionClient

    for module in ("dashboard_sdk", "job.sdk"):  # which say what they upload
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
    with _answering(address):
        return JobSubmissionClient(address)


def submit(client: "JobSubmissionClient", submission: Submission, package: Package, resumes: str = "") -> str:
    """Send a package and start the driver in it. Returns the id of the job.

    The driver goes to a node that offers the resource `coordinator`, one piece of it; where no node does, to any node
    but the head; to the head where that is all there is.
    """
    git = provenance().get("git", "")
    moment = datetime.now().strftime("%m%d-%H%M%S")
    metadata = {_SUBMISSION: json.dumps(asdict(submission)), "recipe": submission.name, "git": git}
    metadata["submitted_by"] = getpass.getuser()
    if resumes:
        metadata["resumes"] = resumes
    environment = {
        "GIT_SHA": git,
        "EMBEDLOOM_COMMAND": os.environ.get("EMBEDLOOM_COMMAND", "embedloom"),
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "PYTHONUNBUFFERED": "1",
    }
    with tempfile.TemporaryDirectory() as folder, _answering(client.get_address()):
        archive = Path(folder) / "package.zip"
        package.write(archive)
        return client.submit_job(
            entrypoint=submission.command,
            submission_id=f"{submission.name}-{moment}-{secrets.token_hex(2)}",
            runtime_env={"working_dir": str(archive), "env_vars": environment},
            metadata=metadata,
            **_place(client.get_address()),
        )


def find(client: "JobSubmissionClient", job_id: str | None = None) -> Job:
    """A job by its id, or the submission that was made last.

    Raises:
        UnreachableError: there is none; a head that was started anew has forgotten those before.
    """
    if job_id is None:
        jobs = submissions(client)
        if not jobs:
            raise UnreachableError(
                f"nothing was submitted to {client.get_address()} since its head was started"
            )
        return jobs[0]
    with _answering(client.get_address(), job_id):
        found = _job(client.get_job_info(job_id))
    if found is None:
        raise ValueError(f"{job_id} is a job of the cluster, but was not submitted by `embedloom submit`")
    return found


def submissions(client: "JobSubmissionClient") -> list[Job]:
    """All that the cluster knows of, newest first."""
    with _answering(client.get_address()):
        jobs = [_job(details) for details in client.list_jobs()]
    return sorted((job for job in jobs if job), key=lambda job: job.started, reverse=True)


def output(client: "JobSubmissionClient", job_id: str) -> str:
    """All that the driver has printed."""
    with _answering(client.get_address(), job_id):
        return client.get_job_logs(job_id)


def follow(
    client: "JobSubmissionClient", job_id: str, write: Callable[[str], Any], say: Callable[[str], Any]
) -> Job:
    """Write what the driver prints, from its beginning, until it has ended.

    A connection that breaks is made again, for two minutes; nothing is written twice.

    Args:
        write: takes pieces of the driver's output. say: takes a sentence about the job.

    Raises:
        UnreachableError: the cluster stayed away.
        KeyboardInterrupt: Ctrl-C here, of which the job knows nothing.
    """
    written = 0

    async def tail() -> None:
        nonlocal written
        position = 0
        async for piece in client.tail_job_logs(job_id):
            fresh = piece[max(0, written - position) :]
            position += len(piece)
            written = max(written, position)
            if fresh:
                write(fresh)

    began = answered = time.monotonic()
    is_waiting = False
    while True:
        try:
            job = find(client, job_id)
            answered = time.monotonic()
            if job.status == "PENDING":
                if not is_waiting and answered - began > _PENDING_IS_SAID_AFTER_S:
                    is_waiting = True
                    say("the driver waits for a place (a coordinator that is free), and for its files")
            else:
                with _answering(client.get_address(), job_id):
                    asyncio.run(tail())
                answered = time.monotonic()
                if job.has_ended:
                    return job
        except UnreachableError:
            if time.monotonic() - answered > _LOST_AFTER_S:
                raise
        time.sleep(_POLL_S)


def stop(client: "JobSubmissionClient", job_id: str) -> Job:
    """Tell the driver to end, and wait until it has: it stops its steps, frees their leases and closes their runs."""
    with _answering(client.get_address(), job_id):
        client.stop_job(job_id)
    deadline = time.monotonic() + STOP_WAIT_S + 30.0
    while not (job := find(client, job_id)).has_ended:
        if time.monotonic() > deadline:
            raise UnreachableError(f"{job_id} was told to stop and is still {job.status}")
        time.sleep(_POLL_S)
    return job


def alive_nodes(address: str) -> list[Any]:
    """The nodes of a cluster that live, by the address of its dashboard, as Ray's state API tells of them."""
    from ray.util.state import list_nodes

    # Ray counts a node that has died as one that it left out, and would raise.
    return list_nodes(address, filters=[("state", "=", "ALIVE")], limit=10_000, raise_on_missing_output=False)


def _place(address: str) -> dict[str, Any]:
    """Where the driver goes, as arguments of `submit_job`."""
    nodes = alive_nodes(address)
    if any(COORDINATOR in node.resources_total for node in nodes):
        return {"entrypoint_resources": {COORDINATOR: 1}}
    heads = [node.node_id for node in nodes if node.is_head_node]
    if len(nodes) > len(heads):
        return {"entrypoint_label_selector": {"ray.io/node-id": f"!{heads[0]}"}}
    return {}


def _job(details: "JobDetails") -> Job | None:
    """None: it was submitted by something else."""
    metadata = details.metadata or {}
    if _SUBMISSION not in metadata:
        return None
    told = json.loads(metadata[_SUBMISSION])
    exit_code: int | None = None
    match details.status.value:
        case "SUCCEEDED":
            exit_code = 0
        case "STOPPED":
            exit_code = STOPPED
        case "FAILED":
            exit_code = details.driver_exit_code or FAILED
    return Job(
        id=details.submission_id or "",
        submission=Submission(**{**told, "overrides": tuple(told["overrides"])}),
        status=details.status.value,
        started=datetime.fromtimestamp((details.start_time or 0) / 1000),
        exit_code=exit_code,
        message=(details.message or "").strip(),
        package=str((details.runtime_env or {}).get("working_dir", "")),
        git=metadata.get("git", ""),
    )


@contextlib.contextmanager
def _answering(address: str, job_id: str = "") -> Iterator[None]:
    """What Ray's client raises when the cluster is not there, or knows no such job, in a sentence."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError
    from ray.util.state.exception import RayStateApiException

    try:
        yield
    except AuthenticationError as error:
        raise UnreachableError(
            f"the cluster at {address} wants its token: set RAY_AUTH_TOKEN_PATH to the file that holds it"
        ) from error
    except (requests.RequestException, aiohttp.ClientError, RayStateApiException, ConnectionError) as error:
        raise UnreachableError(f"the cluster at {address} does not answer: {_first_line(error)}") from error
    except RuntimeError as error:
        if job_id and "does not exist" in str(error):
            raise UnreachableError(
                f"the cluster at {address} knows of no job {job_id}; if its head was started anew, submit the recipe "
                "again: what was finished is reused"
            ) from error
        raise UnreachableError(f"the cluster at {address} refused: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
