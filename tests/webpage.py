"""What a browser, and someone who listens to it, would find in a page of ours."""

from __future__ import annotations

import html.parser
import itertools
import re

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(html.parser.HTMLParser):
    """What a browser would see: tags with attributes in order, text, and whether tags balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.by_id: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self._ids: list[str | None] = []
        self._region = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
            self._ids.append(dict(attributes).get("id"))
        if dict(attributes).get("role") == "region":
            self._region = dict(attributes)["aria-label"] or ""
        if tag == "table":
            self.tables[self._region] = []
        if tag == "tr":
            self.tables[self._region].append([])
        if tag in ("th", "td"):
            self.tables[self._region][-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        self._ids.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data
        for name in filter(None, self._ids):
            self.by_id[name] = self.by_id.get(name, "") + data
        if {"th", "td"} & set(self.open):
            self.tables[self._region][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def table(self, region: str) -> list[list[str]]:
        """Return the rows of the table in the region of that name, the header first."""
        return self.tables[region]


def check_page(text: str) -> None:
    """Assert what every page of ours keeps."""
    page = Page(text)
    assert page.open == []
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("main")) == 1
    assert page.all("footer")
    assert 'name="viewport" content="width=device-width' in text
    # Nothing is fetched, nothing runs.
    assert "<script" not in text
    assert not re.search(r"https?:|@import|\bsrc=|<link|<iframe|<img|\bon[a-z]+=", text)
    assert {found.group(1) for found in re.finditer(r"url\(([^)]?)", text)} <= {"#"}
    # Headings go down one level at a time.
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    # Everything that names something by id finds it, and ids are each there once.
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag in ("figure", "section", "svg"):
        for attributes in page.all(tag):
            assert attributes["aria-labelledby"] in ids
    # Tables: a caption, headers with a scope, no row longer than its head.
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attributes["scope"] in ("row", "col") for attributes in page.all("th"))
    for rows in page.tables.values():
        assert {len(row) for row in rows} == {len(rows[0])}
    # Every chart says in words what it shows, and stands in a section with a table of its numbers.
    charts = page.all("svg")
    assert charts
    for chart in charts:
        assert chart["role"] == "img"
        assert len(page.by_id[chart["aria-labelledby"] or ""].split()) > 5
    for section in re.findall(r"<section.*?</section>", text, re.DOTALL):
        if "<svg" in section:
            assert "<table>" in section
    # A phone: charts stretch, wide tables scroll by themselves.
    for chart in charts:
        assert "width" not in chart
        assert float((chart["viewbox"] or "").split()[2]) < 360
    assert text.count('<div class="scroll" tabindex="0" role="region"') == len(page.all("table"))
    # Colours are the style sheet's, in both schemes.
    drawn = text[text.index("<svg") : text.rindex("</svg>")]
    assert not re.search(r"#0\d0\d0\d|fill: #|stroke: #|font-family", drawn)
    defined = set(re.findall(r"(--[a-z-]+):", text))
    assert set(re.findall(r"var\((--[a-z-]+)\)", text)) <= defined
    check_contrast(text)


def check_contrast(text: str) -> None:
    """Assert WCAG's 4.5 for text and 3 for marks, in both colour schemes."""
    light, dark = schemes(text)
    assert light["ink"] != dark["ink"]
    for colours in (light, dark):
        for ground in ("paper", "panel", "good-tint", "bad-tint", "open-tint"):
            assert contrast(colours["ink"], colours[ground]) >= 4.5
        for ground in ("paper", "panel"):
            assert contrast(colours["muted"], colours[ground]) >= 4.5
        for mark in ("ticket", "dense", "control", "bad"):
            assert contrast(colours[mark], colours["paper"]) >= 3
        # A cell of the map: ink on the strongest tint that it may have.
        from ticketry.report.grids import STRONGEST

        cell = blend(colours["ticket"], colours["paper"], STRONGEST)
        assert contrast(colours["ink"], cell) >= 4.5


def schemes(text: str) -> list[dict[str, str]]:
    """Return the colours of the light and of the dark scheme."""
    light, dark = text.split("@media (prefers-color-scheme: dark)")[:2]
    both = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part)) for part in (light, dark)]
    return [both[0], {**both[0], **both[1]}]


def blend(front: str, back: str, alpha: float) -> str:
    """Return the colour of ``front`` over ``back``."""
    mixed = [round(alpha * f + (1 - alpha) * b) for f, b in zip(rgb(front), rgb(back), strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def rgb(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def contrast(one: str, two: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [part / 255 for part in rgb(colour)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)
