"""What every chart shares: its style, and matplotlib's SVG made fit for the inside of a page.

Text stays text, colours are the page's CSS variables, equal in, equal out. Every chart is drawn
about as wide as a phone, so that its words stay readable there, and grows on a wider page.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that matplotlib can draw with; the page's style sheet knows the variables.
INK, MUTED, GRID, TICKET, DENSE, CONTROL, BAD = (f"#0{n}0{n}0{n}" for n in range(1, 8))
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    TICKET: "--ticket",
    DENSE: "--dense",
    CONTROL: "--control",
    BAD: "--bad",
}
_WIDTH_IN = 4.7
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.axisbelow": True,
}


def bare(axes: Axes) -> None:
    """Leave rows of a chart without a box: the grid alone carries the values."""
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.6)


def svg(draw: Callable[[Figure], None], height_in: float, name: str, words: str) -> str:
    """Draw on a fresh figure and return it as SVG for use inside HTML.

    Args:
        draw: given the figure.
        height_in: in inches; the width is that of a phone.
        name: of the chart, unlike that of any other on the page.
        words: what the chart shows, for those who do not see it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        figure.patch.set_visible(False)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _clean(buffer.getvalue(), name, words)


def _clean(svg: str, name: str, words: str) -> str:
    """Keep what a page needs: no prolog, metadata, comments or fixed sizes; ids stay apart."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    svg = re.sub(r"^<svg[^>]*>", "", svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(" font-family: 'DejaVu Sans';", "")  # the page's own
    svg = re.sub(r' transform="rotate\(-?0 [^"]*"', "", svg)
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # matplotlib's global style element applies to the whole page when it is inlined.
    svg = re.sub(r'<style type="text/css">.*?</style>', "", svg, flags=re.DOTALL)
    opening = f'<svg viewBox="{box[1]}" role="img" aria-labelledby="alt-{name}" focusable="false">'
    title = f'<title id="alt-{name}">{html.escape(words)}</title>'
    return opening + title + re.sub(r"\n\s*", "\n", svg).strip()


def draw_page(template: str, values: Mapping[str, Any]) -> str:
    """Fill a page's template; everything is escaped but the charts.

    Args:
        template: its file name.
        values: what it shows; ``figures`` maps names to SVG.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ticketry"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = {name: Markup(chart) for name, chart in values["figures"].items()}
    return environment.get_template(template).render(**{**values, "figures": figures})
