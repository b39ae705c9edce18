from __future__ import annotations

from pathlib import Path

import pytest

from ticketry.config import SearchSpec, search_seed, verification_seeds
from ticketry.plan import FORWARD_SHARE, Plan, dense_equivalents, say_seconds
from ticketry.recipes import RECIPES, Recipe
from ticketry.search import Sizes, plan_search, search_levels
from ticketry.steps import Step
from ticketry.store import Store
from ticketry.verification import Start, plan_verification

SIZES = Sizes(train=2000, validation=300, test=600)
RECIPE = Recipe(epochs=2, batch_size=32)


def make_plan(search: SearchSpec, controls: tuple[str, ...] = ("random-layerwise",)) -> Plan:
    found = plan_search(search, RECIPE, 0, SIZES, "context")
    seeds = verification_seeds(0, 3)
    start = Start(
        found.mask_key, search.sparsity, search.pattern, found.weights_key, found.rewind_step
    )
    verification = plan_verification(start, RECIPE, seeds, controls, SIZES, "context")
    return Plan("title", RECIPE, found, verification)


def test_levels_end_exactly_at_the_sparsity() -> None:
    # Two levels to 40%: the first keeps sqrt(0.6) = 0.7746 of the weights.
    first, last = search_levels(SearchSpec(sparsity=0.4, levels=2))
    assert first == pytest.approx(1 - 0.6**0.5)
    assert last == 0.4
    # 20% of the remaining a round: 0.2, 0.36, and then what was asked for.
    assert search_levels(SearchSpec(sparsity=0.4)) == pytest.approx((0.2, 0.36, 0.4))
    assert search_levels(SearchSpec(sparsity=0.4, method="one-shot")) == (0.4,)


def test_imp_is_a_chain_from_theta0_with_the_search_seed() -> None:
    search = plan_search(SearchSpec(sparsity=0.4, levels=2), RECIPE, 3, SIZES, "context")
    one, two = search.steps
    assert one.needs == ()
    assert two.needs == (one.key,)
    assert search.mask_key == two.key
    assert {step.params["seed"] for step in search.steps} == {search_seed(3)}
    assert two.params["density"] == 0.6


def test_the_plan_of_the_main_job() -> None:
    plan = make_plan(SearchSpec(sparsity=0.4, levels=2))
    kinds = [step.kind for step in plan.steps]
    assert kinds.count("level") == 2
    assert kinds.count("replicate") == 9
    assert kinds.count("half-budget") == 3
    search_seeds = {s.params["seed"] for s in plan.steps if s.searching}
    verify_seeds = {s.params["seed"] for s in plan.steps if not s.searching}
    assert not search_seeds & verify_seeds
    # Arms are paired: dense, ticket and control share their seeds in order.
    verification = plan.verification
    arms = [verification.dense, verification.ticket, *verification.controls.values()]
    assert {tuple(s.params["seed"] for s in arm) for arm in arms} == {(1, 2, 3)}


def test_steps_come_after_what_they_need() -> None:
    plan = make_plan(SearchSpec(sparsity=0.4, levels=3), ("random", "oneshot-theta0"))
    seen: set[str] = set()
    for step in plan.steps:
        assert set(step.needs) <= seen
        seen.add(step.key)


def test_cost_in_dense_equivalents_by_hand() -> None:
    plan = make_plan(SearchSpec(sparsity=0.4, levels=2))
    # 63 or 125 updates: 2 epochs of 2,000 are 4,000 passes; 300 evaluations cost 100 passes.
    step = plan.search.steps[0]
    assert step.train_passes == 4000
    assert dense_equivalents(plan.search.steps, 4000) == pytest.approx(2 * (4000 + 100) / 4000)
    assert pytest.approx(1 / 3) == FORWARD_SHARE


def test_one_shot_on_theta0_costs_nothing() -> None:
    plan = make_plan(SearchSpec(sparsity=0.4, method="one-shot", source="theta0"))
    (step,) = plan.search.steps
    assert step.train_passes == step.eval_passes == 0
    assert [step.kind for step in plan.search.steps] == ["theta0-mask"]
    assert plan.search.seeds == ()


def test_the_same_training_in_two_arms_is_run_once() -> None:
    # The θ0 mask is the ticket and its own control: equal keys, one set of fine-tunings.
    search = SearchSpec(sparsity=0.4, method="one-shot", source="theta0")
    plan = make_plan(search, ("oneshot-theta0",))
    assert [s.key for s in plan.verification.ticket] == [
        s.key for s in plan.verification.controls["oneshot-theta0"]
    ]
    assert len(plan.steps) == 1 + 3 + 3 + 3


def test_keys_follow_everything_that_decides(tmp_path) -> None:
    base = Step("a", "replicate", {"seed": 1}, "context")
    assert base.key == Step("another name", "replicate", {"seed": 1}, "context").key
    for other in (
        Step("a", "half-budget", {"seed": 1}, "context"),
        Step("a", "replicate", {"seed": 2}, "context"),
        Step("a", "replicate", {"seed": 1}, "other"),
        Step("a", "replicate", {"seed": 1}, "context", needs=("k",)),
    ):
        assert other.key != base.key
    assert Step.from_json(base.to_json()) == base
    assert Step.from_json(base.to_json()).key == base.key


def test_plan_lines_say_the_cost_before_it_is_spent(tmp_path) -> None:
    plan = make_plan(SearchSpec(sparsity=0.4, levels=2))
    text = "\n".join(plan.lines(Store(tmp_path), 480.0, 2))
    assert "search                       2 × 4,000 passes" in text
    assert "control random-layerwise     3 × 4,000 passes" in text
    assert "seeds 1, 2, 3" in text
    assert "about 8 min with 2 workers" in text
    assert RECIPES["paper"].describe().startswith("paper: AdamW, learning rate 2e-05")


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (61, "61 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert say_seconds(seconds) == said


def test_every_step_has_its_part_and_a_shared_one_is_paid_once(tmp_path: Path) -> None:
    # One-shot from θ0 is its own control: the ticket's trainings serve both arms.
    search = SearchSpec(sparsity=0.4, method="one-shot", source="theta0")
    plan = make_plan(search, ("random-layerwise", "oneshot-theta0"))
    found = plan.to_json(Store(tmp_path), None)
    parts = [step["part"] for step in found["steps"]]
    assert list(dict.fromkeys(parts)) == [
        "search",
        "dense",
        "dense, half budget",
        "ticket",
        "control random-layerwise",
    ]
    assert parts.count("ticket") == 3
    total = sum(step["dense_equivalents"] for step in found["steps"])
    assert total == pytest.approx(found["cost"]["dense_equivalents"], abs=0.01)
