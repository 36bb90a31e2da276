"""What the registering step leaves behind, and whether it still holds.

Asked at every submission, also of one where all else is a hit: nothing heavy is imported here.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from components.serving.errors import NotRegisteredError, TrackingUnreachableError
from components.serving.versions import CHAMPION, aliases, connect, get_version
from components.storage import Folder

_FILE = "registration.json"


@dataclass(frozen=True)
class Registration:
    """A version in the registry.

    Attributes:
        fingerprint: of weights, encoding and tokenizer, as its tag says.
        champion: the version that it was judged against; None if there was none.
    """

    name: str
    version: str
    fingerprint: str
    champion: str | None


def write_registration(output: Folder, registration: Registration) -> None:
    output.write(_FILE, json.dumps(asdict(registration), indent=2).encode())


def is_registered(output: Folder, *, tracking_uri: str | None = None, **_: Any) -> bool:
    """Whether what was written down still holds: the version is there, and was judged against the champion of
    today."""
    registration = Registration(**json.loads(output.read(_FILE)))
    try:
        client = connect(tracking_uri)
        version = get_version(client, registration.name, registration.version)
        champion = aliases(client, registration.name).get(CHAMPION)
    except (NotRegisteredError, TrackingUnreachableError):
        return False
    return version.tags.get("fingerprint") == registration.fingerprint and champion in (
        registration.champion,
        registration.version,
    )
