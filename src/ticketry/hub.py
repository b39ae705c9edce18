"""Files to and from the Hugging Face hub, and its refusals in one sentence; torch-free.

What lies in a repository is its author's: only files of known names and sizes are fetched.
"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ticketry.errors import HubError
from ticketry.ticketfolder import CARD_FILE, CONFIG_FILE, MOST_BYTES, check_subfolder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TAG = "ticketry"
"""What a ticket's model card says, and how tickets are found on the hub."""

MESSAGE = "Upload a lottery ticket"
CARD_PLACE = "path/or/hub-id/of/this/ticket"
"""Stands in a card for the ticket's own address, until it has one."""

_MADE_BY_THE_HUB = frozenset({".gitattributes"})
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True)
class Destination:
    """How a ticket is uploaded; the fields are the arguments of ``Ticket.push_to_hub``."""

    private: bool | None = None
    token: str | bool | None = None
    commit_message: str = MESSAGE
    revision: str | None = None
    create_pr: bool = False


def fetch(
    repo_id: str,
    most_bytes: Mapping[str, int],
    *,
    needed: str,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    quiet: bool = False,
) -> Path:
    """Bring files of a model repository into the hub's cache.

    Args:
        repo_id: ``"user/name"``.
        most_bytes: the names of the files to fetch, and the most bytes of each.
        needed: the file without which nothing is fetched.
        revision: a branch, tag or commit; ``main`` by default.
        subfolder: where in the repository the files lie.
        token: for the hub.
        local_files_only: use the cache and never ask the hub.
        quiet: without a progress bar.
    Returns:
        The folder of the repository's snapshot.

    Raises:
        HubError: says why the hub does not give it.
    """
    from huggingface_hub import HfApi, snapshot_download

    if subfolder is not None:
        check_subfolder(subfolder)
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    with hub_errors(f"no ticket at {repo_id!r}: it is not a folder here, and", revision=revision):
        if not local_files_only:
            sizes = _sizes(HfApi(token=token), repo_id, revision)
            if sizes is not None:
                _check_sizes(repo_id, sizes, {prefix + n: m for n, m in most_bytes.items()})
                if prefix + needed not in sizes:
                    raise HubError(
                        f"no ticket at {repo_id!r}: the hub has this repository, but it holds no "
                        f"{prefix + needed}. Check the name, the revision and the subfolder."
                    )
        with _no_bars() if quiet else contextlib.nullcontext():
            return Path(
                snapshot_download(
                    repo_id,
                    revision=revision,
                    token=token,
                    local_files_only=local_files_only,
                    allow_patterns=[glob.escape(prefix + name) for name in most_bytes],
                )
            )


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _sizes(api: HfApi, repo_id: str, revision: str | None) -> dict[str, int | None] | None:
    """Return the sizes of a repository's files; None where the hub is down or out of reach."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        info = api.model_info(repo_id, revision=revision, files_metadata=True)
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return None  # the cache may hold it
    except (HTTPError, ConnectionError):
        return None
    return {file.rfilename: file.size for file in info.siblings or ()}


def _check_sizes(
    repo_id: str, sizes: Mapping[str, int | None], most_bytes: Mapping[str, int]
) -> None:
    for name, most in most_bytes.items():
        size = sizes.get(name)
        if size is not None and size > most:
            raise HubError(
                f"{name} of {repo_id!r} has {size:,} bytes; at most {most:,} are fetched."
            )


def push(files: Mapping[str, bytes], repo_id: str, destination: Destination) -> str:
    """Commit a ticket's files to a model repository, which is made if it is not there.

    Files of an older ticket that the new one lacks are deleted in the same commit; any other file
    stays. The commit is refused if somebody else's came in between.

    Args:
        files: name -> content, ``ticket_config.json`` among them.
        repo_id: ``"user/name"``.
        destination: how and where.
    Returns:
        The commit's address.

    Raises:
        HubError: says why the hub does not take it; also for a repository that is neither empty
            nor a ticket's.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    to = destination
    api = HfApi(token=to.token, library_name="ticketry")
    with hub_errors(f"nothing was pushed to {repo_id!r}:", revision=to.revision):
        try:
            head = api.model_info(repo_id)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            api.create_repo(repo_id, private=to.private)
            head = api.model_info(repo_id)
        _check_empty_or_ticket(repo_id, head)
        if to.revision is not None:
            head = _branch(api, repo_id, to.revision)
            _check_empty_or_ticket(repo_id, head)
        there = _names(head)
        operations: list[Any] = [
            CommitOperationAdd(name, _addressed(name, data, repo_id))
            for name, data in sorted(files.items())
        ]
        operations += [
            CommitOperationDelete(name) for name in sorted((there & set(MOST_BYTES)) - set(files))
        ]
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=to.commit_message,
            revision=to.revision,
            create_pr=to.create_pr,
            parent_commit=head.sha,
        )
        return str(commit.commit_url)


def _branch(api: HfApi, repo_id: str, revision: str) -> Any:
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return api.model_info(repo_id, revision=revision)
    except RevisionNotFoundError:
        if revision.startswith("refs/"):
            raise
        api.create_branch(repo_id, branch=revision)
        return api.model_info(repo_id, revision=revision)


def _names(info: Any) -> set[str]:
    return {file.rfilename for file in info.siblings or ()}


def _check_empty_or_ticket(repo_id: str, info: Any) -> None:
    others = sorted(_names(info) - _MADE_BY_THE_HUB)
    if others and CONFIG_FILE not in others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise HubError(
            f"nothing was pushed to {repo_id!r}: this repository holds {shown}, but no ticket, and "
            "a ticket would overwrite files of it. Choose another name, or empty it first."
        )


def _addressed(name: str, data: bytes, repo_id: str) -> bytes:
    """Put the ticket's address into its card."""
    return data.replace(CARD_PLACE.encode(), repo_id.encode()) if name == CARD_FILE else data


def find_repositories(author: str, *, most: int) -> list[str]:
    """Return the ids of a user's model repositories that are tagged as tickets, sorted.

    Args:
        author: a user or an organisation.
        most: the most repositories to ask for.

    Raises:
        HubError: the hub is out of reach, or refuses.
    """
    from huggingface_hub import HfApi

    with hub_errors(f"cannot list the tickets of {author!r}: it is not a folder here, and"):
        return sorted(i.id for i in HfApi().list_models(author=author, filter=TAG, limit=most))


@contextlib.contextmanager
def hub_errors(what: str, *, revision: str | None = None) -> Iterator[None]:
    """Turn every refusal of the hub into one :class:`HubError` that says what to do.

    Args:
        what: begins the message: what could not be done.
        revision: that was asked for.
    """
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except HubError:
        raise
    except (HTTPError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise HubError(f"{what} {_reason(error, revision)}") from error


def _reason(error: Exception, revision: str | None) -> str:
    """Say in one sentence why, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # a failed upload is wrapped so
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    sentences: tuple[tuple[type[Exception], str], ...] = (
        (hub.HFValidationError, "this is not a hub id; expected USER/NAME."),
        (hub.LocalTokenNotFoundError, f"no token is stored here; {_LOG_IN}."),
        (
            hub.OfflineModeIsEnabled,
            "HF_HUB_OFFLINE keeps this process off the hub; unset it.",
        ),
        (
            hub.LocalEntryNotFoundError,
            "it is not in the hub's local cache, and the hub was not asked or cannot be reached; "
            "check the name, the connection and HF_HUB_OFFLINE.",
        ),
        (
            hub.GatedRepoError,
            f"the hub has it, but gated; accept its terms on its page and {_LOG_IN}.",
        ),
        (
            hub.RepositoryNotFoundError,
            "the hub has no such repository, or hides it; check the name, and for a private one "
            f"{_LOG_IN}.",
        ),
        (
            hub.RevisionNotFoundError,
            f"the hub's repository has no revision {revision!r}; name a branch, tag or commit.",
        ),
    )
    for kind, sentence in sentences:
        if isinstance(error, kind):
            return sentence
    if isinstance(error, hub.HfHubHTTPError):
        return _refusal(error.response.status_code, first)
    if isinstance(error, hub.HTTPError | ConnectionError | TimeoutError):
        return f"the hub at {constants.ENDPOINT} cannot be reached ({first}); try again later."
    if isinstance(error, OSError) and error.errno is not None:
        return f"a file cannot be read or written here ({first}); look at the disk and HF_HOME."
    return f"the hub's answer cannot be used ({first})."


def _refusal(status: int, first: str) -> str:
    if status in (401, 403):
        return (
            f"the hub refuses ({status}): a token with the right to do this is needed; {_LOG_IN}."
        )
    if status in (409, 412):
        return f"the repository changed meanwhile ({status}); look at it, and run this again."
    if status == 429 or status >= 500:
        return f"the hub is busy or down ({status}); try again later."
    return f"the hub refuses: {first}"
