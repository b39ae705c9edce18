"""Tickets side by side: overlaps by hand, what is refused, and the page."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from sample_evidence import sample_evidence as evidence
from ticketry import cli
from ticketry.comparison import MOST_TICKETS, compare, lines, load_tickets
from ticketry.core.mask import Mask
from ticketry.errors import InputError, TicketError
from ticketry.report.comparing import render_comparison
from ticketry.report.likenesses import beyond
from ticketry.ticket import Base, Ticket
from webpage import check_page

BASE = Base("user/base", None, "a" * 64, {"w": "b" * 64, "v": "c" * 64}, "bert", 100)


def ticket(*kept: int, size: int = 8, base: Base = BASE, known: bool = True) -> Ticket:
    """A ticket that keeps some of eight weights of ``w`` and half of two of ``v``."""
    bits = torch.zeros(size, dtype=torch.bool)
    bits[list(kept)] = True
    mask = Mask({"w": bits, "v": torch.tensor([True, False])})
    return Ticket(mask, base, {}, evidence() if known else None)


def test_overlaps_by_hand() -> None:
    # w: A keeps 0-3, B keeps 2-5: both 2, either 6. v: both keep one of two, the same.
    # Kept 3/7. Pruned: neither in w 2, in v 1, and not both 6 + 1: 3/7.
    # By chance w shares 4·4/8 = 2, v 0.5: 2.5 / (10 − 2.5) kept; pruned (10 − 7.5) / (10 − 2.5).
    found = compare({"a": ticket(0, 1, 2, 3), "b": ticket(2, 3, 4, 5)})
    (pair,) = found["overlaps"]
    assert (pair["a"], pair["b"]) == ("a", "b")
    assert pair["kept"] == pytest.approx(3 / 7)
    assert pair["pruned"] == pytest.approx(3 / 7)
    assert pair["kept_by_chance"] == pytest.approx(2.5 / 7.5)
    assert pair["pruned_by_chance"] == pytest.approx(2.5 / 7.5)
    by_name = {layer["name"]: layer for layer in pair["layers"]}
    assert by_name["w"]["kept"] == pytest.approx(2 / 6)
    assert by_name["v"]["kept"] == 1
    assert found["layers"] == [
        {"name": "v", "density": {"a": 0.5, "b": 0.5}},
        {"name": "w", "density": {"a": 0.5, "b": 0.5}},
    ]


def named(*kept: int) -> Ticket:
    """A ticket of four tensors of eight weights: two kinds of matrix in two blocks.

    Tensors that share a name's end keep the same weights.
    """
    bits = torch.zeros(8, dtype=torch.bool)
    bits[list(kept)] = True
    names = [f"encoder.layer.{block}.{kind}.weight" for block in (0, 1) for kind in ("q", "k")]
    tensors = {name: bits if name.endswith("q.weight") else ~bits for name in names}
    return Ticket(Mask(tensors), BASE)


def test_likeness_by_kind_of_matrix_and_by_tensor_by_hand() -> None:
    # q: A keeps 0-5, B keeps 0-4 and 6: 5 of both, 7 of either. k: the complements, 2 each: 1, 3.
    found = compare({"a": named(0, 1, 2, 3, 4, 5), "b": named(0, 1, 2, 3, 4, 6)})
    (pair,) = found["overlaps"]
    kinds = {kind["name"]: kind for kind in pair["kinds"]}
    assert sorted(kinds) == ["k", "q"]
    assert (kinds["q"]["weights"], kinds["q"]["first"], kinds["q"]["both"]) == (16, 12, 10)
    assert kinds["q"]["kept"] == pytest.approx(10 / 14)
    assert kinds["q"]["kept_by_chance"] == pytest.approx(9 / 15)  # 2 · 6·6/8 of 24 − 9
    assert kinds["k"]["pruned"] == pytest.approx(10 / 14)
    assert [layer["name"] for layer in pair["layers"]] == sorted(named(0).mask)
    # Half is kept over all: 16·16/32 = 8 by density, 2·(4.5 + 0.5) = 10 by layer, 12 found.
    assert pair["chance"]["density"]["both"] == 8
    assert pair["chance"]["layers"]["both"] == 10
    assert pair["by_layers"] == pytest.approx(2 / 4)
    said = "\n".join(lines(found))
    assert "q  kept  71.4% (chance 60.0%)  pruned  33.3% (chance 14.3%)" in said
    html = render_comparison(found)
    assert html.count("<svg") == 1  # bars; a map of one pair would say nothing more
    assert "<summary>By kind of matrix</summary>" in html
    json.dumps(found, allow_nan=False)


def test_what_lies_beyond_chance_is_said() -> None:
    draw = torch.Generator().manual_seed(0)

    def drawn(share: float, of: torch.Tensor | None = None) -> Ticket:
        """Two tensors, ``share`` and a tenth kept; those kept in ``of`` stay kept."""
        tensors = {}
        for name, density in (("v", share), ("w", 0.1)):
            bits = torch.rand(20_000, generator=draw) < density
            tensors[name] = bits if of is None else bits | of
        return Ticket(Mask(tensors), BASE)

    def said(one: Ticket, two: Ticket) -> str:
        (pair,) = compare({"one": one, "two": two})["overlaps"]
        return beyond(pair)

    assert "no more is shared than by chance" in said(drawn(0.1), drawn(0.1))
    words = said(drawn(0.9), drawn(0.9))
    assert re.search("layer densities explain (99|100|101)%; [+-][0-2].[0-9] spreads", words)
    common = torch.arange(20_000) < 2_000
    words = said(drawn(0.9, common), drawn(0.9, common))
    share = re.search(r"explain (\d+)%; \+(\d+)\.\d spreads of chance are left", words)
    assert share is not None
    assert 50 < int(share[1]) < 97
    assert int(share[2]) > 20
    full = Ticket(Mask({"w": torch.ones(4, dtype=torch.bool)}), BASE)
    assert "these densities leave nothing to chance" in said(full, full)
    one = Mask({"w": torch.arange(4_000) < 2_000})
    apart = said(Ticket(one, BASE), Ticket(~one, BASE))
    assert apart == "less is shared than by chance (-63.2 spreads)"


def test_a_long_table_is_cut_in_the_terminal_and_whole_elsewhere() -> None:
    tickets = {f"t{number}": ticket(number, number + 1) for number in range(6)}
    found = compare(tickets)
    assert len(found["overlaps"]) == 15
    said = lines(found)
    assert said[-1].strip() == "… and 3 pairs more: --json and --out have all"
    html = render_comparison(found)
    check_page(html)
    assert html.count("agreement</td>") == 15
    assert "By tensor, of the first 6 of 15 pairs" in html


def test_random_masks_overlap_as_chance_says() -> None:
    draw = torch.Generator().manual_seed(0)
    masks = [
        Mask({"w": torch.rand(100_000, generator=draw) < d, "v": torch.rand(9, generator=draw) < 1})
        for d in (0.3, 0.6)
    ]
    tickets = {str(i): dataclasses.replace(ticket(0), mask=m) for i, m in enumerate(masks)}
    (pair,) = compare(tickets)["overlaps"]
    assert pair["kept"] == pytest.approx(pair["kept_by_chance"], abs=0.01)
    assert pair["pruned"] == pytest.approx(pair["pruned_by_chance"], abs=0.01)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name, kept in {"one": (0, 1), "two": (1, 2, 3)}.items():
        ticket(*kept).save_pretrained(tmp_path / name / "ticket")
    ticket(4, known=False).save_pretrained(tmp_path / "candidate")
    other = dataclasses.replace(BASE, name="user/other", sha256="d" * 64)
    ticket(0, base=other).save_pretrained(tmp_path / "other")
    ticket(0, size=4).save_pretrained(tmp_path / "scope")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_runs_and_tickets_are_named_by_their_ends(folders: Path) -> None:
    places = [str(folders / "one"), str(folders / "two" / "ticket"), str(folders / "candidate")]
    assert list(load_tickets(places)) == ["one", "two", "candidate"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["one"], "1 ticket was given; expected 2 to"),
        (["one"] * 2, "was given twice; name each ticket once"),
        (["one", "other"], r"of user/base \(aaaaaaaaaaaa…\), other of user/other"),
        (["one", "scope"], r"one and scope mask different tensors \(\(shapes differ\) …\)"),
    ],
)
def test_what_cannot_be_compared(names: list[str], message: str, folders: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_tickets([str(folders / name) for name in names])


def test_a_folder_without_a_ticket_is_named(folders: Path) -> None:
    with pytest.raises(TicketError, match="ticket_config"):
        load_tickets([str(folders / "one"), str(folders / "empty")])
    with pytest.raises(InputError, match=f"expected 2 to {MOST_TICKETS}"):
        load_tickets([str(i) for i in range(MOST_TICKETS + 1)])


def many() -> dict[str, Ticket]:
    worse = copy.deepcopy(evidence())
    worse["ticket"]["mean"] -= 0.05
    return {
        "first": ticket(0, 1, 2, 3, 4, 5),
        "second": dataclasses.replace(ticket(0, 1, 2), evidence=worse),
        "<script>alert(1)</script>": ticket(0, known=False),
    }


class Page(HTMLParser):
    """Gathers what the tests look at."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.headings: list[int] = []
        self.headers_without_scope = 0
        self.ids: list[str] = []
        self.labelled: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attrs)
        self.tags.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "th" and "scope" not in given:
            self.headers_without_scope += 1
        if "id" in given:
            self.ids.append(given["id"])
        if "aria-labelledby" in given:
            self.labelled.append(given["aria-labelledby"])
        for name in ("src", "href"):
            assert not str(given.get(name, "#")).startswith(("http", "//"))


def test_the_page_is_whole_and_accessible() -> None:
    html = render_comparison(compare(many()))
    check_page(html)
    page = Page()
    page.feed(html)
    assert "script" not in page.tags
    assert "<script>" not in html
    assert page.headings[0] == 1
    assert set(page.headings[1:]) == {2}
    assert page.headers_without_scope == 0
    assert len(page.ids) == len(set(page.ids))
    assert set(page.labelled) <= set(page.ids)
    assert page.tags.count("figure") == page.tags.count("figcaption") == page.tags.count("svg") == 3
    assert "candidate" in html
    assert "ticket first 84.9, inconclusive, dense 85.3, random-layerwise 78.4." in html
    assert "Score against sparsity on movies" in html
    assert (
        "Overlap of every pair of 3 masks below the diagonal, chance at their layer densities "
        "above it. Overlap of kept weights: from 28.6% (first and &lt;script&gt;alert(1)"
    ) in html
    assert render_comparison(compare(many())) == html


def test_zero_kernels_of_convolutions_stand_on_the_page() -> None:
    bits = torch.zeros(2, 2, 1, 2, dtype=torch.bool)
    bits[0, 0] = True
    found = compare({"a": Ticket(Mask({"c": bits}), BASE), "b": Ticket(Mask({"c": ~bits}), BASE)})
    html = render_comparison(found)
    check_page(html)
    assert "Kernels of c, outputs by inputs" in html
    # a: 3 of 4 zero; by chance 6/8 · 5/7. b: 1 of 4; 2/8 · 1/7.
    assert "75.0% (53.6%)" in html
    assert "25.0% (3.6%)" in html
    said = "\n".join(lines(found))
    assert "zero kernels, of 4 of more than one weight" in said
    assert "a   75.00%  (chance 53.57%)" in said
    assert "Zero kernels" not in render_comparison(compare(many()))
    json.dumps(found, allow_nan=False)


def test_lines_say_scores_and_chance() -> None:
    said = "\n".join(lines(compare(many())))
    assert "3 tickets of user/base" in said
    assert "candidate: never verified" in said
    # w: both 3, either 6; v the same one of two: 4/7. By chance 6·3/8 + 0.5 = 2.75 of 11 − 2.75.
    # By density alone 7·4/10 = 2.8 of 11 − 2.8. Cosine 4 / √(7·4).
    assert "first – second\n    kept        57.1%    34.1%    33.3%    0.756    0.529" in said
    assert "agree       70.0%    46.0%    45.0%" in said
    assert "no more is shared than by chance (+1.6 spreads)" in said


def test_the_command(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folders)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ticketry", "compare", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    code, out, _ = run("one", "two", "--out", "page.html")
    assert code == 0
    assert "Report: page.html" in out
    assert "<svg" in (folders / "page.html").read_text()
    code, out, _ = run("one", "two", "--json")
    assert [row["label"] for row in json.loads(out)["tickets"]] == ["one", "two"]
    code, out, err = run("one", "other", "--out", "no.html")
    assert (code, out) == (2, "")
    assert "expected tickets of one base" in err
    assert not (folders / "no.html").exists()
