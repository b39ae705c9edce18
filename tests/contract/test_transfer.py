"""Tickets on other tasks: the matrix, what is shared, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import ticketry
from ticketry import Ticket
from ticketry.errors import ConfigError, TicketError
from ticketry.studies.running import StudyPlace
from ticketry.studies.transfer import Wanted, run_transfer

RECIPE = {"recipe": "paper", "epochs": 1, "batch_size": 8, "max_length": 16}


@pytest.fixture(scope="module")
def tasks(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tasks")
    lines = reviews.read_text().splitlines()
    (folder / "a.csv").write_text(reviews.read_text())
    (folder / "b.csv").write_text("\n".join([lines[0], *lines[:40:-1]]) + "\n")
    for name in "ab":
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\ndata: {name}.csv\ntext_column: review\nlabel_column: verdict\n"
        )
    return str(folder / "a.yaml"), str(folder / "b.yaml")


@pytest.fixture(scope="module")
def tickets(
    tiny_model: Path, tasks: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Ticket]:
    """Two tickets of one task, from two searches."""
    folder = tmp_path_factory.mktemp("tickets")
    return {
        f"seed-{seed}": ticketry.find(
            str(tiny_model), tasks[0], out=folder / str(seed), seed=seed, workers=0, levels=1,
            sparsity=0.5, replicates=2, controls="none", **RECIPE,
        )
        for seed in (7, 8)
    }  # fmt: skip


def test_a_matrix_of_tickets_and_tasks(
    tickets: dict[str, Ticket], tasks: tuple[str, str], tmp_path: Path
) -> None:
    a, b = tasks
    wanted = Wanted(tasks, RECIPE, fine_tunings=2)
    result = run_transfer(tickets, wanted, StudyPlace(tmp_path / "out", workers=0))
    assert result.complete
    cells = {(c["arm"], c["source"], c["target"]): c for c in result.summary["cells"]}
    # a's own ticket was brought along; b's was searched for, at the same sparsity.
    assert set(cells) == {
        ("dense", None, a), ("dense", None, b),
        ("ticket", a, a), ("ticket", a, b), ("ticket", b, b),
    }  # fmt: skip
    assert all(len(cell["scores"]) == 2 for cell in cells.values())
    moved = cells["ticket", a, b]["against"]
    assert {name: moved[name]["units"] for name in moved} == {"dense": 2, "same-task": 2}
    own = next(r for r in result.summary["universality"] if r["source"] == a)
    assert set(own["readings"]) == {"dense", "same-task"}
    assert set(own["readings"]["same-task"]["targets"]) == {b}
    # The same call does nothing again; without the own tickets it is another run.
    again = run_transfer(tickets, wanted, StudyPlace(tmp_path / "out", workers=0))
    assert again.price["trainings_left"] == 0
    assert again.summary == result.summary
    less = dataclasses.replace(wanted, same_task=False)
    place = StudyPlace(tmp_path / "less", store=tmp_path / "out" / "store", workers=0)
    shared = run_transfer(tickets, less, place)
    # Dense and the tickets' fine-tunings are read from the store that both share.
    searches = 2 + 2 * 2  # b's two searches, and two fine-tunings of what each found
    assert shared.price["trainings"] == result.price["trainings"] - searches
    assert all(row["readings"].keys() == {"dense"} for row in shared.summary["universality"])


def test_one_ticket_speaks_for_itself(
    tickets: dict[str, Ticket], tasks: tuple[str, str], tmp_path: Path
) -> None:
    one = {"seed-7": tickets["seed-7"]}
    wanted = Wanted(tasks[1:], RECIPE, fine_tunings=3, same_task=False)
    result = run_transfer(one, wanted, StudyPlace(tmp_path / "out", workers=0))
    cell = next(c for c in result.summary["cells"] if c["arm"] == "ticket")
    assert cell["one_mask"]
    assert cell["against"]["dense"]["units"] == 3


def test_faults_are_said_at_once(tickets: dict[str, Ticket], tmp_path: Path) -> None:
    ticket = tickets["seed-7"]
    other = dataclasses.replace(
        ticket, base=dataclasses.replace(ticket.base, name="else", sha256="0" * 64)
    )
    place = StudyPlace(tmp_path / "out", workers=0)
    with pytest.raises(ConfigError) as caught:
        run_transfer({**tickets, "odd": other}, Wanted(("movis",), {}, fine_tunings=1), place)
    text = str(caught.value)
    assert "unknown task 'movis'" in text
    assert "--fine-tunings is 1; expected at least 2" in text
    assert "the tickets are of different base models" in text
    assert "odd is of else" in text
    with pytest.raises(ConfigError, match=r"--tasks is empty"):
        run_transfer(tickets, Wanted((), {}), place)
    assert not (tmp_path / "out").exists()


def test_a_ticket_that_does_not_fit_is_named(
    tickets: dict[str, Ticket], tasks: tuple[str, str], tmp_path: Path
) -> None:
    from tiny import tiny_bert

    other = tiny_bert(tmp_path / "other", seed=5)
    wanted = Wanted(tasks, {**RECIPE, "model": str(other)})
    with pytest.raises(TicketError, match=r"seed-7: "):
        run_transfer(tickets, wanted, StudyPlace(tmp_path / "out", workers=0))
    assert not (tmp_path / "out").exists()
