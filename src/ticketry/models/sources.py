"""From a model's name to a local folder in the Hugging Face layout; torch-free.

A base is a packaged one (``minilm``, ``lite0``), a folder, or a hub id. A hub id is downloaded into
the hub's own cache and pinned to the commit that was found, so later loads see the same files.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ticketry.errors import ModelError
from ticketry.models.packaged import PACKAGED, fetch_packaged
from ticketry.models.sizes import check_sizes

CONFIG_FILE = "config.json"
PACKED_FILE = "packed.safetensors"
"""Of a packed model (:mod:`ticketry.packed`), which transformers reads after `import ticketry`."""
WEIGHTS_FILES = ("model.safetensors", "model.safetensors.index.json", PACKED_FILE)
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
PROJECTION_FILE = "projection.safetensors"
"""The projection head beside a base that `ticketry pretrain` wrote."""
TIMM = "timm_wrapper"
"""What transformers calls any model of timm."""

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin", "model.pt")
_PATTERNS = (
    CONFIG_FILE,
    *WEIGHTS_FILES,
    "model-*.safetensors",
    PROJECTION_FILE,
    *TOKENIZER_FILES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class BaseRef:
    """A base model that was found.

    Attributes:
        name: as the user gave it.
        revision: the hub commit; ``None`` for the packaged model and for a folder.
        path: the local folder that holds it.
    """

    name: str
    revision: str | None
    path: Path


def resolve(
    name: str, revision: str | None = None, *, say: Callable[[str], None] | None = None
) -> BaseRef:
    """Find a base model and check that its folder can be used.

    Args:
        name: of a packaged model, a folder, or a hub id.
        revision: branch, tag or commit of a hub id.
        say: given a line about a download.

    Raises:
        ModelError: nothing of that name, no safetensors weights, no usable ``config.json``, or the
            hub is out of reach.
    """
    folder = Path(name).expanduser()
    is_folder = folder.is_dir()
    if revision is not None and (name in PACKAGED or is_folder):
        raise ModelError(
            f"--revision {revision} was given for {name!r}, which is not a hub id; "
            "drop it, or give a hub id as --model."
        )
    if is_folder:
        _check_folder(name, folder)
        return BaseRef(name, None, folder.resolve())
    if name in PACKAGED:
        path = fetch_packaged(name, say)
        _check_folder(name, path)
        return BaseRef(name, None, path)
    if folder.is_file():
        raise ModelError(
            f"--model {name!r} is a file; expected the folder that holds config.json and "
            "model.safetensors."
        )
    if _is_path(name):
        raise ModelError(f"there is no folder {name!r}.{_hint(name)}{_what_to_give()}")
    path = _download(name, revision, say)
    _check_folder(name, path)
    # The hub's cache names a snapshot's folder after its commit.
    return BaseRef(name, path.name if _COMMIT.fullmatch(path.name) else revision, path)


def source_files(base: BaseRef) -> list[Path]:
    """Return the files of a base whose change would change a run, sorted."""
    found = {path for pattern in _PATTERNS for path in base.path.glob(pattern) if path.is_file()}
    return sorted(found)


def read_config(base: BaseRef) -> dict[str, Any]:
    """Return the base's ``config.json``.

    Raises:
        ModelError: it is not a JSON object with a ``model_type``.
    """
    return _read_config(base.name, base.path)


def has_tokenizer(base: BaseRef) -> bool:
    """Say whether the folder holds a tokenizer's vocabulary."""
    return any((base.path / name).is_file() for name in TOKENIZER_FILES)


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{CONFIG_FILE} of {name!r} cannot be read ({error}); expected the JSON that "
            "save_pretrained writes."
        ) from error
    if isinstance(config, dict) and "model_type" not in config and "architecture" in config:
        config["model_type"] = TIMM  # timm's own layout, which transformers reads too
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(
            f"{CONFIG_FILE} of {name!r} names no model_type; expected a transformers model's "
            'configuration, such as one with "model_type": "bert", or a timm model\'s, which has '
            '"architecture".'
        )
    return config


def _check_folder(name: str, folder: Path) -> None:
    """Refuse a folder that is no model, or whose weights would have to be unpickled."""
    if not (folder / CONFIG_FILE).is_file():
        raise ModelError(
            f"the folder {name!r} holds no {CONFIG_FILE}; expected a model in the Hugging Face "
            f"layout, as save_pretrained writes it.{_hint(name)}"
        )
    config = _read_config(name, folder)
    check_sizes(name, config, folder)
    if any((folder / weights).is_file() for weights in WEIGHTS_FILES):
        return
    pickles = [pickle for pickle in _PICKLES if (folder / pickle).is_file()]
    if pickles:
        raise ModelError(
            f"the folder {name!r} holds its weights only as {pickles[0]}, a pickle, which can run "
            "code when it is read; expected model.safetensors. If you trust it, convert it once:\n"
            '  python -c "from transformers import AutoModel, AutoTokenizer as T; '
            f"s, d = {str(folder)!r}, {folder.name + '-safetensors'!r}; "
            "AutoModel.from_pretrained(s).save_pretrained(d); "
            'T.from_pretrained(s).save_pretrained(d)"'
        )
    raise ModelError(
        f"{name!r} holds no weights in the safetensors format; expected model.safetensors or "
        "model.safetensors.index.json. Load it in transformers and save it again with "
        "save_pretrained, then give that folder."
    )


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or not name


def _hint(name: str) -> str:
    """Name the nearest models that are really there: the packaged one and folders beside it."""
    wanted = Path(name).expanduser()
    beside: dict[str, str] = {packaged: packaged for packaged in PACKAGED}
    try:
        for path in sorted(wanted.parent.iterdir())[:1000]:
            if (path / CONFIG_FILE).is_file():
                beside[path.name] = str(wanted.parent / path.name)
    except OSError:
        pass
    close = difflib.get_close_matches(wanted.name, beside, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(beside[c]) for c in close)}?" if close else ""


def _what_to_give() -> str:
    names = " or ".join(map(repr, PACKAGED))
    return f" Give {names}, a folder with config.json and model.safetensors, or a hub id."


def _download(name: str, revision: str | None, say: Callable[[str], None] | None) -> Path:
    """Fetch what a model needs into the hub's cache; return the snapshot's folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetch(local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(_PATTERNS),
                local_files_only=local_files_only,
            )
        )

    if revision is not None and _COMMIT.fullmatch(revision):
        # A commit never changes: what the cache holds of it needs no network.
        try:
            path = fetch(local_files_only=True)
            if any((path / weights).is_file() for weights in WEIGHTS_FILES):
                return path
        except (LocalEntryNotFoundError, HFValidationError):
            pass
    if say is not None:
        say(f"looking for {name} on the Hugging Face hub")
    try:
        return fetch(local_files_only=False)
    except GatedRepoError as error:
        reason = "the hub has it, but gated: accept its terms there and log in with `hf auth login`"
        cause: Exception = error
    except RepositoryNotFoundError as error:
        reason = "the hub has no model of that name (a private one needs `hf auth login`)"
        cause = error
    except RevisionNotFoundError as error:
        reason = f"the hub has it, but no revision {revision!r} of it"
        cause = error
    except HFValidationError as error:
        reason = "it is not a valid hub id (expected NAME or OWNER/NAME)"
        cause = error
    except Exception as error:  # the errors of the hub's HTTP library have no base of their own
        reason = (
            "it is not in the hub's local cache, and the hub cannot be reached "
            f"({_first_line(error)})"
        )
        cause = error
    raise ModelError(
        f"model {name!r} was not found: there is no folder of that name, and {reason}."
        f"{_hint(name)}{_what_to_give()}"
    ) from cause


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
