"""Brings a release up on Ray Serve, and swaps it for another.

Everything goes through Serve's REST API on the Ray dashboard, as `serve deploy` does: any process can swap
the model of a running service, and Serve keeps its code version, which a second `serve.run` would not.
"""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import requests
from ray import serve
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from components.serving.errors import DeploymentError, PortInUseError
from components.serving.release import Release, fetch
from components.serving.versions import resolve

APPLICATION = "embedloom"
_IMPORT_PATH = "components.serving.app:build"


@dataclass(frozen=True)
class ServiceOptions:
    """Where and how a service runs; none of it changes a vector.

    Attributes:
        host: only this machine by default; there is no access control here.
        replicas: with two or more, or with surge, no request waits while another version loads.
        surge: a new version starts in new replicas beside the old ones, which takes the memory of both.
        cpus: reserved for a replica in Ray.
        threads: torch threads of a replica; 0: one a CPU of the machine.
        tokens_per_batch: tokens computed together.
        max_waiting_tokens: waiting tokens of a replica above which requests are turned away with 429.
        max_ongoing_requests, max_queued_requests: requests at a replica, and waiting for one; more get 429.
        request_timeout_s: after it a request is given up.
        startup_timeout_s: how long a version may take to come up.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    surge: bool = True
    cpus: float = 1.0
    threads: int = 0
    tokens_per_batch: int = 4096
    max_waiting_tokens: int = 262_144
    max_ongoing_requests: int = 128
    max_queued_requests: int = 256
    request_timeout_s: float = 120.0
    startup_timeout_s: float = 300.0


def serve_config(release: Release, options: ServiceOptions) -> dict[str, Any]:
    """The Serve config (`serve deploy`'s format) of one service."""
    at_the_replicas = options.replicas * options.max_ongoing_requests
    queue = {
        "max_queued_requests": options.max_queued_requests,
        "backpressure_config": {"status_code": 429, "retry_after_s": 1.0},
    }
    return {
        "proxy_location": "HeadOnly",
        # Serve's own default in a config is every interface.
        "http_options": {
            "host": options.host,
            "port": options.port,
            "request_timeout_s": options.request_timeout_s,
        },
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": _IMPORT_PATH,
                "args": {
                    "threads": options.threads,
                    "tokens_per_batch": options.tokens_per_batch,
                    "max_waiting_tokens": options.max_waiting_tokens,
                    "release": _release_key(release) if options.surge else "",
                },
                "deployments": [
                    {
                        "name": "gateway",
                        "num_replicas": 1,
                        "ray_actor_options": {"num_cpus": 0},
                        "max_ongoing_requests": 2 * (at_the_replicas + options.max_queued_requests),
                        "max_surge_percent": 100,
                        **queue,
                    },
                    {
                        "name": "embedding",
                        "num_replicas": options.replicas,
                        "ray_actor_options": {"num_cpus": options.cpus},
                        "max_ongoing_requests": options.max_ongoing_requests,
                        "max_surge_percent": 100 if options.surge else 0,
                        "user_config": asdict(release),
                        **queue,
                    },
                ],
            }
        ],
    }


def _release_key(release: Release) -> str:
    return f"{release.model}/{release.version}/{release.digest[:16]}"


def check_port(host: str, port: int) -> None:
    """Raises PortInUseError if nothing more can listen there."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise PortInUseError(
                f"cannot listen on {host}:{port} ({error.strerror}): free it or name another port"
            ) from error


def connect(dashboard: str) -> ServeSubmissionClient:
    """The Serve API of a Ray cluster. Raises DeploymentError if nothing answers there."""
    try:
        return ServeSubmissionClient(dashboard)
    except (ConnectionError, ValueError, RuntimeError) as error:
        problem = str(error).splitlines()[0]
        raise DeploymentError(f"no Ray dashboard answers at {dashboard}: {problem}") from error


def deploy(client: ServeSubmissionClient, config: dict[str, Any], timeout_s: float) -> None:
    """Apply a Serve config and wait until its release answers.

    Raises:
        DeploymentError: it did not come up, with Serve's reason.
    """
    client.deploy_applications(config)
    application = next(app for app in config["applications"] if app["name"] == APPLICATION)
    embedding = next(each for each in application["deployments"] if each["name"] == "embedding")
    wanted = Release(**embedding["user_config"])
    http = config["http_options"]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        details = client.get_serve_details()["applications"].get(APPLICATION, {})
        status = details.get("status")
        if status == "DEPLOY_FAILED":
            raise DeploymentError(f"{_release_key(wanted)} did not come up: {_reason(details)}")
        if status == "RUNNING" and _answers(http["host"], http["port"], wanted):
            return
        time.sleep(0.2)
    raise DeploymentError(f"{_release_key(wanted)} was not up after {timeout_s:.0f} s: {_reason(details)}")


def _answers(host: str, port: int, wanted: Release) -> bool:
    try:
        response = requests.get(f"http://{host}:{port}/ready", timeout=10)
    except requests.RequestException:
        return False
    return response.ok and response.headers.get("x-embedloom-version") == wanted.version


def _reason(details: dict[str, Any]) -> str:
    """The last line of Serve's message, which holds a whole trace: the exception itself."""
    messages = [each.get("message") for each in details.get("deployments", {}).values()]
    for message in filter(None, [*messages, details.get("message")]):
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        for line in reversed(lines):
            if "Error: " in line:
                return line.split("Error: ", 1)[1]
        return lines[-1]
    return "Serve gives no reason"


def replace(dashboard: str, release: Release, timeout_s: float = 300.0) -> Release:
    """Swap the model of a running service, and put the old one back if the new one does not come up.

    Args:
        dashboard: http address of the Ray dashboard of the service's cluster.

    Returns: the release that was served before.

    Raises:
        DeploymentError: no service runs there, or the new release did not come up; the old one is served.
    """
    client = connect(dashboard)
    details = client.get_serve_details()
    running = {
        name: application["deployed_app_config"]
        for name, application in details.get("applications", {}).items()
        if application.get("deployed_app_config")
    }
    if APPLICATION not in running:
        raise DeploymentError(f"no service of embedloom runs at {dashboard}; `embedloom serve` starts one")
    http = {key: details["http_options"][key] for key in ("host", "port", "request_timeout_s")}
    old = {
        "proxy_location": details["proxy_location"],
        "http_options": http,
        "applications": list(running.values()),
    }
    embedding = next(each for each in running[APPLICATION]["deployments"] if each["name"] == "embedding")
    before = Release(**embedding["user_config"])
    application = running[APPLICATION] | {
        "args": running[APPLICATION]["args"]
        | {"release": _release_key(release) if embedding.get("max_surge_percent") else ""},
        "deployments": [
            each | {"user_config": asdict(release)} if each["name"] == "embedding" else each
            for each in running[APPLICATION]["deployments"]
        ],
    }
    # The config is the whole of what Serve shall run: other applications stay in it.
    others = [each for name, each in running.items() if name != APPLICATION]
    new = old | {"applications": [application, *others]}
    try:
        deploy(client, new, timeout_s)
    except DeploymentError:
        deploy(client, old, timeout_s)
        raise
    return before


@contextmanager
def _local_ray() -> Iterator[str]:
    """A Ray of its own on this machine; yields the address of its dashboard."""
    context = ray.init("local", include_dashboard=True, dashboard_host="127.0.0.1", log_to_driver=False)
    try:
        yield f"http://{context.dashboard_url}"
    finally:
        serve.shutdown()
        ray.shutdown()


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM do what SIGINT does, once; a second one does not disturb the clean-up.

    To be entered when Ray runs: it sets a handler of SIGTERM that aborts the process.
    """

    def interrupt(*_: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        return
    for number, handler in before.items():
        signal.signal(number, handler)


def serve_model(
    model: str,
    *,
    alias: str | None = None,
    version: str | None = None,
    tracking_uri: str | None = None,
    options: ServiceOptions | None = None,
    dashboard: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve a model of the registry, or a model directory, until SIGINT or SIGTERM.

    Args:
        model: a registered name, or a path. Of a name, the alias `champion` is served; if there is none,
            `candidate` with a notice; or what `alias` or `version` says. The alias is resolved once, to a
            version and its digest.
        dashboard: http address of a running Ray cluster's dashboard: the service is started there and goes on
            after the return. Without it a Ray is started on this machine and lives as long as the call.
        say: where the few lines for the user go.

    Raises:
        ServingError: with one sentence, before Ray starts wherever it can be known by then.
    """
    options = options or ServiceOptions()
    if Path(model).is_dir():
        # Here, and not above: reading weights takes torch, whose import costs seconds; a name needs none.
        from components.serving.verify import from_directory

        release = from_directory(Path(model))
    else:
        release = resolve(model, alias=alias, version=version, tracking_uri=tracking_uri, say=say)
    if dashboard is not None:
        deploy(connect(dashboard), serve_config(release, options), options.startup_timeout_s)
        say(f"{release.model} version {release.version} is served on the cluster of {dashboard}")
        return
    check_port(options.host, options.port)
    fetch(release)
    say(f"loading {release.model} version {release.version} into Ray Serve ...")
    with _local_ray() as ray_dashboard, _interrupted_by_signals():
        deploy(connect(ray_dashboard), serve_config(release, options), options.startup_timeout_s)
        for line in _welcome(release, f"http://{options.host}:{options.port}", ray_dashboard):
            say(line)
        while True:
            signal.pause()


def _welcome(release: Release, url: str, dashboard: str) -> list[str]:
    body = json.dumps({"model": release.model, "input": "how to sort an array", "input_type": "query"})
    return [
        f"{release.model} version {release.version} is served at {url} (description: {url}/docs)",
        f"  curl -s {url}/v1/embeddings -H 'content-type: application/json' -d '{body}'",
        f"Ray dashboard: {dashboard}. `embedloom promote NAME --service {dashboard}` swaps the model while "
        "it serves. Ctrl-C stops the service.",
    ]
