"""`embedloom promote, rollback, retire, key, push, serve`: which version answers, and the service it answers by."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workflows.terminal import ROOT, Root, TrackingUri, fail, mlflow_uri, say

if TYPE_CHECKING:
    from components.serving.promotion import Promotion

Service = Annotated[
    str | None,
    typer.Option(
        "--service", metavar="URL", help="Ray dashboard of a running service, which is changed too."
    ),
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="EMBEDLOOM_API_KEY", help="Where the service needs one.")
]


def promote(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    together_with: Annotated[
        str | None, typer.Option("--with", metavar="NAME", help="Another model, promoted at the same moment.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Which version; the candidate by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if the gate says no.")] = False,
    shadow: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Only send it that share of the requests too (10 %); 0 ends it."),
    ] = None,
    sync: Annotated[
        bool, typer.Option("--sync", help="Only make the service answer with the champion that there is.")
    ] = False,
    service: Service = None,
    api_key: ApiKey = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make the candidate the champion, if the gate passes."""
    from components.serving import promotion

    uri = mlflow_uri(root, tracking_uri)
    names = [name] if together_with is None else [name, together_with]
    if (shadow is not None or sync) and service is None:
        raise ValueError("--shadow and --sync change a running service: say which by --service")
    with _failing_by_1():
        if shadow is not None:
            promotion.shadow(
                name,
                _share(shadow),
                service=str(service),
                tracking_uri=uri,
                version=version,
                api_key=api_key,
                say=say,
            )
        elif sync:
            promotion.sync(*names, service=str(service), tracking_uri=uri, api_key=api_key, say=say)
        else:
            found = promotion.promote(
                *names,
                tracking_uri=uri,
                version=version,
                force=force,
                service=service,
                api_key=api_key,
                say=say,
            )
            for each in found:
                say(_promoted(each))


def rollback(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    service: Service = None,
    api_key: ApiKey = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make the champion before the present one the champion again."""
    from components.serving import promotion

    uri = mlflow_uri(root, tracking_uri)
    with _failing_by_1():
        found = promotion.rollback(name, tracking_uri=uri, service=service, api_key=api_key, say=say)
    say(_promoted(found))


def retire(
    name: Annotated[str, typer.Argument(help="A model of the service.")],
    service: Annotated[str, typer.Option(metavar="URL", help="Ray dashboard of the running service.")],
) -> None:
    """Say that a model's index is rebuilt: its older versions are served no more."""
    from components.serving.swap import retire as retire_versions

    with _failing_by_1():
        gone = retire_versions(service, name)
    say(
        f"no longer served: {', '.join(f'{name}/{version}' for version in gone)}"
        if gone
        else "none to retire"
    )


def key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    keys: Annotated[Path, typer.Option("--keys", help="The file of keys, hashed.")] = Path("keys.json"),
    requests_per_minute: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 0,
) -> None:
    """Make an API key for `serve --keys` and print it; the file holds its hash only."""
    from components.serving.keys import add_key

    print(add_key(keys, name, requests_per_minute, tokens_per_minute))


def push(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Where to; made if it is not there.")
    ],
    alias: Annotated[str | None, typer.Option(help="Which version; champion by default.")] = None,
    version: Annotated[str | None, typer.Option(help="A version by number.")] = None,
    public: Annotated[bool, typer.Option("--public", help="A new repository is for all to see.")] = False,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Upload a registered version, with its card, to a Hugging Face hub.

    The hub is that of HF_ENDPOINT, huggingface.co by default. The token is HF_TOKEN, or that of `hf auth login`.
    """
    from components.serving import hub
    from components.serving.versions import resolve

    uri = mlflow_uri(root, tracking_uri)
    release = resolve(name, alias=alias, version=version, tracking_uri=uri, say=say)
    with _failing_by_1():
        say(f"version {release.version} of {name}: {hub.push(release, repository, private=not public)}")


def serve(
    model: Annotated[str, typer.Argument(help="A registered model's name, or a model directory.")],
    reranker: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A reranker to serve beside it, named likewise.")
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(exists=True, help="Parquet of documents that the page at / searches."),
    ] = None,
    alias: Annotated[
        str | None, typer.Option(help="Which version of a registered model; champion by default.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="A version by number.")] = None,
    host: Annotated[str, typer.Option(help="Interface to listen on; not this machine's own needs keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    keys: Annotated[Path | None, typer.Option(exists=True, help="API keys, from `embedloom key`.")] = None,
    engine: Annotated[str | None, typer.Option(help="torch or vllm; by model and machine.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="float32 or bfloat16; by machine. int8, on a CPU with VNNI, is faster than float32, and vectors "
            "and scores differ a little from the model's own."
        ),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Of each model.")] = 1,
    max_replicas: Annotated[int, typer.Option(min=1, help="As many are started under load.")] = 1,
    cpus: Annotated[float, typer.Option(min=0, help="Reserved for a replica on a cluster.")] = 0.0,
    gpus: Annotated[float, typer.Option(min=0, help="Reserved for a replica.")] = 0.0,
    gpu_memory: Annotated[
        float, typer.Option(min=0.05, max=1, help="Share of a GPU's memory that vLLM takes for one version.")
    ] = 0.3,
    max_memory: Annotated[
        float,
        typer.Option(
            metavar="GIB", min=0, help="A version that needs more is refused as it loads; 0: no limit."
        ),
    ] = 0.0,
    cluster: Annotated[
        str | None, typer.Option(metavar="URL", help="Ray dashboard of a cluster to serve on, and return.")
    ] = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Serve a model until Ctrl-C: OpenAI's /v1/embeddings, Cohere's and Jina's /v1/rerank, and a page at /."""
    from components.serving.keys import read_keys
    from components.serving.local import find_release, serve_releases
    from components.serving.options import EngineChoice, ServiceOptions

    if engine not in (None, "torch", "vllm") or precision not in (None, "float32", "bfloat16", "int8"):
        raise ValueError("--engine is torch or vllm, --precision float32, bfloat16 or int8")
    if precision == "int8" and (engine == "vllm" or gpus):
        raise ValueError("int8 is computed by torch on a CPU: leave --engine vllm and --gpus out")
    options = ServiceOptions(
        host=host,
        port=port,
        own_port=cluster is None,
        keys=tuple(read_keys(keys)) if keys else (),
        documents=str(documents.resolve()) if documents else None,
        engine=EngineChoice(engine, precision, gpu_memory=gpu_memory),
        replicas=replicas,
        max_replicas=max_replicas,
        cpus=cpus,
        gpus=gpus,
        max_memory_gib=max_memory,
    )
    options.check()
    names = [model] if reranker is None else [model, reranker]
    uri = None if all(Path(each).is_dir() for each in names) else mlflow_uri(root, tracking_uri)
    releases = [find_release(model, alias=alias, version=version, tracking_uri=uri, say=say)]
    if reranker is not None:
        releases.append(find_release(reranker, tracking_uri=uri, say=say))
    serve_releases(releases, options=options, dashboard=cluster, say=say)


@contextlib.contextmanager
def _failing_by_1() -> Iterator[None]:
    """What is no mistake in the command, but keeps it from being carried out, ends with exit code 1."""
    from components.serving.errors import DeploymentError, GateError, ModelRefusedError

    try:
        yield
    except (DeploymentError, GateError, ModelRefusedError) as error:
        fail(f"error: {error}", 1)


def _share(text: str) -> float:
    """`10 %`, `10%` or `0.1`."""
    try:
        share = float(text.rstrip(" %")) / (100 if text.rstrip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"--shadow is a share such as 10% or 0.1, not {text!r}")
    return share


def _promoted(done: "Promotion") -> str:
    if not done.moved:
        return f"version {done.version} of {done.name} is the champion already"
    return f"version {done.version} of {done.name} is the champion (space {done.space_id}): {done.verdict}"
