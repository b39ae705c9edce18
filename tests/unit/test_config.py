from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticketry.config import (
    canonical_json,
    derive_seed,
    fingerprint,
    search_seed,
    verification_seeds,
)
from ticketry.errors import ConfigError, InputError, UnknownNameError, unknown_name
from ticketry.options import as_names, build_find_spec, read_config
from ticketry.recipes import RECIPES

GOOD = {"model": "minilm", "task": "movies"}


def faults_of(**options: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_find_spec({**GOOD, **options})
    return list(caught.value.faults)


def test_canonical_json_is_independent_of_order() -> None:
    assert canonical_json({"b": 1, "a": [1.5]}) == '{"a":[1.5],"b":1}'
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


@given(st.integers(0, 2**20 - 1), st.integers(0, 2**20 - 1), st.integers(2, 999))
def test_search_and_verification_seeds_never_meet(a: int, b: int, replicates: int) -> None:
    assert search_seed(a) not in verification_seeds(b, replicates)
    assert len(set(verification_seeds(b, replicates))) == replicates


def test_derived_seeds_differ_by_purpose_and_are_frozen() -> None:
    assert derive_seed(1, "head") != derive_seed(1, "order")
    assert derive_seed(1, "head") != derive_seed(2, "head")
    # Frozen: another value would silently change every result.
    assert derive_seed(0, "head") == 1707137717


def test_defaults_follow_the_model() -> None:
    assert build_find_spec(GOOD).recipe == RECIPES["embedded"]
    assert build_find_spec({**GOOD, "model": "bert-base-uncased"}).recipe == RECIPES["paper"]


def test_options_change_the_recipe() -> None:
    spec = build_find_spec({**GOOD, "epochs": 1, "max_length": 64, "train_samples": 100})
    assert spec.recipe == dataclasses.replace(
        RECIPES["embedded"], epochs=1, max_length_tokens=64, train_samples=100
    )


def test_the_fingerprint_follows_the_spec() -> None:
    a, b = build_find_spec(GOOD), build_find_spec({**GOOD, "seed": 1})
    assert a.fingerprint == build_find_spec(GOOD).fingerprint != b.fingerprint


def test_all_faults_are_listed_at_once() -> None:
    faults = faults_of(
        sparsity=40.0, method="imq", levels=2, rate=0.3, replicates=1, controls="rndom"
    )
    assert len(faults) == 5
    assert faults[0].startswith("--sparsity is 40.0; expected a number in [0, 1). Percent")
    assert "Did you mean 'imp'?" in faults[1]
    assert "--levels and --rate were both given" in faults[2]
    assert faults[3].startswith("--replicates is 1; expected at least 2")
    assert "unknown control 'rndom'. Did you mean 'random'?" in faults[4]


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_sparsity_outside_the_range(sparsity: float) -> None:
    assert faults_of(sparsity=sparsity)[0].startswith(f"--sparsity is {sparsity}; expected")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "--rate is 0.0; expected a number in (0, 1)."),
        ({"levels": 0}, "--levels is 0; expected at least 1."),
        ({"rate_of": "all"}, "unknown --rate-of 'all'."),
        ({"source": "trained2", "method": "one-shot"}, "unknown --from 'trained2'."),
        ({"source": "theta0"}, "--from theta0 scores the pre-trained weights without training"),
        ({"method": "one-shot", "levels": 3}, "--method one-shot has one level"),
        ({"min_layer_density": 0.7}, "cannot be kept in every layer at sparsity 0.4"),
        ({"device": "gpu"}, "unknown --device 'gpu'."),
        ({"dtype": "fp16"}, "unknown --dtype 'fp16'."),
        ({"recipe": "papr"}, "unknown --recipe 'papr'. Did you mean 'paper'?"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan; expected a finite number"),
        ({"weight_decay": -0.1}, "--weight-decay is -0.1; expected a finite number, 0 or above."),
        ({"train_samples": 1}, "--train-samples is 1; expected at least 2."),
        ({"threads": 0}, "--threads is 0; expected at least 1."),
        ({"seed": -1}, "--seed is -1; expected a whole number"),
        ({"scope": ""}, "--scope is empty"),
        ({"model": ""}, "--model is empty"),
        ({"task": None}, "neither --task nor --data was given"),
        ({"data": "a.csv"}, "--task and --data were both given; give one."),
        ({"text_column": "t"}, "--text-column go with --data"),
        ({"task": None, "data": "a.csv"}, "--data needs --text-column"),
        ({"sparsty": 0.4}, "unknown option 'sparsty'. Did you mean 'sparsity'?"),
        ({"levels": 2.5}, "--levels is 2.5; expected a whole number."),
        ({"sparsity": "much"}, "--sparsity is 'much'; expected a number."),
    ],
)
def test_each_fault_has_its_message(options: dict[str, object], message: str) -> None:
    assert any(message in fault for fault in faults_of(**options))


def test_controls_none_means_no_control() -> None:
    assert build_find_spec({**GOOD, "controls": "none"}).controls == ()
    assert as_names("a, b,a") == ("a", "b")
    assert as_names(["a", "b,c"]) == ("a", "b", "c")


def test_yaml_options(tmp_path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: minilm\ntrain-samples: 10\ncontrols: [random]\n")
    assert read_config(path) == {"model": "minilm", "train_samples": 10, "controls": ["random"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "holds list; expected `option: value` lines."),
        ("a: [\n", "is not YAML"),
        ("sparsty: 0.4\nlevels: two\n", "2 faults"),
        ("!!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_bad_yaml(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        read_config(path)


def test_a_config_that_is_not_there(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_config(tmp_path / "none.yaml")


def test_unknown_names_show_the_nearest() -> None:
    error = unknown_name("task", "movis", ["movies", "amazon"])
    assert isinstance(error, UnknownNameError)
    assert isinstance(error, InputError)
    assert str(error) == "unknown task 'movis'. Did you mean 'movies'? Known: amazon, movies."
    assert str(unknown_name("task", "zzz", ["movies"])) == "unknown task 'zzz'. Known: movies."
