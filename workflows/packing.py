"""What a submission takes along: the working directory and this project's code, as one zip file.

What `.gitignore` and `.rayignore` name stays here, as Ray itself would leave it. A secret or a large file ends the
submission before anything is sent, with its name.
"""

import fnmatch
import logging
import os
import re
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)  # to which Ray says, as INFO, which ignore files it found

LARGEST_FILE = 64 * 2**20
"""Bytes. What is larger belongs into the storage root, where every node reads it once and nothing passes the head."""
LARGEST_PACKAGE = 256 * 2**20
"""Bytes before compression; Ray's own limit is 512 MiB in one message to the head."""

CODE = "workflows", "components"
_NEVER = {".git", "__pycache__", ".embedloom", ".venv", ".venvs", "node_modules"}
_NOT_SECRET = ("*.pub", "*.example", "*.sample", "*.template")
_SECRET_NAMES = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*token",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc",
    ".git-credentials", ".htpasswd", ".dockercfg", ".dockerconfigjson", "kubeconfig", "*.kubeconfig", "credentials",
    "credentials.json", "*credentials*.csv", "service-account*.json", "service_account*.json",
)  # fmt: skip
_SECRET_TEXT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    rb"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    rb"|\bhf_[A-Za-z0-9]{34}\b"
    rb"|\bgh[pousr]_[A-Za-z0-9]{36}\b|\bgithub_pat_[A-Za-z0-9_]{60,}"
    rb"|\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{40,}"  # OpenAI, Anthropic
    rb"|\bAIza[0-9A-Za-z_-]{35}\b"  # Google
    rb"|\bxox[abprs]-[0-9A-Za-z-]{20,}"  # Slack
)
_READ_FOR_SECRETS = 512 * 2**10
"""Bytes. Configuration and code are below; what is above is data, in which a key may be an example."""


class UnsendableError(ValueError):
    """The directory cannot be sent as it is; the message names files and what to do."""


@dataclass(frozen=True)
class Package:
    """What is sent: name in the package -> file here."""

    files: dict[str, Path]

    @property
    def size(self) -> int:
        """Bytes before compression."""
        return sum(path.stat().st_size for path in self.files.values())

    def write(self, target: Path) -> None:
        """As a zip file whose bytes follow from names and contents alone, so that nothing is sent twice."""
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, path in sorted(self.files.items()):
                entry = zipfile.ZipInfo(name)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (path.stat().st_mode & 0o777) << 16
                archive.writestr(entry, path.read_bytes())


def pack(directory: Path, code: Path, sent_all_the_same: Collection[str] = ()) -> Package:
    """What a directory sends, with the code that submits it.

    Args:
        code: the folder of this project's packages; not added where it is the directory itself.
        sent_all_the_same: names of files that are no secrets and not too large, whatever they look like.

    Raises:
        UnsendableError: it holds secrets or large files that nothing ignores, or is too large as a whole.
    """
    files = {str(path.relative_to(directory)): path for path in _walk(directory, [])}
    for name in sent_all_the_same:
        if name not in files:
            raise UnsendableError(f"--send {name}: {directory} sends no such file")
    asked_about = {name: path for name, path in files.items() if name not in sent_all_the_same}
    _refuse(
        [name for name, path in asked_about.items() if is_secret(path)],
        "looks like a secret, and whoever sees the cluster would see it",
        "name it in .rayignore and give it to the nodes by their environment",
    )
    _refuse(
        [
            f"{name} ({_mebibytes(path.stat().st_size)})"
            for name, path in asked_about.items()
            if path.stat().st_size > LARGEST_FILE
        ],
        f"is larger than {_mebibytes(LARGEST_FILE)}",
        "name it in .rayignore, put it where all nodes read it (s3://...) and name that in the recipe",
    )
    if directory != code:
        for ours in CODE:
            if any(name.startswith(f"{ours}/") for name in files):
                raise UnsendableError(
                    f"{directory}/{ours} has the name of a package of embedloom, which is sent beside it; rename it"
                )
            files |= {str(path.relative_to(code)): path for path in _walk(code / ours, [])}
    package = Package(files)
    if package.size > LARGEST_PACKAGE:
        largest = sorted(files, key=lambda name: -files[name].stat().st_size)[:5]
        raise UnsendableError(
            f"{directory} would send {_mebibytes(package.size)}, more than {_mebibytes(LARGEST_PACKAGE)}; most of it: "
            f"{', '.join(largest)}. Name in .rayignore what the workflow does not read"
        )
    return package


def is_secret(path: Path) -> bool:
    """Whether a file is one by its name, or by a key that stands in it."""
    name = path.name.lower()
    if any(fnmatch.fnmatch(name, pattern) for pattern in _NOT_SECRET):
        return False
    if any(fnmatch.fnmatch(name, pattern) for pattern in _SECRET_NAMES):
        return True
    return path.stat().st_size <= _READ_FOR_SECRETS and _SECRET_TEXT.search(path.read_bytes()) is not None


def _walk(folder: Path, ignored: list[Callable[[Path], bool]]) -> Iterator[Path]:
    """The files below a folder that no ignore file on the way names. Links to folders are not followed."""
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    ignored = ignored + get_excludes_from_ignore_files(folder, include_gitignore=True, logger=_log)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name in _NEVER or any(matches(path) for matches in ignored):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path, ignored)
        elif entry.is_file():
            yield path


def _refuse(names: list[str], what: str, instead: str) -> None:
    if names:
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        raise UnsendableError(f"{shown}: {what}; {instead}, or send it all the same by --send NAME")


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
