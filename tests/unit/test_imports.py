"""The direction of flow: a module imports only what stands above it; light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "ticketry"

# One row a line; a module may import rows above its own, and its own row.
ROWS = [
    ["plugin", "errors"],
    ["combination", "controls"],
    ["searchspec", "recipes"],
    ["config", "files", "forms", "terminal"],
    ["yamlfile"],
    ["ticketform"],
    ["ticketfolder"],
    ["hub"],
    ["options", "records", "metrics"],
    ["verdict"],
    ["core"],
    ["parallel", "maskfile", "assets", "corpora", "imagesets", "fetch"],
    ["weightsfile"],
    ["models"],
    ["runtime"],
    ["packed"],
    ["tasks", "enforce"],
    ["companions", "course"],
    ["training", "checkpoint"],
    ["store"],
    ["steps"],
    ["bench", "recordform"],
    ["sensitivity"],
    ["pruning", "arms"],
    ["kinds"],
    ["worker", "execute", "launch", "search"],
    ["verification", "runs"],
    ["plan", "connectivity"],
    ["evidence", "card"],
    ["ticket"],
    ["shelf", "callback", "given", "speed", "bank", "export"],
    ["scene", "describe", "report", "console", "reproduce", "comparison"],
    ["outcome", "pace"],
    ["jobs"],
    ["connecting", "studies", "pretrain"],
    ["api"],
    ["flags", "cli_shared"],
    [
        "cli_tickets",
        "cli_compare",
        "cli_connect",
        "cli_study",
        "cli_models",
        "cli_runtime",
        "cli_packed",
    ],
    ["cli"],
]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}

# Imports upwards that are part of the design, with the reason.
ALLOWED = {
    ("plugin", "packed"),  # registers it when transformers asks; imports nothing before
    ("options", "tasks"),  # a named task says what its usual recipe is; asked when it is needed
}


def part_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("ticketry."):
                found.add(name.split(".")[1])
    return found


def modules() -> list[Path]:
    return [p for p in sorted(SOURCE.rglob("*.py")) if p.parent != SOURCE or p.stem != "__init__"]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_module_imports_only_rows_above_it(path: Path) -> None:
    part = part_of(path)
    assert part in RANK, f"{part} has no row: give it one in this test and in architecture terms"
    upwards = {
        name for name in imports_of(path) if RANK[name] > RANK[part] and (part, name) not in ALLOWED
    }
    assert not upwards


def test_the_check_sees_an_import_upwards(tmp_path: Path) -> None:
    module = tmp_path / "errors.py"
    module.write_text("def f():\n    from ticketry.cli import main\n")
    assert imports_of(module) == {"cli"}
    assert RANK["cli"] > RANK["errors"]


@pytest.mark.parametrize(
    ("library", "owner"),
    [("datasets", "tasks"), ("transformers", "models")],
)
def test_model_classes_and_datasets_are_imported_in_one_place(library: str, owner: str) -> None:
    # transformers beside its model classes (versions, collators, the plug-in) is allowed in these.
    others = {"transformers": {"scene", "callback", "packed"}, "datasets": set()}[library]
    for path in modules():
        if part_of(path) == owner or part_of(path) in others:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            assert library not in {name.split(".")[0] for name in names}, path


def test_no_source_file_is_over_400_lines() -> None:
    long = {
        path.name: lines
        for path in SOURCE.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_the_command_line_starts_without_heavy_libraries() -> None:
    code = (
        "import sys, ticketry.cli, ticketry.tasks.registry, ticketry.options\n"
        "heavy = {'torch', 'transformers', 'datasets', 'scipy', 'sklearn', 'pandas', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
