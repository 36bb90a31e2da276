"""Moves the alias `champion`: gate, golden vectors, then the running service, and the alias last."""

import getpass
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from components.serving import swap
from components.serving.errors import DeploymentError, GateError, NotRegisteredError, ServingError
from components.serving.judgement import judge
from components.serving.release import Release, fetch
from components.serving.turns import one_at_a_time
from components.serving.verify import load_verified, load_verified_reranker
from components.serving.versions import (
    CANDIDATE,
    CHAMPION,
    PREVIOUS,
    aliases,
    connect,
    get_version,
    release_of,
    space_of,
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Promotion:
    """What `promote` did.

    Attributes:
        replaced: the champion before; None if there was none.
        moved: False if the version was the champion already.
        verdict: of the gate, in a sentence.
        space_id: of an embedder, vectors in an index with another one must be computed again; of a reranker its
            scorer id.
        replaced_space_id: of the champion before.
    """

    name: str
    version: str
    replaced: str | None
    moved: bool
    verdict: str
    space_id: str
    replaced_space_id: str | None


@dataclass(frozen=True)
class _Move:
    """A version that is to become champion, the champion of when that was decided, and all aliases of then."""

    name: str
    chosen: ModelVersion
    champion: ModelVersion | None
    aliases: dict[str, str]
    release: Release

    @property
    def moves(self) -> bool:
        return self.champion is None or self.champion.version != self.chosen.version


def promote(
    *names: str,
    tracking_uri: str | None = None,
    version: str | None = None,
    force: bool = False,
    service: str | None = None,
    api_key: str | None = None,
    timeout_s: float = 300.0,
    say: Say = print,
) -> list[Promotion]:
    """Make the candidates of these models (an embedder and its reranker), or `version` of one, the champions.

    The order is: the gate against the present champion; the files, by digest and golden vectors; the service,
    which loads the new versions beside the old, is asked for their golden vectors, and then answers with all of
    them at once; the aliases. Where one fails, aliases and service stay as they were. Called again, it does
    nothing. Two promotions from one machine take turns.

    Args:
        force: promote although the gate says no, or has nothing to judge by.
        service: http address of the Ray dashboard of a running service, which then serves the new champions.
        api_key: of the service, where it needs one.
        timeout_s: how long a version may take to come up.

    Raises:
        GateError: the gate says no, or the two were not measured on the same evaluation set.
        ModelRefusedError: the files, or what the service answers, are not what was registered.
        DeploymentError: the service could not load the version; it goes on with the old one.
        NotRegisteredError, TrackingUnreachableError.
    """
    if version is not None and len(names) > 1:
        raise NotRegisteredError(
            "a version can be given of one model only; several are promoted by candidate"
        )
    client = connect(tracking_uri)
    with one_at_a_time(client.tracking_uri, say):
        moves = [_planned(client, name, version or _candidate(client, name)) for name in names]
        verdicts = [_judged(client, move, force, say) for move in moves]
        for move in moves:
            if move.moves:
                _verify(move.release)
        _carry_out(client, moves, verdicts, service, api_key, timeout_s, say)
    return [_promotion(move, verdict) for move, verdict in zip(moves, verdicts, strict=True)]


def rollback(
    name: str,
    *,
    tracking_uri: str | None = None,
    service: str | None = None,
    api_key: str | None = None,
    timeout_s: float = 300.0,
    say: Say = print,
) -> Promotion:
    """Make the champion before the present one the champion again. No gate: it was one.

    Raises:
        NotRegisteredError: there was none before.
        ModelRefusedError, DeploymentError, TrackingUnreachableError: as `promote`.
    """
    client = connect(tracking_uri)
    with one_at_a_time(client.tracking_uri, say):
        previous = aliases(client, name).get(PREVIOUS)
        if previous is None:
            raise NotRegisteredError(f"the model `{name}` had no champion before this one")
        move = _planned(client, name, previous)
        _verify(move.release)
        verdict = "rolled back"
        _carry_out(client, [move], [verdict], service, api_key, timeout_s, say)
    return _promotion(move, verdict)


def shadow(
    name: str,
    share: float,
    *,
    service: str,
    tracking_uri: str | None = None,
    version: str | None = None,
    api_key: str | None = None,
    timeout_s: float = 300.0,
    say: Say = print,
) -> Release:
    """Send a share of a service's requests to the candidate, or `version`, too; nobody gets its answers.

    How many it answered, how fast, and how far its answers are from the champion's stands in the service's
    /metrics. A share of 0 ends it. No alias moves.
    """
    client = connect(tracking_uri)
    with one_at_a_time(client.tracking_uri, say):
        release = release_of(client, get_version(client, name, version or _candidate(client, name)))
        _verify(release)
        swap.bring_in(service, [release], timeout_s=timeout_s, api_key=api_key, shadow_share=share, say=say)
    say(f"{share:.0%} of the requests for `{name}` also go to version {release.version}, see /metrics")
    return release


def sync(
    *names: str,
    service: str,
    tracking_uri: str | None = None,
    api_key: str | None = None,
    timeout_s: float = 300.0,
    say: Say = print,
) -> list[Release]:
    """Make a service answer with the champions that the registry has, after it was started with others.

    Returns: the champions. A service that has them already is left alone.
    """
    client = connect(tracking_uri)
    with one_at_a_time(client.tracking_uri, say):
        releases = []
        for name in names:
            champion = aliases(client, name).get(CHAMPION)
            if champion is None:
                raise NotRegisteredError(f"the model `{name}` has no champion; `embedloom promote` makes one")
            releases.append(release_of(client, get_version(client, name, champion)))
        swap.bring_in(service, releases, timeout_s=timeout_s, api_key=api_key, say=say)
    for release in releases:
        say(f"the service answers with {release.model} version {release.version}")
    return releases


def _candidate(client: MlflowClient, name: str) -> str:
    at = aliases(client, name)
    if CANDIDATE not in at:
        raise NotRegisteredError(
            f"the model `{name}` has no candidate; `embedloom run` registers one, or give --version"
        )
    return at[CANDIDATE]


def _planned(client: MlflowClient, name: str, version: str) -> _Move:
    chosen = get_version(client, name, version)
    at = aliases(client, name)
    replaced = get_version(client, name, at[CHAMPION]) if CHAMPION in at else None
    return _Move(name, chosen, replaced, at, release_of(client, chosen))


def _judged(client: MlflowClient, move: _Move, force: bool, say: Say) -> str:
    """The gate's verdict. Raises GateError if it is no, unless by force."""
    if not move.moves:
        return move.chosen.tags.get("gate.reasons", "")
    try:
        decision = judge(client, move.chosen, move.champion.version if move.champion else None)
        passed, verdict = decision.passed, "; ".join(decision.reasons)
    except GateError as not_measured:
        if not force:
            raise
        passed, verdict = False, str(not_measured)
    if not passed:
        if not force:
            raise GateError(
                f"version {move.chosen.version} of `{move.name}` is not promoted: {verdict} (--force overrides)"
            )
        say(f"promoted by force although {verdict}")
    return verdict


def _verify(release: Release) -> None:
    if release.kind == "reranker":
        load_verified_reranker(fetch(release), release)
    else:
        load_verified(fetch(release), release)


def _carry_out(
    client: MlflowClient,
    moves: Sequence[_Move],
    verdicts: Sequence[str],
    service: str | None,
    api_key: str | None,
    timeout_s: float,
    say: Say,
) -> None:
    """The service, then the aliases; if these cannot be moved, the service goes back."""
    before = None
    if service is not None:
        releases = [move.release for move in moves]
        before = swap.bring_in(service, releases, timeout_s=timeout_s, api_key=api_key, say=say)
        for move in moves:
            say(f"the service at {service} answers with {move.name} version {move.chosen.version}")
            old = move.champion
            embeds = move.release.kind == "embedding"
            if old and embeds and move.moves and space_of(old) != space_of(move.chosen):
                say(
                    f"vectors of {move.name}/{old.version} (space {space_of(old)}) and of version "
                    f"{move.chosen.version} (space {space_of(move.chosen)}) do not mix: both are served "
                    f"until the index is rebuilt and `embedloom retire {move.name} --service {service}` says so"
                )
    elif any(move.moves for move in moves):
        say("a running service keeps its version until it is started again; with --service it is swapped too")
    moving = [(move, verdict) for move, verdict in zip(moves, verdicts, strict=True) if move.moves]
    try:
        for move, _ in moving:
            _check_champion(client, move)
        for move, verdict in moving:
            _move_alias(client, move, verdict)
    except BaseException as error:  # Ctrl-C too: a model of two must not be promoted alone
        for move, _ in moving:
            _move_back(client, move)
        if service is not None and before is not None:
            swap.back_to(service, before)
            say("the registry could not be changed: the service answers with what it had before")
        if isinstance(error, ServingError) or not isinstance(error, Exception):
            raise
        raise DeploymentError(
            f"the registry at {client.tracking_uri} could not be changed ({type(error).__name__})"
        ) from error


def _check_champion(client: MlflowClient, move: _Move) -> None:
    """From another machine it may have changed: then the gate has not judged against what is champion now."""
    if aliases(client, move.name).get(CHAMPION) != move.aliases.get(CHAMPION):
        raise GateError(f"somebody else has promoted another version of `{move.name}` meanwhile; try again")


def _move_alias(client: MlflowClient, move: _Move, verdict: str) -> None:
    champion = move.champion.version if move.champion else None
    tags = {
        "promoted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "promoted_by": getpass.getuser(),
        "promoted_verdict": verdict,
        "replaced_version": champion or "",
    }
    for key, value in tags.items():
        client.set_model_version_tag(move.name, move.chosen.version, key, value)
    if champion is not None:
        client.set_registered_model_alias(move.name, PREVIOUS, champion)
    client.set_registered_model_alias(move.name, CHAMPION, move.chosen.version)


def _move_back(client: MlflowClient, move: _Move) -> None:
    """Undo `_move_alias`, as far as it went; where somebody else was faster nothing is touched."""
    with suppress(MlflowException, ServingError):
        if aliases(client, move.name).get(CHAMPION) not in (move.aliases.get(CHAMPION), move.chosen.version):
            return
        for alias in (CHAMPION, PREVIOUS):
            if alias in move.aliases:
                client.set_registered_model_alias(move.name, alias, move.aliases[alias])
            else:
                client.delete_registered_model_alias(move.name, alias)


def _promotion(move: _Move, verdict: str) -> Promotion:
    old = move.champion if move.moves else None
    return Promotion(
        name=move.name,
        version=move.chosen.version,
        replaced=old.version if old else move.chosen.tags.get("replaced_version") or None,
        moved=move.moves,
        verdict=verdict,
        space_id=space_of(move.chosen),
        replaced_space_id=space_of(old) if old else None,
    )
