"""A registered version on a Hugging Face hub: its files as they are, and its card written for where it is then."""

import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

from components.model.hub_errors import HUB_ERRORS
from components.serving.card import CARD_FILE, README, read_card, write_card_files
from components.serving.release import Release, fetch
from components.serving.verify import check_files, check_release
from components.storage import Folder


def push(release: Release, repository: str, private: bool) -> str:
    """Upload a version as one commit, and make the repository if it is not there.

    The hub is that of `HF_ENDPOINT`, huggingface.co by default; its token `HF_TOKEN`, or that of `hf auth login`.

    Args:
        repository: `owner/name`.
        private: of a repository that is made; one that is there stays what it is.

    Returns: where the commit can be looked at.

    Raises:
        ModelRefusedError: the files are not those that were registered.
        ValueError: the hub refuses, and why.
    """
    directory = fetch(release)
    check_files(directory, release.kind)
    check_release(directory, release)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "model"
        shutil.copytree(directory, copy, copy_function=_link)
        if (copy / CARD_FILE).is_file():
            card = read_card(Folder(str(copy)))
            for name in (CARD_FILE, README):
                (copy / name).unlink(missing_ok=True)  # a link to the registered one
            write_card_files(card, repository, copy)
        api = HfApi()
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=copy,
                commit_message=f"{release.model} {release.version}",
            )
        except LocalTokenNotFoundError as error:
            raise ValueError(f"{api.endpoint} wants a token: set HF_TOKEN, or `hf auth login`") from error
        except HFValidationError as error:
            raise ValueError(f"{repository!r} is no name of a repository: write owner/name") from error
        except HUB_ERRORS as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ValueError(f"{api.endpoint} does not take {repository}: {reason}") from error
    return str(commit.commit_url)


def _link(source: str, target: str) -> None:
    Path(target).symlink_to(Path(source).resolve())
