"""Moves the alias `champion`: gate, golden vectors, then the running service, and the alias last."""

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from components.serving import deploy
from components.serving.errors import GateError, NotRegisteredError
from components.serving.judgement import judge
from components.serving.release import fetch
from components.serving.verify import load_verified
from components.serving.versions import (
    CANDIDATE,
    CHAMPION,
    PREVIOUS,
    aliases,
    connect,
    get_version,
    release_of,
)


@dataclass(frozen=True)
class Promotion:
    """What `promote` did.

    Attributes:
        replaced: the champion before; None if there was none.
        moved: False if the version was the champion already.
        verdict: of the gate, in a sentence.
        space_id: vectors in an index with another one must be computed again.
        replaced_space_id: of the champion before.
    """

    name: str
    version: str
    replaced: str | None
    moved: bool
    verdict: str
    space_id: str
    replaced_space_id: str | None


def promote(
    name: str,
    *,
    tracking_uri: str | None = None,
    version: str | None = None,
    force: bool = False,
    service: str | None = None,
    say: Callable[[str], None] = print,
) -> Promotion:
    """Make the candidate, or `version`, the champion.

    The order is: the gate against the present champion; the files, by digest and golden vectors; the service,
    which loads the new version and answers with it; the alias. Where one fails, alias and service stay as
    they were. Called again, it does nothing.

    Args:
        force: promote although the gate says no.
        service: http address of the Ray dashboard of a running service, which then serves the new champion.

    Raises:
        GateError: the gate says no, or the two were not measured on the same evaluation set.
        ModelRefusedError: the files are not those that were registered.
        DeploymentError: the service could not load the version; it goes on with the old one.
        NotRegisteredError, TrackingUnreachableError.
    """
    client = connect(tracking_uri)
    at = aliases(client, name)
    if version is None and CANDIDATE not in at:
        raise NotRegisteredError(
            f"the model `{name}` has no candidate; `embedloom run` registers one, or give --version"
        )
    chosen = get_version(client, name, version or at[CANDIDATE])
    champion = at.get(CHAMPION)
    replaced = None if champion is None else get_version(client, name, champion)
    release = release_of(client, chosen)
    verdict = chosen.tags.get("gate.reasons", "")
    moves = champion != chosen.version
    if moves:
        decision = judge(client, chosen, champion)
        verdict = "; ".join(decision.reasons)
        if not decision.passed:
            if not force:
                raise GateError(
                    f"version {chosen.version} of `{name}` is not promoted: {verdict} (--force overrides)"
                )
            say(f"promoted by force although {verdict}")
        load_verified(fetch(release), release)
    if service is not None:
        deploy.replace(service, release)
        say(f"the service at {service} answers with version {chosen.version}")
    elif moves:
        say("a running service keeps its version until it is started again; with --service it is swapped too")
    if moves:
        tags = {
            "promoted_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "promoted_by": getpass.getuser(),
            "promoted_verdict": verdict,
            "replaced_version": champion or "",
        }
        for key, value in tags.items():
            client.set_model_version_tag(name, chosen.version, key, value)
        if champion is not None:
            client.set_registered_model_alias(name, PREVIOUS, champion)
        client.set_registered_model_alias(name, CHAMPION, chosen.version)
    return Promotion(
        name=name,
        version=chosen.version,
        replaced=champion if moves else chosen.tags.get("replaced_version") or None,
        moved=moves,
        verdict=verdict,
        space_id=chosen.tags["space_id"],
        replaced_space_id=replaced.tags.get("space_id") if replaced and moves else None,
    )
