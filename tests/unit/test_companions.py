"""What accompanies a training: points to rewind to, sums of movement, gradual pruning; courses."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForTokenClassification

from small_task import small_task
from ticketry.companions import Capture, Companion, GradualPruning, Movement, Silent
from ticketry.core.mask import Mask
from ticketry.core.schedule import cubic_sparsity
from ticketry.core.select import select_global
from ticketry.course import WHOLE, Course
from ticketry.enforce import MaskEnforcer
from ticketry.errors import MaskError, ModelError
from ticketry.models.loading import canonical_parameters, prunable, resolve
from ticketry.models.weights import (
    HEAD,
    base_part,
    put_weights_,
    reinitialised,
    take_weights,
)
from ticketry.recipes import Recipe
from ticketry.tasks.classification import SequenceClassification
from ticketry.training import train

RECIPE = Recipe(epochs=2, batch_size=8, max_length_tokens=16, learning_rate=5e-3, weight_decay=0.1)
STEPS = 16  # 2 epochs of 64 examples in batches of 8


@pytest.fixture(scope="module")
def workload(tiny_model: Path) -> SequenceClassification:
    torch.set_num_threads(1)
    return SequenceClassification(resolve(str(tiny_model)), small_task(), RECIPE)


@pytest.fixture(scope="module")
def names(workload: SequenceClassification) -> tuple[str, ...]:
    return prunable(workload.build(0), "encoder")


def smallest(weights: dict[str, Tensor], density: float, within: Mask) -> Mask:
    return select_global(weights, density, within=within)


def gradual(names: tuple[str, ...], updates: int = 4) -> GradualPruning:
    return GradualPruning(names, 0.6, start=0.25, end=0.75, updates=updates, choose=smallest)


class Until(Silent):
    """Stops a training after so many steps, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def progress(self, done: int, steps: int) -> None:
        if done == self.step:
            raise KeyboardInterrupt


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


# --- points to rewind to ------------------------------------------------------------------------


def test_a_captured_point_is_the_model_of_that_step(workload: SequenceClassification) -> None:
    capture = Capture(5)
    whole = train(workload, RECIPE, seed=3, companions=[capture])
    seen: dict[str, Tensor] = {}

    class Spy(Silent):
        def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            self.model = model

        def after_step(self, done: int, steps: int) -> None:
            if done == 5:
                seen.update({n: p.detach().clone() for n, p in self.model.named_parameters()})

    train(workload, RECIPE, seed=3, companions=[Spy()])
    model = workload.build(0)
    put_weights_(model, capture.weights)
    assert seen
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, seen[name]), name
    assert not same(model, whole.model)


def test_a_point_at_step_0_is_the_start(workload: SequenceClassification) -> None:
    capture = Capture(0)
    train(workload, RECIPE, seed=3, companions=[capture])
    from ticketry.config import derive_seed

    start = take_weights(workload.build(derive_seed(3, "head")))
    assert capture.weights.keys() == start.keys()
    assert all(torch.equal(capture.weights[n], start[n]) for n in start)


def test_weights_go_back_bit_for_bit_and_a_head_is_told_apart(
    workload: SequenceClassification,
) -> None:
    model = train(workload, RECIPE, seed=1).model
    weights = take_weights(model)
    fresh = workload.build(7)
    put_weights_(fresh, weights)
    assert same(fresh, model)
    other = workload.build(7)
    put_weights_(other, base_part(weights))
    heads = [name for name in weights if name.startswith(HEAD)]
    assert heads == ["head/classifier.weight", "head/classifier.bias"]
    assert torch.equal(other.classifier.weight, workload.build(7).classifier.weight)
    assert torch.equal(
        canonical_parameters(other)["encoder.layer.0.output.dense.weight"],
        weights["encoder.layer.0.output.dense.weight"],
    )


def test_weights_of_another_model_change_nothing(workload: SequenceClassification) -> None:
    model = workload.build(0)
    before = take_weights(model)
    good = {"encoder.layer.0.output.dense.bias": torch.ones(32)}
    with pytest.raises(ModelError, match="2 of 3 tensors to start from do not fit the model"):
        put_weights_(model, {**good, "nowhere": torch.ones(1), "pooler.dense.bias": torch.ones(3)})
    after = take_weights(model)
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_a_pooler_that_a_task_model_does_without_is_left_out(
    workload: SequenceClassification, tiny_model: Path
) -> None:
    weights = reinitialised(resolve(str(tiny_model)), 1)
    assert "pooler.dense.weight" in weights
    tagger = BertForTokenClassification(BertConfig.from_pretrained(tiny_model))
    put_weights_(tagger, weights)
    found = canonical_parameters(tagger)
    assert set(weights) - set(found) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(parameter, weights[name]) for name, parameter in found.items())
    classifier = workload.build(0)  # it has one, which is taken up
    put_weights_(classifier, weights)
    assert torch.equal(classifier.bert.pooler.dense.weight, weights["pooler.dense.weight"])
    with pytest.raises(ModelError, match="1 of 38 tensors to start from do not fit the model: x"):
        put_weights_(tagger, {"x": torch.ones(1), **weights})


def test_reinitialised_weights_follow_the_seed_alone(tiny_model: Path) -> None:
    base = resolve(str(tiny_model))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, other = (reinitialised(base, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    name = "encoder.layer.1.attention.self.key.weight"
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])
    assert abs(float(first[name].std()) - 0.02) < 0.005  # BERT's initializer_range


# --- courses ------------------------------------------------------------------------------------


def test_a_course_begins_where_it_says(workload: SequenceClassification) -> None:
    still = dataclasses.replace(RECIPE, learning_rate=1e-30, weight_decay=0.0)
    weights = take_weights(train(workload, RECIPE, seed=1).model)
    outcome = train(workload, still, seed=2, course=Course(weights=weights, first_step=10))
    assert outcome.steps == STEPS - 10
    assert outcome.train_examples == (STEPS - 10) * 8
    moved = take_weights(outcome.model)
    assert all(torch.allclose(moved[n], weights[n], atol=1e-20) for n in weights)


def test_rounds_share_a_schedule() -> None:
    assert WHOLE.place(3, 16) == (3, 16)
    assert Course(rounds_before=2, rounds=5).place(3, 16) == (35, 80)


def test_a_course_stops_and_goes_on_bit_for_bit(
    workload: SequenceClassification, names: tuple[str, ...], tmp_path: Path
) -> None:
    weights = take_weights(train(workload, RECIPE, seed=1).model)
    course = Course(weights=weights, first_step=4)

    def companions() -> list[Companion]:
        return [Movement(names), gradual(names), Capture(9)]

    whole, parts = companions(), companions()
    undisturbed = train(workload, RECIPE, seed=2, course=course, companions=whole)
    arguments = {"seed": 2, "course": course, "checkpoint": tmp_path}
    for stop in (7, 11):
        with pytest.raises(KeyboardInterrupt):
            train(
                workload,
                RECIPE,
                companions=companions(),
                progress=Until(stop).progress,
                **arguments,
            )
    resumed = train(workload, RECIPE, companions=parts, **arguments)
    assert resumed.resumed_at_step == 11
    assert resumed.record() == undisturbed.record()
    assert same(resumed.model, undisturbed.model)
    for a, b in zip(whole, parts, strict=True):
        left, right = a.state(), b.state()
        assert left
        assert left.keys() == right.keys()
        assert all(torch.equal(left[n], right[n]) for n in left)


def test_a_checkpoint_of_another_course_is_not_taken_up(
    workload: SequenceClassification, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(workload, RECIPE, seed=2, checkpoint=tmp_path, progress=Until(7).progress)
    outcome = train(workload, RECIPE, seed=2, checkpoint=tmp_path, course=Course(rounds=2))
    assert outcome.resumed_at_step == 0
    assert outcome.warnings


# --- movement -----------------------------------------------------------------------------------


def test_movement_sums_minus_weight_times_gradient(
    workload: SequenceClassification, names: tuple[str, ...]
) -> None:
    movement, wanted = Movement(names), torch.zeros(32, 32)

    class Spy(Silent):
        def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            self.weight = canonical_parameters(model)[names[0]]

        def after_backward(self, done: int) -> None:
            assert self.weight.grad is not None
            wanted.sub_(self.weight.detach() * self.weight.grad)

    assert names[0] == "encoder.layer.0.attention.output.dense.weight"
    train(workload, RECIPE, seed=0, companions=[Spy(), movement])
    assert torch.allclose(movement.sums[names[0]], wanted, rtol=1e-5, atol=1e-8)
    assert float(wanted.abs().max()) > 0


# --- gradual pruning ----------------------------------------------------------------------------


def test_the_cubic_schedule_by_hand() -> None:
    assert cubic_sparsity(0, 0.8) == 0
    assert cubic_sparsity(0.5, 0.8) == pytest.approx(0.8 * 7 / 8)
    assert cubic_sparsity(1, 0.8) == 0.8
    assert cubic_sparsity(2, 0.8) == 0.8


def test_updates_are_spread_over_the_phase_and_end_on_the_target() -> None:
    pruning = GradualPruning(("w",), 0.8, start=0.25, end=0.75, updates=4, choose=smallest)
    due = {done: s for done in range(17) if (s := pruning.due(done, 16)) is not None}
    # Steps 4 to 12 in four updates; 1 − (3/4)³ = 37/64 and so on of 0.8.
    assert due == {
        6: pytest.approx(0.8 * 37 / 64),
        8: pytest.approx(0.8 * 56 / 64),
        10: pytest.approx(0.8 * 63 / 64),
        12: 0.8,
    }


def test_gradual_masks_are_nested_exact_and_their_zeros_stay(
    workload: SequenceClassification, names: tuple[str, ...]
) -> None:
    pruning = gradual(names)
    masks: list[Mask] = []

    class Spy(Silent):
        def after_step(self, done: int, steps: int) -> None:
            if not masks or pruning.mask != masks[-1]:
                masks.append(pruning.mask)

    model = train(workload, RECIPE, seed=0, companions=[pruning, Spy()]).model
    mask = pruning.finish()
    assert [m.kept for m in masks[1:]] == [
        round((1 - cubic_sparsity(p, 0.6)) * 16_384) for p in (0.25, 0.5, 0.75, 1.0)
    ]
    assert all(b.is_subset_of(a) for a, b in itertools.pairwise(masks))
    parameters = canonical_parameters(model)
    for name in names:
        assert int(parameters[name][~mask[name]].count_nonzero()) == 0


def test_without_clearing_moments_new_zeros_would_move(
    workload: SequenceClassification, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = MaskEnforcer.narrow

    def forgetful(self: MaskEnforcer, mask: Mask, optimizer: torch.optim.Optimizer) -> None:
        narrow(self, mask, torch.optim.SGD([torch.zeros(1, requires_grad=True)]))

    monkeypatch.setattr(MaskEnforcer, "narrow", forgetful)
    pruning = gradual(names)
    train(workload, RECIPE, seed=0, companions=[pruning])
    with pytest.raises(Exception, match=r"pruned weights of .* are not zero after training"):
        pruning.finish()


def test_a_mask_cannot_grow_back(workload: SequenceClassification) -> None:
    model = workload.build(0)
    parameters = canonical_parameters(model)
    name = "encoder.layer.0.output.dense.weight"
    some = Mask({name: torch.rand(parameters[name].shape) < 0.5})
    optimizer = torch.optim.AdamW(model.parameters())
    with MaskEnforcer(model, some) as enforcer:
        with pytest.raises(MaskError, match="that were pruned before"):
            enforcer.narrow(Mask.full({name: some.shape(name)}), optimizer)
        with pytest.raises(MaskError, match="expected the same tensors"):
            enforcer.narrow(Mask.full({"other": (2, 2)}), optimizer)
