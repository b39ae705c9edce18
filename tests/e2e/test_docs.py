"""The pages under docs/ do what they say: their examples run, each page in a folder of its own.

In the folder lie a tiny pre-trained model ``my-model`` and a labelled table ``reviews.csv``.

| block | what happens |
|---|---|
| ``python`` | runs, in one namespace a page |
| ``sh`` | each line is a ``ticketry`` command; runs in this process, trainings cut short |
| ``yaml`` whose first line is a comment with a file's name | is written to that file |
| ``text`` | is what the block before it printed; a line ``…`` stands for any lines |

Blocks of other languages (``console``, ``csv``, ``json``, ``none``) are only shown.
"""

from __future__ import annotations

import contextlib
import copy
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

DOCS = Path(__file__).parents[2] / "docs"
OTHERS = {"adding-a-task.md", "adding-an-architecture.md"}  # tests/unit has a test of each
SHOWN = {"console", "csv", "json", "none", "{toctree}", "{eval-rst}"}
PAGES = sorted(path.name for path in DOCS.glob("*.md") if path.name not in OTHERS)

CUT = {
    "find": ["--workers", "0", "--epochs", "1", "--replicates", "2"],
    "verify": ["--workers", "0", "--epochs", "1", "--replicates", "2"],
    "train": ["--workers", "0", "--epochs", "1"],
    "connect": ["--workers", "0", "--epochs", "1"],
    "study": ["--workers", "0"],
}
"""Added to commands, so that they take a second; nothing else is changed."""


class Blocks:
    """Runs the blocks of one page in order, in the current folder."""

    def __init__(self) -> None:
        self.namespace: dict[str, Any] = {"__name__": "docs"}
        self.printed: str | None = None

    def run(self, language: str, text: str, where: str) -> None:
        """Run one block; an exception is the page's fault."""
        if language == "python":
            self._keep(lambda: exec(compile(text, where, "exec"), self.namespace))
        elif language == "sh":
            self._keep(lambda: self._shell(text))
        elif language == "yaml":
            if name := re.match(r"# ([\w.-]+)", text):
                Path(name[1]).write_text(text, encoding="utf-8")
        elif language == "text":
            self._compare(text)
        else:
            assert language.split(" ")[0] in SHOWN, (
                f"a block of {language!r} is neither run nor shown"
            )

    def _keep(self, run: Callable[[], None]) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            run()
        self.printed = out.getvalue()

    def _shell(self, text: str) -> None:
        for line in text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                self._ticketry(words)

    def _ticketry(self, words: list[str]) -> None:
        from ticketry import cli

        assert words[0] == "ticketry", f"{words[0]} is not run here: make it a console block"
        before, sys.argv = sys.argv, [*words, *CUT.get(words[1], [])]
        code: Any = None
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                cli.main()
        except SystemExit as stop:
            code = stop.code
        finally:
            sys.argv = before
        assert not code, f"{shlex.join(words)}\n{said.getvalue()}"

    def _compare(self, text: str) -> None:
        assert self.printed is not None, "a text block follows no block that prints"
        found = "\n".join(line.rstrip() for line in self.printed.splitlines()).strip()
        parts = [part.strip("\n") for part in re.split(r"(?m)^…$", text)]
        pattern = r"[\s\S]*".join(map(re.escape, parts))
        assert re.fullmatch(pattern.strip(), found), f"printed:\n{found}"


def blocks_of(page: str) -> list[tuple[str, str, int]]:
    """Return (language, text, line) of each fenced block."""
    tokens = MarkdownIt("commonmark").parse((DOCS / page).read_text(encoding="utf-8"))
    return [
        (token.info.strip(), token.content, token.map[0] + 1)
        for token in tokens
        if token.type == "fence" and token.map
    ]


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Take out again what pages add to registries: other tests run in this process."""
    from ticketry.core.score import CRITERIA
    from ticketry.models.families import FAMILIES
    from ticketry.tasks.readers import LAYOUTS
    from ticketry.tasks.registry import TASKS

    kept: list[tuple[Any, Any]] = []
    for registry in (CRITERIA, FAMILIES, LAYOUTS, TASKS):
        kept.append((registry, copy.copy(registry)))
    yield
    for registry, before in kept:
        if isinstance(registry, dict):
            registry.clear()
            registry.update(before)
        elif isinstance(registry, list):
            registry[:] = before


@pytest.mark.parametrize("page", PAGES)
def test_every_example_of_the_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny import reviews_csv, tiny_bert

    monkeypatch.chdir(tmp_path)
    found = blocks_of(page)
    if {language for language, _, _ in found} & {"python", "sh"}:
        tiny_bert(Path("my-model"))
        reviews_csv(Path("reviews.csv"), rows=120)
    running = Blocks()
    for language, text, line in found:
        where = f"docs/{page}:{line}"
        try:
            running.run(language, text, where)
        except Exception as error:
            error.add_note(f"in the {language} block at {where}")
            raise


def test_a_block_that_fails_or_prints_something_else_is_seen() -> None:
    running = Blocks()
    with pytest.raises(ZeroDivisionError):
        running.run("python", "1 / 0", "here")
    running.run("python", "print('a'); print('b'); print('c')", "here")
    running.run("text", "a\n…\nc\n", "here")
    for wrong in ("a\nc\n", "a\nb\n", "A\n…\nc\n"):
        with pytest.raises(AssertionError, match="printed:"):
            running.run("text", wrong, "here")
    with pytest.raises(AssertionError, match="--sparsity is 2"):
        running.run("sh", "ticketry find --sparsity 2", "here")
    with pytest.raises(AssertionError, match="neither run nor shown"):
        running.run("pyhton", "1 / 0", "here")


def test_every_page_has_a_place_in_the_navigation() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for path in DOCS.glob("*.md"):
        assert path.stem == "index" or re.search(rf"(?m)^{path.stem}$", index), path.name
