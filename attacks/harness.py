"""What every attack shares: artifacts to spoil, and a child process with little memory and time.

An attack is a function that gets a :class:`Place`, builds something hostile there and returns the
command line of ``ticketry`` that a victim would type (or a function to call in the child).
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]
ARTIFACT = ROOT / "tests" / "artifact" / "v1"

MORE_BYTES = 2 << 30
LIMIT_S = 120.0
REFUSED, HARMLESS, OPEN = "refused", "harmless", "NOT PROTECTED"


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: the function's.
        what: what is hostile, from its docstring.
        expect: ``refused`` (exit code 2 and a message), ``harmless`` (the command goes on and its
            check finds no harm) or ``NOT PROTECTED`` (it works; said honestly).
        says: words of the message.
        build: builds it and returns the door.
        check: finds harm after the door was tried: returns what, or None.
    """

    name: str
    what: str
    expect: str
    says: str
    build: Callable[[Place], Any]
    check: Callable[[Place, str], str | None] | None


ATTACKS: dict[str, Attack] = {}


def attack(
    expect: str, says: str, check: Callable[[Place, str], str | None] | None = None
) -> Callable[[Callable[[Place], Any]], Callable[[Place], Any]]:
    """Register an attack; its docstring says what is hostile."""

    def register(build: Callable[[Place], Any]) -> Callable[[Place], Any]:
        what = " ".join((build.__doc__ or "").split()).rstrip(".")
        ATTACKS[build.__name__] = Attack(build.__name__, what, expect, says, build, check)
        return build

    return register


class Place:
    """A folder for one attack, and fresh copies of valid artifacts in it."""

    def __init__(self, folder: Path, shared: Path) -> None:
        self.folder = folder
        self.shared = shared
        self.canary = folder / "canary"
        """Made by any code that a hostile file gets executed."""
        self.victim = folder / "victim.txt"
        self.victim.write_text("precious")

    @property
    def model(self) -> Path:
        """A copy of a tiny BERT's folder."""
        return self._copy("bert")

    @property
    def reviews(self) -> Path:
        """A copy of a CSV of labelled sentences."""
        return Path(shutil.copy(self.shared / "reviews.csv", self.folder / "reviews.csv"))

    @property
    def ticket(self) -> Path:
        """A copy of a valid ticket."""
        return Path(shutil.copytree(ARTIFACT, self.folder / "ticket"))

    @property
    def run(self) -> Path:
        """A copy of a finished run (of the model and the table in the shared folder)."""
        return self._copy("run")

    def _copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.shared / name, self.folder / name, symlinks=True))

    def find(self, *more: str, model: Path | None = None, data: Path | None = None) -> list[str]:
        """Return the command line of a small search."""
        return [
            "find", "--model", str(model or self.shared / "bert"),
            "--data", str(data or self.shared / "reviews.csv"),
            "--text-column", "review", "--label-column", "verdict", "--sparsity", "0.4",
            "--levels", "1", "--replicates", "2", "--controls", "none", "--epochs", "1",
            "--max-length", "16", "--workers", "0", *more,
        ]  # fmt: skip


def markup_in(path: Path) -> str | None:
    """Return which markup of an attack stands in a page or card as markup, outside code blocks."""
    text = re.sub(r"(?ms)^(````*)\w*\n.*?^\1$", "", path.read_text())
    found = re.search(r"(?i)<(script|img)|(?<!\\)\]\(javascript", text)
    return f"{found[0]!r} got into {path.name}" if found else None


def put_json(path: Path, value: Any) -> None:
    """Write JSON as anyone might, without our care."""
    path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Edit a JSON file in place."""
    value = json.loads(path.read_text())
    put_json(path, change(value) or value)


def seal(ticket: Path, **changes: Any) -> Path:
    """Make a ticket's hashes right again after its files were edited."""
    from ticketry.files import sha256_file

    def right(config: Any) -> Any:
        config["files"] = {name: sha256_file(ticket / name) for name in config["files"]}
        return {**config, **changes}

    edit_json(ticket / "ticket_config.json", right)
    return ticket


def steps_of(run: Path, name: str) -> Path:
    """Return the stored output of the step of that name."""
    plan = json.loads((run / "plan.json").read_text())
    key = next(step["key"] for step in plan["steps"] if step["name"] == name)
    return run / "store" / "objects" / key[:2] / key


def seal_step(folder: Path) -> None:
    """Make a stored step's hashes right again after its files were edited."""
    from ticketry.config import fingerprint
    from ticketry.files import sha256_file

    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    for name, entry in manifest["files"].items():
        data = folder / name
        entry |= {"sha256": sha256_file(data), "bytes": data.stat().st_size}
    put_json(folder / "manifest.json", {**manifest, "sha256": fingerprint(manifest)})


def evil_pickle(canary: Path) -> bytes:
    """A pickle that makes a file when it is opened."""
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {canary}",)

    return pickle.dumps(Evil())


def shared_artifacts(folder: Path) -> Path:
    """Make the model, the table and the finished run that attacks spoil copies of."""
    from ticketry import find
    from tiny import reviews_csv, tiny_bert

    model, data = tiny_bert(folder / "bert"), reviews_csv(folder / "reviews.csv")
    find(str(model), data=str(data), text_column="review", label_column="verdict", sparsity=0.4,
         levels=1, replicates=2, controls="none", epochs=1.0, max_length=16, workers=0,
         out=folder / "run")  # fmt: skip
    return folder


@dataclass(frozen=True)
class Outcome:
    """How an attack ended."""

    attack: Attack
    found: str
    said: str
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Whether it ended as the log says."""
        return self.found == self.attack.expect


def carry_out(attack: Attack, folder: Path, shared: Path) -> Outcome:
    """Build an attack, try its door in a child process, and say how it ended."""
    place = Place(folder, shared)
    door = attack.build(place)
    started = time.monotonic()
    code, said = _in_child(door, folder)
    seconds = time.monotonic() - started
    harm = _harm(place, said) or (attack.check(place, said) if attack.check else None)
    if harm:
        return Outcome(attack, f"HARM: {harm}", said, seconds)
    if code not in (0, 2) or "Traceback" in said:
        return Outcome(attack, f"FAULT: exit code {code}", said, seconds)
    if attack.says not in " ".join(said.split()):
        return Outcome(attack, f"FAULT: {attack.says!r} was not said", said, seconds)
    found = REFUSED if code == 2 else attack.expect if attack.expect != REFUSED else "accepted"
    return Outcome(attack, found, said, seconds)


def _harm(place: Place, said: str) -> str | None:
    if place.canary.exists():
        return "code was executed"
    if not place.victim.is_file() or place.victim.read_text() != "precious":
        return "a file outside was changed"
    # "\r" counts as well: it lets a message overwrite the line before it.
    if any(c < " " and c not in "\n\t" for c in said) or "\x9b" in said or "\u202e" in said:
        return "control characters reached the terminal"
    return None


def _in_child(door: Any, folder: Path) -> tuple[int, str]:
    """Call a door in a fork of this process, which has imported what is large."""
    log = folder / "said.log"
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.chdir(folder)
            _limit_memory()
            code = _call(door)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), log.read_text(errors="surrogateescape")
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 124, log.read_text(errors="surrogateescape") + "\nit took too long"


def _call(door: Any) -> int:
    if callable(door):
        from ticketry.errors import TicketryError

        try:
            door()
        except TicketryError as error:
            print(f"error: {error}".encode("ascii", "backslashreplace").decode())
            return error.exit_code
        return 0
    from ticketry.cli import main

    sys.argv = ["ticketry", *door]
    try:
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@functools.cache
def warm_up() -> None:
    """Import once what every child needs."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
    import torch

    for name in ("transformers.models.bert.modeling_bert", "ticketry.cli", "ticketry.jobs"):
        importlib.import_module(name)
    torch.set_num_threads(1)


def log_lines(attacks: Mapping[str, Attack]) -> list[str]:
    """Return a log as a Markdown table."""
    lines = ["| attack | outcome | what is said |", "|---|---|---|"]
    for attack in attacks.values():
        outcome = f"**{attack.expect}**" if attack.expect == OPEN else attack.expect
        says = attack.says.replace("|", "\\|")
        says = f"`{says}`" if says else "—"
        what = attack.what.replace("|", "\\|")
        lines.append(f"| {what} (`{attack.name}`) | {outcome} | {says} |")
    return lines
