"""What runs on Ray Serve: its config, and how it is changed while it serves.

Everything goes through Serve's REST API on the Ray dashboard, as `serve deploy` does: any process can change a
running service. A PUT holds all applications, so one is changed by reading what runs and putting it back with the
change.
"""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import requests
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from components.serving.errors import DeploymentError
from components.serving.options import DOCUMENTS, ServiceOptions
from components.serving.release import Release
from components.serving.routes import Routes

GATEWAY = "embedloom"
_BUILDERS = "components.serving.app:"
_POLL_S = 0.1
_TARGET_ONGOING = 2.5
"""Calls under way at a replica above which another one is started. A gateway keeps three calls of joined small requests
under way wherever requests wait (`joining.py`): a replica that always has three has always something waiting."""

Config = dict[str, Any]
"""Serve's config, of the whole cluster or of an application."""


def base_config(options: ServiceOptions) -> Config:
    """Serve without an application."""
    return {
        "proxy_location": "Disabled" if options.own_port else "EveryNode",
        # Serve's own default in a config is every interface.
        "http_options": {
            "host": options.host,
            "port": options.port,
            "request_timeout_s": options.request_timeout_s + 5,
        },
        "applications": [],
    }


def model_application(release: Release, options: ServiceOptions) -> Config:
    """The application of one version."""
    scale: Config = {"num_replicas": options.replicas}
    if options.max_replicas > options.replicas:
        scale = {
            "autoscaling_config": {
                "min_replicas": options.replicas,
                "max_replicas": options.max_replicas,
                "target_ongoing_requests": _TARGET_ONGOING,
            }
        }
    return {
        "name": release.application,
        "route_prefix": None,
        "import_path": f"{_BUILDERS}build_model",
        "args": {
            "release": asdict(release),
            "engine": asdict(options.engine),
            "tokens_per_batch": options.tokens_per_batch,
            "max_waiting_tokens": options.max_waiting_tokens,
            "max_wait_s": options.max_wait_s,
            "max_request_tokens": options.max_request_tokens,
            "max_memory_gib": options.max_memory_gib,
        },
        "deployments": [
            {
                "name": "model",
                "ray_actor_options": {"num_cpus": options.cpus, "num_gpus": options.gpus},
                "max_ongoing_requests": options.max_ongoing_requests,
                "max_queued_requests": options.max_queued_requests,
                "health_check_period_s": 2.0,
                **scale,
            }
        ],
    }


def gateway_application(routes: Routes, options: ServiceOptions) -> Config:
    """The application that everybody meets."""
    return {
        "name": GATEWAY,
        "route_prefix": "/",
        "import_path": f"{_BUILDERS}build_gateway",
        "args": {
            "listen": [options.host, options.port] if options.own_port else None,
            "timeout_s": options.request_timeout_s,
            "gateways": options.gateways,
            "has_documents": options.documents is not None,
        },
        "deployments": [
            {
                "name": "gateway",
                "num_replicas": options.gateways,
                "ray_actor_options": {"num_cpus": 0},
                "max_ongoing_requests": 1024,
                "max_queued_requests": 1024,
                "backpressure_config": {"status_code": 429, "retry_after_s": 1.0},
                "health_check_period_s": 2.0,
                "user_config": {"routes": routes.to_config(), "keys": options.key_rows()},
            }
        ],
    }


def documents_application(documents: str) -> Config:
    """The application of the page's documents."""
    return {
        "name": DOCUMENTS,
        "route_prefix": None,
        "import_path": f"{_BUILDERS}build_documents",
        "args": {"documents": documents},
        "deployments": [{"name": "documents", "ray_actor_options": {"num_cpus": 0}}],
    }


def connect(dashboard: str) -> ServeSubmissionClient:
    """The Serve API of a Ray cluster. Raises DeploymentError if nothing answers there."""
    try:
        return ServeSubmissionClient(dashboard)
    except (ConnectionError, ValueError, RuntimeError) as error:
        problem = str(error).splitlines()[0]
        raise DeploymentError(f"no Ray dashboard answers at {dashboard}: {problem}") from error


@contextmanager
def _asking() -> Iterator[None]:
    """Serve's API fails with what `requests` raises, or with a RuntimeError that holds the whole answer."""
    try:
        yield
    except (requests.RequestException, RuntimeError) as error:
        problem = str(error).splitlines()[0]
        raise DeploymentError(f"Ray Serve's API could not be used: {problem}") from error


def _details(client: ServeSubmissionClient) -> Config:
    with _asking():
        return client.get_serve_details()


def _deploy(client: ServeSubmissionClient, config: Config) -> None:
    with _asking():
        client.deploy_applications(config)


@dataclass(frozen=True)
class Running:
    """A service as Serve's API tells it.

    Attributes:
        url: where it answers.
        config: what was deployed, all applications of the cluster.
        routes: those of the gateway.
    """

    client: ServeSubmissionClient
    url: str
    config: Config
    routes: Routes

    def application(self, name: str) -> Config | None:
        found = [each for each in self.config["applications"] if each["name"] == name]
        return found[0] if found else None

    def release(self, application: str) -> Release:
        """Which version an application serves."""
        found = self.application(application)
        assert found is not None
        return Release(**found["args"]["release"])


def running(dashboard: str) -> Running:
    """The service on a cluster.

    Args:
        dashboard: http address of the Ray dashboard.

    Raises:
        DeploymentError: none runs there.
    """
    client = connect(dashboard)
    details = _details(client)
    applications = [
        each["deployed_app_config"]
        for each in details.get("applications", {}).values()
        if each.get("deployed_app_config")
    ]
    gateway = next((each for each in applications if each["name"] == GATEWAY), None)
    if gateway is None:
        raise DeploymentError(f"no service of embedloom runs at {dashboard}; `embedloom serve` starts one")
    http = {key: details["http_options"][key] for key in ("host", "port", "request_timeout_s")}
    config = {
        "proxy_location": details["proxy_location"],
        "http_options": http,
        "applications": applications,
    }
    routes = Routes.from_config(gateway["deployments"][0]["user_config"]["routes"])
    return Running(client, _url(gateway, http, dashboard), config, routes)


def _url(gateway: Config, http: Config, dashboard: str) -> str:
    """Where a gateway answers, as seen from whoever sees the dashboard."""
    listen = gateway["args"].get("listen")
    host, port = listen or (http["host"], http["port"])
    if host in ("0.0.0.0", "::"):
        host = urlsplit(dashboard).hostname
    return f"http://{host}:{port}"


def put(service: Running, applications: Iterable[Config], timeout_s: float) -> Running:
    """Put applications in, or in place of those of the same name, and wait until they run.

    Raises:
        DeploymentError: one did not come up, with Serve's reason. Nothing is taken back.
    """
    changed = {each["name"]: each for each in applications}
    kept = [each for each in service.config["applications"] if each["name"] not in changed]
    config = service.config | {"applications": [*kept, *changed.values()]}
    _deploy(service.client, config)
    wait_until_running(service.client, list(changed), timeout_s)
    return replace(service, config=config)


def remove(service: Running, names: Iterable[str]) -> Running:
    """Take applications out; what they are at work on they finish."""
    gone = set(names)
    applications = [each for each in service.config["applications"] if each["name"] not in gone]
    config = service.config | {"applications": applications}
    _deploy(service.client, config)
    return replace(service, config=config)


def wait_until_running(client: ServeSubmissionClient, names: list[str], timeout_s: float) -> None:
    """Raises DeploymentError, with Serve's reason, if an application fails or takes too long."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = _details(client)["applications"]
        states = {name: found.get(name, {}).get("status") for name in names}
        failed = [name for name, state in states.items() if state in ("DEPLOY_FAILED", "UNHEALTHY")]
        if failed:
            raise DeploymentError(f"{failed[0]} did not come up: {_reason(found[failed[0]])}")
        if all(state == "RUNNING" for state in states.values()):
            return
        if time.monotonic() > deadline:
            late = next(name for name, state in states.items() if state != "RUNNING")
            raise DeploymentError(
                f"{late} was not up after {timeout_s:.0f} s: {_reason(found.get(late, {}))}"
            )
        time.sleep(_POLL_S)


def _reason(details: Config) -> str:
    """The last line of Serve's message, which holds a whole trace: the exception itself."""
    messages = [each.get("message") for each in details.get("deployments", {}).values()]
    for message in filter(None, [*messages, details.get("message")]):
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        for line in reversed(lines):
            if "Error: " in line:
                return line.split("Error: ", 1)[1]
        return lines[-1]
    return "Serve gives no reason"


def load(service: Running, release: Release, timeout_s: float) -> Running:
    """Load a version beside what runs, as the running versions of its kind are run; no name leads to it yet.

    Raises:
        DeploymentError: it did not come up. It is taken out again, the service is as it was.
    """
    if service.application(release.application) is not None:
        return service
    models = [each for each in service.config["applications"] if each["import_path"].endswith("build_model")]
    pattern = next((each for each in models if each["args"]["release"]["kind"] == release.kind), models[0])
    application = pattern | {
        "name": release.application,
        "args": pattern["args"] | {"release": asdict(release)},
    }
    try:
        return put(service, [application], timeout_s)
    except DeploymentError:
        remove(service, [release.application])
        raise


def set_routes(service: Running, routes: Routes, timeout_s: float = 60.0) -> Running:
    """Change which version answers to which name, and wait until the gateway does so.

    Raises:
        DeploymentError: the gateway did not take it over.
    """
    gateway = service.application(GATEWAY)
    assert gateway is not None
    deployment = gateway["deployments"][0]
    user_config = deployment["user_config"] | {"routes": routes.to_config()}
    changed = gateway | {"deployments": [deployment | {"user_config": user_config}]}
    service = replace(put(service, [changed], timeout_s), routes=routes)
    wait_until_ready(service.url, routes, timeout_s)
    return service


def wait_until_ready(url: str, routes: Routes, timeout_s: float) -> None:
    """Wait until the service answers by these routes. Raises DeploymentError if it does not."""
    deadline = time.monotonic() + timeout_s
    problem = "it does not answer"
    while time.monotonic() < deadline:
        try:
            response = requests.get(f"{url}/ready", timeout=10)
            if response.ok and response.json()["routes"] == routes.to_config():
                return
            problem = response.text if not response.ok else "it answers by other routes"
        except (requests.RequestException, json.JSONDecodeError, KeyError) as error:
            problem = type(error).__name__
        time.sleep(_POLL_S)
    raise DeploymentError(f"the service at {url} was not ready after {timeout_s:.0f} s: {problem}")
