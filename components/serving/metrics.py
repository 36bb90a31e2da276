"""What a gateway counts, in Prometheus' text format. Ray's own exporter counts calls and replicas of the cluster."""

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from components.serving.calls import Reply, Scores, Vectors

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_MIN_ROWS = 3


class Metrics:
    """Of one gateway, since it started."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "embedloom_requests",
            "Requests answered.",
            ["route", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "embedloom_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.in_flight = Gauge("embedloom_requests_in_flight", "Requests under way.", registry=self._registry)
        self.tokens = Counter(
            "embedloom_tokens", "Tokens read by the models.", ["model", "version"], registry=self._registry
        )
        self.key_requests = Counter(
            "embedloom_key_requests", "Requests by API key.", ["key"], registry=self._registry
        )
        self.shadow_requests = Counter(
            "embedloom_shadow_requests",
            "Requests that a shadow version got too, by what came of them.",
            ["model", "version", "outcome"],
            registry=self._registry,
        )
        self.shadow_seconds = Histogram(
            "embedloom_shadow_seconds",
            "Time of the shadow version's answer.",
            ["model", "version"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.shadow_difference = Histogram(
            "embedloom_shadow_difference",
            "Mean absolute difference between the two versions' scores, or between the cosines that each finds "
            "among the texts of a request.",
            ["model", "version"],
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1),
            registry=self._registry,
        )

    def text(self) -> bytes:
        """All of it, as `GET /metrics` answers."""
        return generate_latest(self._registry)


def difference(ours: Reply, theirs: Reply) -> float | None:
    """How far two versions' replies to one request are apart; None where that cannot be said.

    Vectors of two spaces cannot be compared; the cosines among the texts of a request can.
    """
    if isinstance(ours, Scores) and isinstance(theirs, Scores):
        return float(np.abs(ours.scores_N - theirs.scores_N).mean())
    if not isinstance(ours, Vectors) or not isinstance(theirs, Vectors) or len(ours.vectors_ND) < _MIN_ROWS:
        return None
    pairs = np.triu_indices(len(ours.vectors_ND), 1)
    cosines = [(each.vectors_ND @ each.vectors_ND.T)[pairs] for each in (ours, theirs)]
    return float(np.abs(cosines[0] - cosines[1]).mean())
