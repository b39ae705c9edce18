"""The ticket's model card: a README.md that the hub reads, from the ticket's records alone.

Every value that a user could have named (tasks, files, labels, models) is escaped for Markdown and
for the HTML inside it; the front matter is written by a YAML library.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any

from ticketry.errors import InputError
from ticketry.hub import CARD_PLACE, TAG
from ticketry.metrics import say_difference, say_score, unit_of
from ticketry.models.packaged import PACKAGED
from ticketry.tasks.objectives import PIPELINES
from ticketry.verdict import Verdict

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
# Marks inside a line, bare addresses (which would become links), and marks that start a block.
_MARKDOWN = re.compile(r"[\\`*_{}\[\]|~$]|:(?=//)|(?<=www)\.|^[#=]|^[+-](?=[\s-]|$)", re.IGNORECASE)
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")


class _Ready(str):
    """Markdown that this module wrote itself; the template puts it in as it is."""


def render_card(evidence: Mapping[str, Any] | None, config: Mapping[str, Any]) -> str:
    """Return the card.

    Args:
        evidence: ``ticket_evidence.json``; None for a candidate that was never verified.
        config: ``ticket_config.json``.

    Raises:
        InputError: jinja2 is not installed.
        TicketError: the evidence's verdict is damaged.
    """
    try:
        import jinja2
    except ImportError as error:
        raise InputError(
            "the ticket's card needs jinja2, which is not installed here; run: "
            "pip install 'ticketry[report]'"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ticketry"),
        autoescape=False,
        finalize=lambda value: value if isinstance(value, _Ready) else escape(value),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    values: dict[str, Any] = _of_config(config)
    values |= {"verdict": None, "warnings": []}
    if evidence is not None:
        values |= _of_evidence(evidence)
    values["front_matter"] = _front_matter(evidence, config)
    return environment.get_template("ticket_card.md.j2").render(**values)


def escape(value: Any) -> str:
    """Make text stand for itself in one line of Markdown."""
    text = " ".join(str(value).split())
    return _NUMBERED.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\g<0>", html.escape(text, quote=False)))


def _code(text: str, language: str) -> _Ready:
    """Return a code block that the text cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return _Ready(f"{fence}{language}\n{text}\n{fence}")


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    scope = config["spec"].get("scope")
    named = scope[0] if isinstance(scope, list) and len(scope) == 1 else None
    pruned = config["prunable"] - config["kept"]
    return {
        "base": _shown(config["base_model_name_or_path"]),
        "revision": config["revision"],
        "sparsity": f"{config['sparsity']:.1%}",
        "kept": f"{config['kept']:,}",
        "prunable": f"{config['prunable']:,}",
        "scope": f"scope {named}" if named else "scope by patterns",
        "snippet": _code(_snippet(config), "python"),
        "model_sparsity_words": (
            f"Of all {config['total_parameters']:,} parameters of the base model, embeddings "
            f"included, {pruned / config['total_parameters']:.1%} are pruned."
        ),
        "base_sha256": config["base_sha256"],
        "mask_digest": config["mask_digest"],
    }


def _shown(name: str) -> str:
    """Return a model's name; of a folder only its last part, the rest is the author's own."""
    if _HUB_ID.fullmatch(name):
        return name
    return re.split(r"[\\/]", name.rstrip("\\/"))[-1] or name


def _snippet(config: Mapping[str, Any]) -> str:
    name, revision = config["base_model_name_or_path"], config["revision"]
    lines = ["from ticketry import Ticket"]
    if name in PACKAGED:
        lines.append("from ticketry.models.loading import load_backbone, resolve")
        model = f"load_backbone(resolve({json.dumps(name)}))"
    else:
        lines.insert(0, "from transformers import AutoModel")
        shown = name if _HUB_ID.fullmatch(name) else f"path/to/{_shown(name)}"
        at = f", revision={json.dumps(revision)}" if revision else ""
        model = f"AutoModel.from_pretrained({json.dumps(shown)}{at})"
    return "\n".join(
        [
            *lines,
            "",
            f'ticket = Ticket.from_pretrained("{CARD_PLACE}")',
            f"model = ticket.apply_({model})",
        ]
    )


def _of_evidence(evidence: Mapping[str, Any]) -> dict[str, Any]:
    from ticketry.verdict.wording import headline

    verdict = Verdict.from_json(evidence["verdict"])
    metric, data, search = verdict.metric, evidence["data"], evidence["search"]

    def points(value: float) -> str:
        return f"{say_difference(metric, value, decimals=2, sign=True)}{unit_of(metric)}"

    arms = {"dense": evidence["dense"], "ticket": evidence["ticket"], **evidence["controls"]}
    cost = search["cost_dense_equivalents"]
    return {
        "verdict": {"headline": headline(verdict), "sentences": verdict.sentences()},
        "task": _shown(evidence["task"]),
        "metric": metric,
        "arms": [
            {
                "name": name,
                "mean": say_score(metric, arm["mean"]),
                "std": say_difference(metric, arm["std"], decimals=2),
                "scores": ", ".join(say_score(metric, score) for score in arm["scores"]),
            }
            for name, arm in arms.items()
        ],
        "difference": points(verdict.difference),
        "seed_low": points(verdict.seed_ci_low),
        "example_low": points(verdict.example_ci_low),
        "overall_low": points(verdict.overall_ci_low),
        "margin": f"{say_difference(metric, verdict.margin)}{unit_of(metric)}",
        "method": f"{search['method']}{_variants(search)}, scored by {search['criterion']} on "
        f"{search['from']} weights, {len(search['levels'])} "
        f"level{'' if len(search['levels']) == 1 else 's'}",
        "cost": "an unrecorded number of" if cost is None else f"{cost:.2f}",
        "search_seeds": ", ".join(map(str, evidence["seeds"]["search"])) or "none",
        "verify_seeds": ", ".join(map(str, evidence["seeds"]["verify"])),
        "data_source": data["source"],
        "data_sizes": ", ".join(
            f"{data[split]:,} {split}" for split in ("train", "validation", "test")
        ),
        "labels": ", ".join(map(str, data["labels"])) or "none",
        "recipe": evidence["recipe"].get("description", "not recorded"),
        "command": _code(evidence["command"], "sh"),
        "warnings": evidence["warnings"],
        "data_sha256": evidence["data_sha256"],
    }


def _variants(search: Mapping[str, Any]) -> str:
    """Say what of a search is not the plain way; earlier versions knew no other."""
    plain = {"pattern": "unstructured", "allocation": "global", "rewind": "pretrained"}
    said = [
        f"{name} {search[name]}" for name in plain if search.get(name, plain[name]) != plain[name]
    ]
    return f" ({', '.join(said)})" if said else ""


def _front_matter(evidence: Mapping[str, Any] | None, config: Mapping[str, Any]) -> _Ready:
    """Return the hub's metadata; only names that the hub could know go into its fields."""
    import yaml

    fields: dict[str, Any] = {
        "library_name": "ticketry",
        "tags": [TAG, "lottery-ticket", "pruning", "sparsity", "mask"],
    }
    name = config["base_model_name_or_path"]
    if _HUB_ID.fullmatch(name):
        fields["base_model"] = name
    if evidence is not None:
        if _HUB_ID.fullmatch(evidence["task"]):
            fields["datasets"] = [evidence["task"]]
        fields["metrics"] = [evidence["metric"]]
        objective = evidence["data"].get("objective", "classification")
        fields["pipeline_tag"] = PIPELINES.get(objective, "text-classification")
    return _Ready(yaml.safe_dump(fields, sort_keys=True, allow_unicode=True))
