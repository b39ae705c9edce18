from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sample_evidence import sample_config, sample_evidence, sample_plan, sample_times
from ticketry.card import escape, render_card
from ticketry.errors import InputError, StorageError, TicketError
from ticketry.report import render_report, write_report
from ticketry.report.costs import duration
from ticketry.report.layers import kept_grid, layer_groups
from ticketry.report.page import command_lines
from webpage import Page, check_page

HOSTILE = "<script>alert('x')</script>\"&`${{7*7}}` | [a](javascript:b)\n# heading\n---\n"


@pytest.fixture(scope="module")
def evidence() -> dict[str, Any]:
    return sample_evidence()


@pytest.fixture(scope="module")
def page(evidence: dict[str, Any]) -> str:
    return render_report(
        evidence=evidence, config=sample_config(), times=sample_times(), plan=sample_plan()
    )


def changed(evidence: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    found = copy.deepcopy(evidence)
    change(found)
    return found


# --- the page -----------------------------------------------------------------------------------


def test_the_verdict_comes_first_in_plain_words(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    headings = [tag for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    text = parsed.text
    assert "Inconclusive" in text
    assert "the ticket scored 84.9% against 85.3% dense (difference -0.4 points; at worst" in text
    assert text.index("the ticket scored") < text.index("Ticket against dense")


def test_the_page_needs_nothing_else(page: str) -> None:
    assert "<script" not in page
    assert not re.search(r"https?:|@import|\bsrc=|<link|<iframe|<img", page)
    assert {found.group(1) for found in re.finditer(r"url\(([^)]?)", page)} <= {"#"}


def test_equal_records_give_equal_bytes_in_another_process(page: str) -> None:
    code = (
        "from sample_evidence import *; from ticketry.report import render_report; import sys;"
        "sys.stdout.buffer.write(render_report(evidence=sample_evidence(),"
        "config=sample_config(), times=sample_times(), plan=sample_plan()).encode())"
    )
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert result.stdout == page.encode(), result.stderr


def test_numbers_are_those_of_the_evidence(page: str, evidence: dict[str, Any]) -> None:
    text = Page(page).text
    for arm in (evidence["dense"], evidence["ticket"], evidence["controls"]["random-layerwise"]):
        assert f"{100 * arm['mean']:.1f}%" in text
        assert ", ".join(f"{100 * score:.1f}%" for score in arm["scores"]) in text
    for row in evidence["layers"]:
        assert row["name"] in text
        assert f"{row['kept']:,}" in text
    assert f"{evidence['kept']:,} of {evidence['prunable']:,} prunable weights" in text
    verdict = evidence["verdict"]
    assert f"{100 * verdict['seed_ci_low']:.2f}" in text
    assert f"{100 * verdict['example_ci_low']:.2f}" in text
    assert "2.10 dense-equivalents" in text
    assert "7 min 12 s" in text
    assert "31 of them cut" in text
    for name in ("base_sha256", "mask_digest"):
        assert sample_config()[name] in text


def test_the_page_reads_by_ear_on_a_phone_and_in_the_dark(page: str) -> None:
    check_page(page)
    charts = Page(page).all("svg")
    assert [chart["aria-labelledby"] for chart in charts] == [
        f"alt-{name}" for name in ("intervals", "scores", "curve", "layers", "kept", "cost")
    ]


def test_the_curve_tells_validation_from_test(page: str, evidence: dict[str, Any]) -> None:
    rows = Page(page).table("Score against sparsity")
    assert rows[0] == ["What", "Split", "Sparsity", "Mean", "Std"]
    assert rows[1] == ["search, level 1", "validation", "0.0%", "85.7%", "–"]
    assert rows[2] == ["search, level 2", "validation", "22.5%", "85.2%", "–"]
    assert [row[:3] for row in rows[3:]] == [
        ["dense", "validation", "0.0%"],
        ["dense", "test", "0.0%"],
        ["ticket (inconclusive)", "test", f"{evidence['sparsity']:.1%}"],
        ["random-layerwise", "test", f"{evidence['sparsity']:.1%}"],
    ]
    dense = evidence["dense"]
    assert rows[4][3:] == [f"{100 * dense['mean']:.1f}%", f"{100 * dense['std']:.2f}"]
    alt = Page(page).by_id["alt-curve"]
    assert "Validation, one training each: 85.7 at 0.0%, 85.2 at 22.5%; dense" in alt
    assert "ticket 84.9, inconclusive, dense 85.3, random-layerwise 78.4" in alt
    assert "Validation: the search's own trainings" in page


def test_a_search_without_scored_levels_shows_tests_alone(evidence: dict[str, Any]) -> None:
    def strip(found: dict[str, Any]) -> None:
        for level in found["search"]["levels"]:
            del level["validation_score"]

    found = Page(render_report(evidence=changed(evidence, strip), config=sample_config()))
    assert "Validation" not in found.by_id["alt-curve"]
    assert "Here, the verified test scores" in " ".join(found.text.split())


def test_what_is_kept_by_kind_and_block(page: str, evidence: dict[str, Any]) -> None:
    rows = Page(page).table("Kept by kind and block")
    assert rows[0] == ["Kind", *"012345"]
    by_name = {row["name"]: row for row in evidence["layers"]}
    for kind, *shares in rows[1:]:
        for block, share in enumerate(shares):
            row = by_name[f"encoder.layer.{block}.{kind}.weight"]
            assert share == f"{row['kept'] / row['prunable']:.1%}"
    assert len(rows) == 7


def test_the_cost_is_told_by_part(page: str) -> None:
    rows = Page(page).table("Cost by part")
    assert rows[0][:3] == ["Part", "Trainings", "Training passes"]
    # 2 levels of 4,000 passes and 1,000 evaluated: 2 · (4,000 + 1,000/3) / 4,000 = 2.17.
    assert rows[1][:6] == ["search", "2", "8,000", "0", "2,000", "2.17"]
    assert rows[1][6] == f"{61.3 + 63.0:,.1f}"
    assert [row[0] for row in rows[1:]] == ["search", "dense", "ticket", "control random-layerwise"]


def test_a_plan_of_an_older_run_has_no_parts(evidence: dict[str, Any]) -> None:
    plan = sample_plan()
    for step in plan["steps"]:
        del step["part"]
    text = render_report(evidence=evidence, config=sample_config(), plan=plan)
    assert "Cost by part" not in text


@pytest.mark.parametrize(
    ("ticket", "headline", "tone"),
    [
        ((0.852, 0.857, 0.8535), "Winning ticket", "good"),
        ((0.801, 0.81, 0.793), "Not matching", "bad"),
        ((0.846, 0.852, 0.849), "Inconclusive", "open"),
    ],
)
def test_each_verdict_has_its_name_and_colour(ticket: tuple, headline: str, tone: str) -> None:
    evidence = sample_evidence(ticket=ticket)
    found = render_report(evidence=evidence, config=sample_config(), times=None)
    assert f'<section class="verdict {tone}"' in found
    assert f'<h1 id="verdict">{headline}</h1>' in found


def test_chance_that_does_as_well_is_said(evidence: dict[str, Any]) -> None:
    found = sample_evidence(ticket=(0.852, 0.857, 0.8535), random=(0.851, 0.858, 0.853))
    text = render_report(evidence=found, config=sample_config())
    assert '<h1 id="verdict">Matching, but so is chance</h1>' in text
    assert 'class="verdict open"' in text


def test_a_stamped_verdict_is_not_shown_as_good() -> None:
    found = sample_evidence(ticket=(0.852, 0.857, 0.8535), half=(0.83, 0.83, 0.84))
    text = render_report(evidence=found, config=sample_config())
    assert '<h1 id="verdict">Winning ticket (undertrained reference)</h1>' in text
    assert 'class="verdict open"' in text


def test_whatever_a_user_named_is_escaped(evidence: dict[str, Any]) -> None:
    def poison(found: dict[str, Any]) -> None:
        found["task"] = found["command"] = found["base"]["name"] = HOSTILE
        found["base"]["revision"] = HOSTILE
        found["warnings"] = [HOSTILE]
        found["data"] |= {"source": HOSTILE, "labels": [HOSTILE], "notes": [HOSTILE]}
        found["recipe"]["description"] = found["recipe"]["name"] = HOSTILE
        found["search"]["method"] = found["search"]["criterion"] = HOSTILE
        for row in found["layers"]:
            row["name"] += HOSTILE
        for part in (found, found["verdict"]):
            part["controls"] = {HOSTILE: part["controls"]["random-layerwise"]}
        found["controls"][HOSTILE]["description"] = HOSTILE

    times = sample_times()
    times["environment"]["cpu"] = times["trainings"][0]["name"] = HOSTILE
    text = render_report(
        evidence=changed(evidence, poison),
        config={**sample_config(), "mask_digest": HOSTILE},
        times=times,
    )
    parsed = Page(text)
    assert parsed.open == []
    assert parsed.all("script") == []
    assert "49" not in re.findall(r"\$\{\{?(\d+)", text)
    assert parsed.text.count("<script>alert('x')</script>") > 15


def test_parts_that_a_run_lacks_are_left_out(evidence: dict[str, Any]) -> None:
    def strip(found: dict[str, Any]) -> None:
        found["search"] = {"method": "unknown", "from": "unknown", "criterion": "unknown",
                           "levels": [], "cost_dense_equivalents": None}  # fmt: skip
        found["seeds"]["search"] = []
        found["controls"] = found["verdict"]["controls"] = {}
        found["verdict"]["winning"] = None
        found["verdict"] |= {"budget_gain": None, "undertrained_reference": None}
        del found["dense"]["half_budget_validation_scores"], found["data"]["truncated"]
        found["layers"] = []

    text = Page(render_report(evidence=changed(evidence, strip), config={})).text
    assert "What the search cost is not recorded." in text
    assert "random-layerwise control was not run" in text
    assert "by the clock" not in text
    assert "None" not in text


def test_a_metric_without_percent_is_plain(evidence: dict[str, Any]) -> None:
    def plain(found: dict[str, Any]) -> None:
        found["metric"] = found["verdict"]["metric"] = "mcc"

    text = Page(render_report(evidence=changed(evidence, plain), config=sample_config())).text
    assert "the ticket scored 0.849 against 0.853 dense (difference -0.004;" in text
    assert "points" not in text.replace("data points", "")


def test_kinds_and_blocks_are_read_from_the_names() -> None:
    def row(name: str, kept: int) -> dict[str, Any]:
        return {"name": name, "shape": [10, 10], "kept": kept, "prunable": 100}

    bert = [row(f"encoder.layer.{n}.attention.self.query.weight", 60 - n) for n in (10, 2, 0)]
    found = layer_groups([*bert, row("pooler.dense.weight", 0), row("h.1.mlp.c_fc.weight", 25)])
    assert list(found) == ["attention.self.query", "pooler.dense", "mlp.c_fc"]
    assert [name for name, _ in found["attention.self.query"]] == ["0", "2", "10"]
    assert found["attention.self.query"][2][1] == pytest.approx(0.5)
    assert found["pooler.dense"] == [("", 1.0)]
    assert found["mlp.c_fc"] == [("1", 0.75)]
    # Encoder and decoder have the same kinds: neither is taken for the other.
    stacks = [
        row(f"{s}.block.{n}.q.weight", k)
        for s, k in (("encoder", 9), ("decoder", 5))
        for n in (0, 1)
    ]
    grid, blocks = kept_grid(stacks)
    assert grid["encoder: q"] == pytest.approx({"0": 0.09, "1": 0.09})
    assert grid["decoder: q"] == pytest.approx({"0": 0.05, "1": 0.05})
    assert list(grid) == ["encoder: q", "decoder: q"]
    assert blocks == ("0", "1")
    assert kept_grid(bert) == ({}, ())  # one kind makes no map
    # Thirteen kinds are merged by block: 40 and 60 of 100 kept twice over make 50%.
    many = [row(f"layer.{n % 2}.kind{n}.weight", 40 if n < 7 else 60) for n in range(13)]
    merged = layer_groups(many)
    assert list(merged) == ["all prunable tensors of a block"]
    assert merged["all prunable tensors of a block"][1][1] == pytest.approx(0.5)


def test_the_command_is_broken_before_options_and_can_be_pasted() -> None:
    command = "ticketry find --data 'my -- file.csv' --sparsity 0.4 --out 'a b'"
    lines = command_lines(command)
    assert lines.splitlines()[1] == "  --data 'my -- file.csv' \\"
    said = subprocess.run(
        ["sh", "-c", f"ticketry() {{ printf '%s\\n' \"$@\"; }}\n{lines}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert said.stdout.splitlines() == shlex.split(command)[1:]
    assert command_lines("ticketry find 'open") == "ticketry find 'open"


def test_durations_as_people_say_them() -> None:
    assert [duration(s) for s in (3.4, 432, 7_261)] == ["3 s", "7 min 12 s", "2 h 1 min"]


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_named_with_the_command(
    evidence: dict[str, Any], monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(InputError, match=rf"needs {library}, .*pip install 'ticketry\[report\]'"):
        render_report(evidence=evidence, config=sample_config())


def test_a_damaged_verdict_is_refused(evidence: dict[str, Any]) -> None:
    damaged = changed(evidence, lambda found: found["verdict"].pop("seed_ci_low"))
    with pytest.raises(TicketError, match="'seed_ci_low' of its verdict is missing"):
        render_report(evidence=damaged, config=sample_config())


def test_the_page_is_written_whole_or_refused(
    evidence: dict[str, Any], page: str, tmp_path: Path
) -> None:
    target = tmp_path / "report.html"
    write_report(
        target,
        evidence=evidence,
        config=sample_config(),
        times=sample_times(),
        plan=sample_plan(),
    )
    assert target.read_text(encoding="utf-8") == page
    with pytest.raises(StorageError, match="cannot write"):
        write_report(target / "report.html", evidence=evidence, config=sample_config())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


# --- the card -----------------------------------------------------------------------------------


def split_card(card: str) -> tuple[dict[str, Any], str]:
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_names_verdict_base_and_how_to_load(evidence: dict[str, Any]) -> None:
    front, body = split_card(render_card(evidence, sample_config()))
    assert front["library_name"] == "ticketry"
    assert front["base_model"] == "minilm"
    assert front["datasets"] == ["movies"]
    assert front["metrics"] == ["accuracy"]
    assert "lottery-ticket" in front["tags"]
    assert "**Inconclusive** on movies." in body
    assert "the ticket scored 84.9% against 85.3% dense" in body
    assert "Ticket.from_pretrained(" in body
    assert "| ticket | 84.9% | 0.30 | 84.6%, 85.2%, 84.9% |" in body
    assert "It holds no weights" in body
    assert evidence["command"] in body
    assert "Limits" in body


def test_the_snippet_is_python(evidence: dict[str, Any]) -> None:
    for name in ("minilm", "google-bert/bert-base-uncased", '/home/me/a "b"'):
        config = {**sample_config(), "base_model_name_or_path": name, "revision": "v'1\""}
        card = render_card(evidence, config)
        snippet = card.split("```python\n")[1].split("```")[0]
        compile(snippet, "card", "exec")


def test_a_folder_of_the_author_is_not_shown() -> None:
    config = {**sample_config(), "base_model_name_or_path": "/home/me/private/model"}
    card = render_card(None, config)
    assert "/home/me" not in card
    assert "Lottery ticket for model at" in card
    assert "base_model" not in split_card(card)[0]


def test_a_candidate_claims_nothing() -> None:
    front, body = split_card(render_card(None, sample_config()))
    assert "**Candidate**: never verified" in body
    assert "metrics" not in front
    assert "Numbers" not in body


def test_what_a_user_named_stays_text_in_the_card(evidence: dict[str, Any]) -> None:
    def poison(found: dict[str, Any]) -> None:
        found["task"] = HOSTILE
        found["warnings"] = [HOSTILE]
        found["command"] = "ticketry find --data '```\n# boo'"
        found["data"] |= {"source": HOSTILE, "labels": [HOSTILE, "- x"]}
        found["recipe"]["description"] = HOSTILE
        for part in (found, found["verdict"]):
            part["controls"] = {HOSTILE: part["controls"]["random-layerwise"]}

    config = {**sample_config(), "base_model_name_or_path": HOSTILE, "revision": HOSTILE}
    front, body = split_card(render_card(changed(evidence, poison), config))
    assert set(front) == {"library_name", "tags", "metrics", "pipeline_tag"}
    fenced = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", body)
    assert "<script" not in fenced
    assert "boo" not in fenced  # the command's own backticks did not close its fence
    assert [line for line in fenced.splitlines() if line.startswith("# ")] == [
        line for line in fenced.splitlines() if line.startswith("# Lottery ticket for")
    ]
    assert not re.search(r"(?<!\\)\[a(?<!\\)\]", fenced)
    table = [line for line in fenced.splitlines() if line.startswith("| ") and "%" in line]
    assert len(table) == 3
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in table)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain words, 84.9% (ok)", "plain words, 84.9% (ok)"),
        ("12. item", "12\\. item"),
        ("40.0%", "40.0%"),
        ("-0.4 points", "-0.4 points"),
        ("---", "\\---"),
        ("- item", "\\- item"),
        ("a\nb", "a b"),
        ("x_y *z* `c`", "x\\_y \\*z\\* \\`c\\`"),
        ("http://a.b www.c.d", "http\\://a.b www\\.c.d"),
        ("<b> & |", "&lt;b&gt; &amp; \\|"),
    ],
)
def test_escaping_for_markdown(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_the_card_needs_jinja2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=r"card needs jinja2.*pip install 'ticketry\[report\]'"):
        render_card(None, sample_config())
