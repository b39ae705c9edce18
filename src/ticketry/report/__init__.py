"""One self-contained HTML page about a run, from its records alone.

No scripts, nothing fetched, no clock: equal records give equal bytes. Everything that a user could
have named is escaped. Needs jinja2 and matplotlib, the extra ``report``; both are imported late.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ticketry.errors import InputError
from ticketry.files import write_bytes

NEEDS = ("jinja2", "matplotlib")


def require_report() -> None:
    """Refuse at once, before anything is spent, when the report could not be drawn.

    Raises:
        InputError: names what is missing and the command that installs it.
    """
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"the report needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed here; run: "
            "pip install 'ticketry[report]'"
        )


def render_report(
    *,
    evidence: Mapping[str, Any],
    config: Mapping[str, Any],
    times: Mapping[str, Any] | None = None,
    plan: Mapping[str, Any] | None = None,
) -> str:
    """Return the page.

    Args:
        evidence: ``ticket_evidence.json``.
        config: ``ticket_config.json``.
        times: ``times.json``; None leaves the seconds out.
        plan: ``plan.json``; None leaves the passes by part out.

    Raises:
        InputError: jinja2 or matplotlib is not installed.
        TicketError: the evidence's verdict is damaged.
    """
    require_report()
    from ticketry.report.page import render

    return render(evidence, config, times, plan)


def write_report(
    out_html: Path,
    *,
    evidence: Mapping[str, Any],
    config: Mapping[str, Any],
    times: Mapping[str, Any] | None = None,
    plan: Mapping[str, Any] | None = None,
) -> None:
    """Write the page, atomically; see :func:`render_report`.

    Raises:
        StorageError: it could not be written.
    """
    text = render_report(evidence=evidence, config=config, times=times, plan=plan)
    write_bytes(out_html, text.encode())
