"""`embedloom serve`: a service on this machine until it is stopped, or on a running cluster."""

import json
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
from ray import serve

from components.serving import deploy
from components.serving.errors import PortInUseError
from components.serving.options import ServiceOptions
from components.serving.release import Release, fetch
from components.serving.routes import Route, Routes
from components.serving.versions import resolve


def check_port(host: str, port: int) -> None:
    """Raises PortInUseError if nothing more can listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise PortInUseError(
                f"cannot listen on {host}:{port} ({error.strerror}): free it or name another port"
            ) from error


def find_release(
    model: str,
    *,
    alias: str | None = None,
    version: str | None = None,
    tracking_uri: str | None = None,
    say: Callable[[str], None] = print,
) -> Release:
    """The version that a user means: a model directory, or a name of the registry (`versions.resolve`)."""
    if Path(model).is_dir():
        # Here, and not above: reading weights takes torch, whose import costs seconds; a name needs none.
        from components.serving.verify import from_directory

        return from_directory(Path(model))
    return resolve(model, alias=alias, version=version, tracking_uri=tracking_uri, say=say)


def serve_releases(
    releases: Sequence[Release],
    *,
    options: ServiceOptions | None = None,
    dashboard: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve versions of different models (an embedder, a reranker) until SIGINT or SIGTERM.

    Args:
        dashboard: http address of a running Ray cluster's dashboard: the service is started there and goes on
            after the return. Without it a Ray is started on this machine and lives as long as the call.
        say: where the few lines for the user go.

    Raises:
        ServingError: with one sentence, before Ray starts wherever it can be known by then.
    """
    options = options or ServiceOptions()
    options.check()
    if dashboard is not None:
        _bring_up(dashboard, releases, options)
        say(f"{_names(releases)} is served on the cluster of {dashboard}")
        return
    check_port(options.host, options.port)
    for release in releases:
        fetch(release)
    say(f"loading {_names(releases)} into Ray Serve ...")
    with _local_ray() as ray_dashboard, _interrupted_by_signals():
        _bring_up(ray_dashboard, releases, options)
        for line in _welcome(releases, f"http://{options.host}:{options.port}", ray_dashboard):
            say(line)
        while True:
            signal.pause()


def _bring_up(dashboard: str, releases: Sequence[Release], options: ServiceOptions) -> None:
    """Models first, then the gateway: it starts to listen when there is something to answer with."""
    client = deploy.connect(dashboard)
    config = deploy.base_config(options)
    service = deploy.Running(client, f"http://{options.host}:{options.port}", config, Routes())
    applications = [deploy.model_application(release, options) for release in releases]
    if options.documents is not None:
        applications.append(deploy.documents_application(options.documents))
    service = deploy.put(service, applications, options.startup_timeout_s)
    routes = Routes()
    for release in releases:
        versions = {release.version: release.application}
        routes = routes.with_route(Route(release.model, release.kind, release.version, versions))
    deploy.put(service, [deploy.gateway_application(routes, options)], options.startup_timeout_s)
    deploy.wait_until_ready(service.url, routes, options.startup_timeout_s)


@contextmanager
def _local_ray() -> Iterator[str]:
    """A Ray of its own on this machine; yields the address of its dashboard."""
    context = ray.init(
        "local",
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
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


def _names(releases: Sequence[Release]) -> str:
    return " and ".join(f"{release.model} version {release.version}" for release in releases)


def _welcome(releases: Sequence[Release], url: str, dashboard: str) -> list[str]:
    release = releases[0]
    body = json.dumps({"model": release.model, "input": "how to sort an array", "input_type": "query"})
    return [
        f"{_names(releases)} is served at {url} (try it there; description: {url}/docs)",
        f"  curl -s {url}/v1/embeddings -H 'content-type: application/json' -d '{body}'",
        f"Ray dashboard: {dashboard}. `embedloom promote NAME --service {dashboard}` swaps the model while "
        "it serves. Ctrl-C stops the service.",
    ]
