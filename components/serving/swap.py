"""Changes what a running service answers with: load beside, smoke request, and only then the routes.

Whatever goes wrong before the last, the old version has answered all along and goes on. Serve's config is read and put
back whole, so changes of one service take turns.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from components.serving import deploy
from components.serving.errors import DeploymentError, ServingError
from components.serving.release import Release, fetch
from components.serving.routes import Route, Routes, Shadow
from components.serving.smoke import smoke_request
from components.serving.turns import one_at_a_time


def bring_in(
    dashboard: str,
    releases: Sequence[Release],
    *,
    timeout_s: float = 300.0,
    api_key: str | None = None,
    shadow_share: float | None = None,
    say: Callable[[str], None] = print,
) -> Routes:
    """Make a service answer with these versions, all at the same moment; those before stay under name/version.

    Args:
        dashboard: http address of the Ray dashboard of the service's cluster.
        shadow_share: the versions answer nobody, but get this share of the requests too (0: none any more).

    Returns: the routes before.

    Raises:
        DeploymentError, ModelRefusedError: a version did not come up, or not as itself; the service is as before.
    """
    with one_at_a_time(dashboard, say):
        return _bring_in(dashboard, releases, timeout_s, api_key, shadow_share, say)


def _bring_in(
    dashboard: str,
    releases: Sequence[Release],
    timeout_s: float,
    api_key: str | None,
    shadow_share: float | None,
    say: Callable[[str], None],
) -> Routes:
    service = deploy.running(dashboard)
    before = service
    if shadow_share is not None:
        for release in releases:
            _check_shadow(service.routes, release, dashboard)
    try:
        for release in releases:
            if service.application(release.application) is None:
                say(f"loading {release.model} version {release.version} beside what runs ...")
                service = deploy.load(service, release, timeout_s)
        beside = service.routes
        for release in releases:
            beside = beside.with_route(_beside(beside, release))
        if beside != service.routes:
            service = deploy.set_routes(service, beside)
        for release in releases:
            application = service.application(release.application)
            assert application is not None
            max_memory_gib = application["args"].get("max_memory_gib", 0.0)
            smoke_request(service.url, release, fetch(release), api_key, max_memory_gib)
        routes = beside
        for release in releases:
            routes = routes.with_route(_moved(routes.by_name[release.model], release.version, shadow_share))
        deploy.set_routes(service, routes)
    except BaseException:  # Ctrl-C too
        restore(dashboard, before)
        raise
    return before.routes


def restore(dashboard: str, before: deploy.Running) -> None:
    """Put a service back to what it was, and take out what was loaded since.

    What was there before never went away: should even this fail, the reason for it is what the user should read.
    """
    with suppress(ServingError):
        service = deploy.running(dashboard)
        if service.routes != before.routes:
            service = deploy.set_routes(service, before.routes)
        names = {each["name"] for each in before.config["applications"]}
        added = [each["name"] for each in service.config["applications"] if each["name"] not in names]
        if added:
            deploy.remove(service, added)


def back_to(dashboard: str, routes: Routes) -> None:
    """Make a service answer by earlier routes again; all their versions are loaded still."""
    with one_at_a_time(dashboard, print):
        deploy.set_routes(deploy.running(dashboard), routes)


def retire(dashboard: str, name: str, say: Callable[[str], None] = print) -> list[str]:
    """Stop serving all versions of a model but the current one: its index has been rebuilt.

    Returns: the versions that are gone.

    Raises:
        DeploymentError: no such service, or no such model in it.
    """
    with one_at_a_time(dashboard, say):
        return _retire(dashboard, name)


def _retire(dashboard: str, name: str) -> list[str]:
    service = deploy.running(dashboard)
    route = service.routes.by_name.get(name)
    if route is None:
        known = ", ".join(service.routes.by_name) or "none"
        raise DeploymentError(f"the service at {dashboard} serves no model `{name}` (there: {known})")
    gone = {version: each for version, each in route.applications.items() if version != route.current}
    if gone:
        kept = {route.current: route.applications[route.current]}
        only = replace(route, applications=kept, shadow=None)
        service = deploy.set_routes(service, service.routes.with_route(only))
        deploy.remove(service, gone.values())
    return sorted(gone)


def _check_shadow(routes: Routes, release: Release, dashboard: str) -> None:
    """Raises DeploymentError where a version would answer in place of being compared, or be compared with itself."""
    route = routes.by_name.get(release.model)
    if route is None:
        raise DeploymentError(
            f"the service at {dashboard} serves no `{release.model}` to compare a shadow with"
        )
    if route.current == release.version:
        raise DeploymentError(
            f"version {release.version} of `{release.model}` is the one that answers: it cannot be its own shadow"
        )


def _beside(routes: Routes, release: Release) -> Route:
    """The model's route with a version more; a model that is new to the service begins with it."""
    route = routes.by_name.get(release.model)
    if route is None:
        return Route(release.model, release.kind, release.version, {release.version: release.application})
    return replace(route, applications=route.applications | {release.version: release.application})


def _moved(route: Route, version: str, shadow_share: float | None) -> Route:
    if shadow_share is None:
        return replace(route, current=version, shadow=None)
    return replace(route, shadow=Shadow(version, shadow_share) if shadow_share else None)
