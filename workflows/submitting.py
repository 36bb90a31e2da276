"""`embedloom submit, logs, stop, resume`: a recipe on a cluster, watched from here and independent of here."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer

from workflows import completion, jobs
from workflows.packing import Package, pack
from workflows.terminal import Overrides, ProfileName, command, fail, say

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from workflows.recipe.schema import Recipe

Address = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="EMBEDLOOM_ADDRESS",
        help="Dashboard of the cluster's head: http://HEAD:8265. Its token: RAY_AUTH_TOKEN_PATH.",
    ),
]
Directory = Annotated[
    Path,
    typer.Option(
        exists=True, file_okay=False, help="What is sent: the folder with the recipe and its files."
    ),
]
Send = Annotated[
    list[str] | None,
    typer.Option(
        "--send", metavar="NAME", help="A file that looks like a secret, or is large, and is to go along."
    ),
]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Print the id of the submission and return.")]
JobId = Annotated[
    str | None,
    typer.Argument(metavar="[ID]", help="Of a submission; the newest one of the cluster by default."),
]


def submit(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe file below the directory, or one of the project's.",
            autocompletion=completion.recipes,
        ),
    ],
    address: Address,
    root: Annotated[
        str,
        typer.Option(
            envvar="EMBEDLOOM_ROOT",
            help="Where results are kept, as all nodes reach it: s3://..., /shared/...",
        ),
    ],
    tracking_uri: Annotated[
        str, typer.Option(envvar="MLFLOW_TRACKING_URI", help="The MLflow server, as all nodes reach it.")
    ],
    overrides: Overrides = None,
    profile: ProfileName = "cluster",
    directory: Directory = Path("."),
    send: Send = None,
    detach: Detach = False,
) -> None:
    """Run a recipe on a cluster, and show how it goes.

    The directory is sent, less what .gitignore and .rayignore name; no secrets, no large files. The workflow needs this
    terminal no more from then on: Ctrl-C, or closing it, leaves it running. Keys and passwords are the nodes' own.

    [bold]Exit codes[/]: 0 it succeeded, 1 a step failed, 2 a mistake in recipe or command, 3 the cluster does not
    answer, 130 Ctrl-C (it goes on), 137 the driver was
    killed, 143 it was stopped.
    """
    directory = directory.resolve()
    _check_places(root, tracking_uri)
    told = jobs.Submission(recipe, "", tuple(overrides or ()), profile, root, tracking_uri)
    submission, package = _prepare(told, Path.cwd(), directory, send or [])
    client = _connect(address)
    with _exit_codes():
        job_id = jobs.submit(client, submission, package)
    _submitted(client, job_id, package, detach)


def resume(
    address: Address,
    job_id: JobId = None,
    directory: Directory = Path("."),
    send: Send = None,
    detach: Detach = False,
) -> None:
    """Submit again what failed, was stopped or was lost, as it was asked for.

    The directory is sent anew. What was finished is reused, training goes on from its last checkpoint; a changed
    recipe computes what the change asks for. Exit codes are those of submit.
    """
    directory = directory.resolve()
    client = _connect(address)
    with _exit_codes():
        last = jobs.find(client, job_id)
    if not last.has_ended:
        fail(f"{last.id} is {last.status}; follow it by: {_command('logs', last.id, client, '-f')}", 1)
    submission, package = _prepare(last.submission, directory, directory, send or [])
    if submission.name != last.submission.name:
        raise ValueError(
            f"{directory / submission.recipe} is of {submission.name}, and {last.id} was of {last.submission.name}; "
            "give --directory the folder that it was submitted from"
        )
    with _exit_codes():
        new_id = jobs.submit(client, submission, package, resumes=last.id)
    _submitted(client, new_id, package, detach)


def logs(
    address: Address,
    job_id: JobId = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Until it ends; Ctrl-C leaves it running.")
    ] = False,
) -> None:
    """What a submission has printed. With --follow the exit code is the submission's."""
    client = _connect(address)
    with _exit_codes():
        job = jobs.find(client, job_id)
        if follow:
            _follow(client, job.id)
        print(jobs.output(client, job.id), end="")


def stop(
    address: Address,
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Of a submission.")],
) -> None:
    """Stop a submission: its steps end, their leases are freed, their MLflow runs are closed as KILLED."""
    client = _connect(address)
    with _exit_codes():
        job = jobs.find(client, job_id)
        if job.has_ended:
            say(f"{job.id} had ended before: {job.status}")
            return
        say("it is told to stop, and given time to close what is open ...")
        job = jobs.stop(client, job.id)
    say(f"{job.id}: {job.status}. To go on: {_command('resume', job.id, client)}")


def _prepare(
    told: jobs.Submission, base: Path, directory: Path, send: list[str]
) -> tuple[jobs.Submission, Package]:
    """All that can be found wrong here is, before anything is sent.

    Args:
        told: recipe and profile are relative to `base`; those of the submission that is given back, to `directory`.
    """
    package = pack(directory, Path(__file__).resolve().parents[1], send)

    def sent(path: Path, what: str) -> str:
        """The name of a file or folder in the package."""
        path = path.resolve()
        if not path.exists():
            raise ValueError(f"{what} {path}: there is no such file")
        if not path.is_relative_to(directory):
            raise ValueError(
                f"{what} {path}, outside of {directory}, which is what is sent; --directory names another"
            )
        name = str(path.relative_to(directory))
        if name not in package.files and not any(file.startswith(f"{name}/") for file in package.files):
            raise ValueError(
                f"{what} {name}, which would not be sent: an ignore file names it, or a link leads there"
            )
        return name

    from workflows import profile as profiles
    from workflows.recipe import load as recipes

    recipe, profile = told.recipe, told.profile
    path = base / recipe
    if path.suffix in {".yaml", ".yml"} or path.exists():
        loaded = recipes.load(str(path), told.overrides)
        recipe = sent(path, "the recipe is")
        for read in _relative_paths(loaded, path.read_text(encoding="utf-8"), told.overrides):
            sent(read, "the recipe reads")
    else:
        loaded = recipes.load(recipe, told.overrides)
    if profile not in profiles.PROFILES:
        profiles.load(str(base / profile))
        profile = sent(base / profile, "the profile is")
    return replace(told, recipe=recipe, name=loaded.name, profile=profile), package


def _relative_paths(recipe: "Recipe", text: str, overrides: Sequence[str]) -> list[Path]:
    """Files and folders that a recipe names relative to itself. Absolute ones and URIs are the nodes' own."""
    written = "\n".join((text, *overrides))
    return [Path(value.partition("#")[0]) for value in _strings(recipe.model_dump()) if value not in written]


def _strings(value: Any) -> Iterator[str]:
    """Every absolute path in a tree of fields."""
    match value:
        case str() if value.startswith("/"):
            yield value
        case Mapping():
            for each in value.values():
                yield from _strings(each)
        case list() | tuple():
            for each in value:
                yield from _strings(each)


def _check_places(root: str, tracking_uri: str) -> None:
    if "://" not in root and not root.startswith("/"):
        raise ValueError(
            f"--root {root}: on a cluster results are kept where all nodes reach them: a URI (s3://bucket/prefix), or "
            "the absolute path of a folder that all nodes share"
        )
    if not tracking_uri.startswith(("http://", "https://")):
        raise ValueError(
            f"--tracking-uri {tracking_uri}: name an MLflow server that all nodes reach (http://...)"
        )
    for option, uri in (("--root", root), ("--tracking-uri", tracking_uri)):
        if urlsplit(uri).password:
            raise ValueError(
                f"{option} holds a password, which everybody would see beside the job; give it to the nodes by their "
                "environment (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, the store's own variables)"
            )


def _connect(address: str) -> "JobSubmissionClient":
    with _exit_codes():
        return jobs.connect(address)


def _submitted(client: "JobSubmissionClient", job_id: str, package: Package, detach: bool) -> None:
    if detach:
        print(job_id)
        return
    say(
        f"{job_id}: {len(package.files):,} files sent ({package.size / 2**20:,.1f} MiB). "
        "Ctrl-C leaves it running; to come back:"
    )
    say(f"  {_command('logs', job_id, client, '-f')}")
    with _exit_codes():
        _follow(client, job_id)


def _follow(client: "JobSubmissionClient", job_id: str) -> NoReturn:
    """Show a job to its end, and exit as it did."""

    def write(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    try:
        job = jobs.follow(client, job_id, write, say)
    except KeyboardInterrupt:
        say(f"\n{job_id} goes on. To come back, or to end it:")
        say(f"  {_command('logs', job_id, client, '-f')}\n  {_command('stop', job_id, client)}")
        raise typer.Exit(130) from None
    if job.exit_code:
        reason = f": {job.message}" if job.message else ""
        fail(f"{job_id}: {job.status}{reason}. To go on: {_command('resume', job_id, client)}", job.exit_code)
    raise typer.Exit(0)


def _command(verb: str, job_id: str, client: "JobSubmissionClient", *options: str) -> str:
    return " ".join([command(), verb, job_id, "--address", client.get_address(), *options])


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    try:
        yield
    except jobs.UnreachableError as error:
        fail(f"error: {error}", jobs.UNREACHABLE)
