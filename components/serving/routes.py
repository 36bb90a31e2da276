"""Which version answers to which `model` name: the table that a promotion changes."""

from dataclasses import asdict, dataclass, field
from typing import Any

from components.serving.calls import Kind


@dataclass(frozen=True)
class Shadow:
    """A version that is sent a share of the requests beside the one that answers them."""

    version: str
    share: float


@dataclass(frozen=True)
class Route:
    """One model.

    Attributes:
        current: the version that answers to the bare name.
        applications: version -> its Serve application. All of them answer to `name/version`.
        shadow: None: no other version sees the requests.
    """

    name: str
    kind: Kind
    current: str
    applications: dict[str, str]
    shadow: Shadow | None = None


@dataclass(frozen=True)
class Routes:
    """All models, by name."""

    by_name: dict[str, Route] = field(default_factory=dict)

    @classmethod
    def from_config(cls, rows: list[dict[str, Any]]) -> "Routes":
        """The inverse of `to_config`."""
        routes = (
            Route(**(row | {"shadow": Shadow(**row["shadow"]) if row.get("shadow") else None}))
            for row in rows
        )
        return cls({route.name: route for route in routes})

    def to_config(self) -> list[dict[str, Any]]:
        """Plain values for Serve's `user_config`."""
        return [asdict(route) for route in self.by_name.values()]

    def with_route(self, route: Route) -> "Routes":
        """The table with one model's route put in or replaced."""
        return Routes(self.by_name | {route.name: route})

    def find(self, model: str | None, kind: Kind) -> tuple[Route, str] | None:
        """The route and version that a client means by `model`: a name, or name/version.

        None stands for the only model of the kind, where there is one only.
        """
        of_kind = {name: route for name, route in self.by_name.items() if route.kind == kind}
        if model is None:
            route = next(iter(of_kind.values())) if len(of_kind) == 1 else None
            return (route, route.current) if route else None
        if model in of_kind:
            return of_kind[model], of_kind[model].current
        name, _, version = model.rpartition("/")
        route = of_kind.get(name)
        return (route, version) if route and version in route.applications else None

    def applications(self) -> set[str]:
        """All applications that some name leads to."""
        return {each for route in self.by_name.values() for each in route.applications.values()}
