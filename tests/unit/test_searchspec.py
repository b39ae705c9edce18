"""Searches that make sense, and the reason why each other one does not."""

from __future__ import annotations

import dataclasses

import pytest

from ticketry.errors import ConfigError
from ticketry.options import build_find_spec
from ticketry.searchspec import SearchSpec, check_search

GIVEN = {"model": "minilm", "task": "movies"}


@pytest.mark.parametrize(
    "spec",
    [
        SearchSpec(),
        SearchSpec(rewind="step", rewind_step=5),
        SearchSpec(rewind="lr", levels=3),
        SearchSpec(rewind="none", start="rewound"),
        SearchSpec(rewind="lr", start="pretrained"),
        SearchSpec(method="gradual", criterion="movement", rewind="none"),
        SearchSpec(method="one-shot", source="theta0", criterion="snip"),
        SearchSpec(method="one-shot", rewind="lr"),
        SearchSpec(method="one-shot", pattern="2:4", sparsity=0.5),
        SearchSpec(method="one-shot", allocation="given", layer_densities=(("*", 0.6),)),
        SearchSpec(grid=(0.2, 0.4), sparsity=0.4, pattern="head"),
        SearchSpec(allocation="erk", pattern="4x4", criterion="taylor"),
    ],
    ids=str,
)
def test_these_make_sense(spec: SearchSpec) -> None:
    assert check_search(spec) == []


FAULTS = [
    (SearchSpec(method="imq"), "unknown --method 'imq'. Did you mean 'imp'?"),
    (SearchSpec(rewind="stop"), "unknown --rewind 'stop'. Did you mean 'step'?"),
    (SearchSpec(start="zero"), "unknown --start 'zero'"),
    (SearchSpec(criterion="snap"), "unknown criterion 'snap'. Did you mean 'snip'?"),
    (SearchSpec(pattern="2-4"), "unknown pattern '2-4'"),
    (SearchSpec(allocation="erc"), "unknown allocation 'erc'. Did you mean 'erk'?"),
    (SearchSpec(rewind="step"), "--rewind step needs --rewind-step"),
    (SearchSpec(rewind="step", rewind_step=0), "Step 0 is --rewind pretrained."),
    (SearchSpec(rewind_step=4), "--rewind-step goes with --rewind step; --rewind is pretrained."),
    (
        SearchSpec(method="one-shot", source="theta0", rewind="lr"),
        "--rewind lr needs a training to rewind; one-shot --from theta0 has none.",
    ),
    (SearchSpec(method="gradual", rewind="lr"), "--rewind lr needs rounds"),
    (SearchSpec(method="one-shot", rewind="none"), "--rewind none spans several rounds"),
    (SearchSpec(start="rewound"), "--start rewound needs weights to start from"),
    (
        SearchSpec(start="pretrained", rewind="step", rewind_step=3),
        "would verify another ticket than was searched for",
    ),
    (SearchSpec(method="gradual", source="theta0"), "--from theta0 is of --method one-shot"),
    (
        SearchSpec(method="one-shot", source="theta0", criterion="movement"),
        "--criterion movement sums over a training; one-shot --from theta0 has none.",
    ),
    (
        SearchSpec(method="gradual", criterion="snip"),
        "--method gradual knows magnitude and movement.",
    ),
    (SearchSpec(method="gradual", levels=3), "--method gradual has one level, drop them."),
    (SearchSpec(levels=2, grid=(0.2, 0.4)), "--levels and --grid were both given"),
    (SearchSpec(levels=2, rate=0.1, grid=(0.4,)), "were all given"),
    (SearchSpec(grid=(0.3, 0.2, 0.4)), "each above the one before, because masks are nested."),
    (SearchSpec(grid=()), "--grid is empty"),
    (SearchSpec(grid=(0.2, 40.0)), "expected sparsities in (0, 1)"),
    (SearchSpec(grid=(0.2, 0.3)), "--grid ends at sparsity 0.3 and --sparsity is 0.4"),
    (
        SearchSpec(method="one-shot", pattern="2:4"),
        "--pattern 2:4 has sparsity 0.5 by itself and --sparsity is 0.4; give that one.",
    ),
    (SearchSpec(pattern="2:4", sparsity=0.5), "use --method one-shot."),
    (
        SearchSpec(method="one-shot", pattern="4:2"),
        "expected N:M with N from 1 and M above N",
    ),
    (
        SearchSpec(method="one-shot", pattern="2:4", sparsity=0.5, allocation="erk"),
        "allocation erk gives tensors densities of their own",
    ),
    (SearchSpec(method="one-shot", allocation="given"), "needs --layer-densities"),
    (
        SearchSpec(allocation="given", layer_densities=(("*", 0.6),)),
        "states the densities of one mask; use --method one-shot.",
    ),
    (
        SearchSpec(layer_densities=(("*", 0.6),)),
        "--layer-densities go with --allocation given; --allocation is global.",
    ),
    (
        SearchSpec(method="one-shot", allocation="given", layer_densities=(("*", 60.0),)),
        "--layer-densities gives '*' 60.0; expected a number in [0, 1].",
    ),
    (SearchSpec(calibration_batches=0), "--calibration-batches is 0; expected at least 1."),
    (
        SearchSpec(method="gradual", gradual_start=0.8),
        "--gradual-start 0.8 and --gradual-end 0.7 are shares of the steps",
    ),
    (SearchSpec(method="gradual", gradual_updates=0), "--gradual-updates is 0"),
]


@pytest.mark.parametrize(("spec", "message"), FAULTS, ids=[m for _, m in FAULTS])
def test_each_fault_has_its_reason(spec: SearchSpec, message: str) -> None:
    assert any(message in fault for fault in check_search(spec)), check_search(spec)


def test_every_unknown_name_is_said_at_once_and_nothing_is_concluded_from_it() -> None:
    spec = SearchSpec(method="imq", criterion="snp", pattern="3:2", allocation="ekr")
    assert [fault.partition(";")[0].partition("?")[0] for fault in check_search(spec)] == [
        "unknown --method 'imq'. Did you mean 'imp'",
        "unknown criterion 'snp'. Did you mean 'snip' or 'grasp'",
        "unknown allocation 'ekr'. Did you mean 'erk'",
        "pattern '3:2' keeps 3 of every 2 weights",
    ]


def test_what_a_ticket_starts_from_by_default() -> None:
    starts = {
        ("imp", "pretrained"): False,
        ("imp", "step"): True,
        ("imp", "lr"): True,
        ("imp", "none"): False,
        ("gradual", "pretrained"): False,
        ("gradual", "none"): True,
    }
    for (method, rewind), rewound in starts.items():
        assert SearchSpec(method=method, rewind=rewind).starts_rewound is rewound
    assert SearchSpec(rewind="none", start="rewound").starts_rewound
    assert not SearchSpec(rewind="lr", start="pretrained").starts_rewound


def test_a_grid_and_a_pattern_give_the_sparsity() -> None:
    assert build_find_spec({**GIVEN, "grid": "0.2,0.36"}).search.sparsity == 0.36
    assert build_find_spec({**GIVEN, "grid": [0.1, 0.3]}).search.grid == (0.1, 0.3)
    spec = build_find_spec({**GIVEN, "method": "one-shot", "pattern": "1:4"})
    assert spec.search.sparsity == 0.75


def test_layer_densities_come_as_text_mapping_or_file(tmp_path) -> None:
    wanted = (("encoder.layer.0.*", 0.8), ("*", 0.5))
    given = {**GIVEN, "method": "one-shot", "allocation": "given"}
    file = tmp_path / "densities.yaml"
    file.write_text("encoder.layer.0.*: 0.8\n'*': 0.5\n")
    for value in ("encoder.layer.0.*=0.8, *=0.5", dict(wanted), str(file)):
        spec = build_find_spec({**given, "layer_densities": value})
        assert spec.search.layer_densities == wanted
    file.write_text("[: no")
    for value, message in {
        "encoder": r"--layer-densities has '': 'encoder'; expected PATTERN=DENSITY",
        "*=half": r"--layer-densities has '\*': 'half'; expected PATTERN=DENSITY",
        str(file): r"is not YAML",
    }.items():
        with pytest.raises(ConfigError, match=message):
            build_find_spec({**given, "layer_densities": value})


def test_every_fault_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build_find_spec(
            {
                **GIVEN,
                "grid": "0.2,x",
                "rewind": "step",
                "criterion": "snap",
                "controls": "flips:2,reinit:1,shufled",
            }
        )
    text = str(caught.value)
    for part in (
        "--grid is '0.2,x'; expected numbers",
        "--rewind step needs --rewind-step",
        "unknown criterion 'snap'",
        "control 'flips:2' has the amount '2'; expected a number above 0 up to 1",
        "control 'reinit:1': reinit takes no amount; write reinit.",
        "unknown control 'shufled'. Did you mean 'shuffled'?",
    ):
        assert part in text


def test_the_specs_fields_are_options_of_find() -> None:
    import inspect

    from ticketry import cli

    options = set(inspect.signature(cli.find).parameters)
    fields = {field.name for field in dataclasses.fields(SearchSpec)}
    assert fields <= options
