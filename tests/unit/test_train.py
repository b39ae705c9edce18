"""The training loop and the mask's enforcement: exact zeros, exact repetition, exact resume."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from small_task import small_task
from ticketry import checkpoint as checkpoints
from ticketry.companions import Capture
from ticketry.config import derive_seed
from ticketry.core.mask import Mask
from ticketry.course import Course, learning_rate, make_optimizer
from ticketry.enforce import MaskEnforcer, zero_pruned_
from ticketry.errors import ConfigError, MaskError, StorageError, TrainingError
from ticketry.models.loading import canonical_parameters, prunable, resolve
from ticketry.models.weights import take_weights
from ticketry.recipes import Recipe
from ticketry.tasks.classification import SequenceClassification
from ticketry.tasks.workload import Batch
from ticketry.training import TrainOutcome, train

RECIPE = Recipe(epochs=2, batch_size=8, max_length_tokens=16, learning_rate=5e-3, weight_decay=0.1)


@pytest.fixture(scope="module")
def workload(tiny_model: Path) -> SequenceClassification:
    torch.set_num_threads(1)
    return SequenceClassification(resolve(str(tiny_model)), small_task(), RECIPE)


def random_mask(model: nn.Module, density: float = 0.5, seed: int = 0) -> Mask:
    draw = torch.Generator().manual_seed(seed)
    parameters = canonical_parameters(model)
    return Mask(
        {
            name: torch.rand(parameters[name].shape, generator=draw) < density
            for name in prunable(model, "encoder")
        }
    )


@pytest.fixture(scope="module")
def mask(workload: SequenceClassification) -> Mask:
    return random_mask(workload.build(0))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in [*model.named_parameters(), *model.named_buffers()]}


def assert_same(a: TrainOutcome, b: TrainOutcome) -> None:
    assert a.record() == b.record()
    left, right = state(a.model), state(b.model)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def assert_zeros(model: nn.Module, mask: Mask) -> None:
    parameters = canonical_parameters(model)
    for name in mask:
        values = parameters[name].detach()
        assert int(values[~mask[name]].count_nonzero()) == 0
        assert int(values[mask[name]].count_nonzero()) > 0


# --- enforcement --------------------------------------------------------------------------------

TINY = BertConfig(
    vocab_size=29,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=12,
)


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForSequenceClassification(TINY)


def backward(model: nn.Module, seed: int = 0, scale: float = 1.0) -> None:
    ids = torch.randint(0, 29, (4, 6), generator=torch.Generator().manual_seed(seed))
    (model(input_ids=ids, labels=torch.tensor([0, 1, 0, 1])).loss * scale).backward()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_zeros_stay_through_momentum_decay_clipping_and_accumulation(
    model: nn.Module, kind: str
) -> None:
    mask = random_mask(model, 0.3)
    keys = list(model.state_dict())
    with MaskEnforcer(model, mask) as enforcer:
        optimizer = OPTIMIZERS[kind](model.parameters())
        for step in range(8):
            for part in range(2):  # two backward passes to a step
                backward(model, seed=2 * step + part)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad(set_to_none=step % 2 == 0)
        enforcer.check()
        assert list(model.state_dict()) == keys
    assert_zeros(model, mask)


def test_zeros_hold_against_unmasked_training(model: nn.Module) -> None:
    """The same steps without enforcement revive weights: the test above can fail."""
    mask = random_mask(model, 0.3)
    enforcer = MaskEnforcer(model, mask).attach()
    enforcer.detach()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    backward(model)
    optimizer.step()
    with pytest.raises(TrainingError, match=r"pruned weights of encoder\.layer\.0\..* not zero"):
        enforcer.check()


def test_infinite_gradients_of_pruned_weights_leave_zeros(model: nn.Module) -> None:
    mask = random_mask(model, 0.5)
    name = sorted(mask)[0]
    parameter = canonical_parameters(model)[name]
    pruned = ~mask[name]
    with MaskEnforcer(model, mask):
        optimizer = OPTIMIZERS["adamw-fused"](model.parameters())
        (parameter * torch.where(pruned, torch.inf, 1.0)).nan_to_num(nan=0.0).sum().backward()
        (parameter * torch.where(pruned, torch.inf, 1.0)).sum().backward()
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert_zeros(model, mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_pruned_entries_become_plus_zero_whatever_they_held(dtype: torch.dtype) -> None:
    values = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0, -3.0, 2.5], dtype=dtype)
    for rows in (values.repeat(2, 1), values.repeat(2, 1).t().contiguous().t()):
        keep = torch.tensor([[0] * 6, [-1] * 6], dtype=torch.int8)
        zero_pruned_(rows, keep)
        assert rows[0].tolist() == [0.0] * 6
        assert not torch.signbit(rows[0]).any()
        torch.testing.assert_close(rows[1], values, equal_nan=True, atol=0, rtol=0)


def test_the_clipping_norm_counts_survivors_only(model: nn.Module) -> None:
    mask = random_mask(model, 0.3)
    with MaskEnforcer(model, mask):
        backward(model)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        parameters = canonical_parameters(model)
        for name in mask:
            grad = parameters[name].grad
            assert grad is not None
            assert int(grad[~mask[name]].count_nonzero()) == 0
        wanted = sum(float(g.double().square().sum()) for g in gradients) ** 0.5
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert float(norm) == pytest.approx(wanted, rel=1e-5)


def test_a_model_can_be_copied_and_saved_afterwards(model: nn.Module) -> None:
    mask = random_mask(model)
    keys = list(model.state_dict())
    with MaskEnforcer(model, mask) as enforcer:
        enforcer.attach()  # a second call adds no second hook
        copied = copy.deepcopy(model)
        backward(model)
    for parameter in model.parameters():
        assert not getattr(parameter, "_post_accumulate_grad_hooks", None)
    assert list(model.state_dict()) == keys
    buffer = io.BytesIO()
    torch.save(model, buffer)
    for other in (copied, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(other.state_dict()) == keys
        assert_zeros(other, mask)
    model.zero_grad()
    backward(model)  # after detach gradients are whole again
    parameters = canonical_parameters(model)
    assert any(int(parameters[n].grad[~mask[n]].count_nonzero()) for n in mask)  # type: ignore[index]


def test_a_frozen_masked_tensor_is_zeroed(model: nn.Module) -> None:
    mask = random_mask(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with MaskEnforcer(model, mask):
        assert_zeros(model, mask)


def test_a_mask_of_another_shape_is_refused(model: nn.Module) -> None:
    name = "encoder.layer.0.output.dense.weight"
    with pytest.raises(MaskError, match=r"has shape \(8, 16\) in the model and \(16, 8\)"):
        MaskEnforcer(model, Mask({name: torch.ones(16, 8, dtype=torch.bool)}))


# --- the loop -----------------------------------------------------------------------------------


def test_a_masked_training_learns_and_keeps_zeros(
    workload: SequenceClassification, mask: Mask
) -> None:
    seen: list[tuple[int, int]] = []
    outcome = train(
        workload,
        dataclasses.replace(RECIPE, epochs=20, learning_rate=2e-3),
        seed=1,
        mask=mask,
        progress=lambda done, steps: seen.append((done, steps)),
    )
    assert seen == [(i, 160) for i in range(1, 161)]
    assert_zeros(outcome.model, mask)
    assert outcome.final_loss < 0.6 * outcome.mean_loss
    assert workload.evaluate(outcome.model, "test").score > 0.8
    assert not outcome.model.training
    assert list(outcome.model.state_dict()) == list(workload.build(0).state_dict())
    lengths = int(workload._splits["train"].lengths.sum())
    assert outcome.record() == {
        "steps": 160,
        "train_examples": 1280,
        "train_tokens": 20 * lengths,
        "mean_loss": outcome.mean_loss,
        "final_loss": outcome.final_loss,
        "truncated": {"train": 0, "validation": 0, "test": 0},
    }
    json.dumps(outcome.record(), allow_nan=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_repeats_itself(
    workload: SequenceClassification, mask: Mask, dtype: str
) -> None:
    recipe = dataclasses.replace(RECIPE, dtype=dtype)
    torch.manual_seed(1)
    first = train(workload, recipe, seed=3, mask=mask)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert_same(first, train(workload, recipe, seed=3, mask=mask))
    assert torch.equal(torch.get_rng_state(), before)
    assert train(workload, recipe, seed=4, mask=mask).mean_loss != first.mean_loss
    assert {p.dtype for p in first.model.parameters()} == {torch.float32}


def test_precision_is_the_recipes(workload: SequenceClassification) -> None:
    losses = {
        dtype: train(workload, dataclasses.replace(RECIPE, dtype=dtype), seed=3).mean_loss
        for dtype in ("float32", "bfloat16")
    }
    assert losses["float32"] != losses["bfloat16"]
    assert losses["float32"] == pytest.approx(losses["bfloat16"], rel=0.05)


def test_a_full_mask_is_dense(workload: SequenceClassification) -> None:
    full = random_mask(workload.build(0), density=2.0)
    assert full.kept == full.prunable
    assert_same(train(workload, RECIPE, seed=3), train(workload, RECIPE, seed=3, mask=full))


def test_seeds_of_head_and_order_are_recorded_ones(workload: SequenceClassification) -> None:
    """One step by hand, with torch's own optimizer, gives the loop's weights."""
    recipe = dataclasses.replace(RECIPE, epochs=0.125)
    outcome = train(workload, recipe, seed=9)
    assert outcome.steps == 1
    model = workload.build(derive_seed(9, "head")).train()
    (batch,) = workload.batches(derive_seed(9, "order"), recipe)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        eps=1e-8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(9, "dropout"))
        workload.loss(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    found = dict(outcome.model.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter, atol=1e-6, rtol=1e-5)


def test_frozen_embeddings_do_not_move(workload: SequenceClassification, mask: Mask) -> None:
    outcome = train(
        workload, dataclasses.replace(RECIPE, freeze_embeddings=True), seed=3, mask=mask
    )
    start = canonical_parameters(workload.build(0))
    for name, parameter in canonical_parameters(outcome.model).items():
        assert parameter.requires_grad
        same = torch.equal(parameter, start[name])
        # The pooler and every block move, embeddings do not.
        assert same == name.startswith("embeddings."), name


@pytest.mark.parametrize(
    ("warmup", "wanted"),
    [(0.0, [1.0, 0.75, 0.5, 0.25]), (0.5, [0.0, 0.5, 1.0, 0.5])],
)
def test_the_rate_decays_to_zero_after_warmup(warmup: float, wanted: list[float]) -> None:
    recipe = Recipe(learning_rate=1.0, warmup_fraction=warmup)
    assert [learning_rate(recipe, step, 4) for step in range(4)] == wanted


def test_biases_and_norms_are_not_decayed(workload: SequenceClassification) -> None:
    optimizer = make_optimizer(workload.build(0), RECIPE, torch.device("cpu"))
    groups = {g["weight_decay"]: {p.ndim for p in g["params"]} for g in optimizer.param_groups}
    assert groups == {0.1: {2}, 0.0: {1}}
    assert optimizer.defaults["fused"]


class Diverging(SequenceClassification):
    """The same workload, with one loss or gradient spoilt."""

    spoil_at = 3
    spoil = "loss"
    calls = 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.calls += 1
        loss = super().loss(model, batch)
        if self.calls != self.spoil_at:
            return loss
        if self.spoil == "loss":
            return loss * torch.nan
        # A finite loss with an infinite slope.
        return loss + torch.sqrt(0 * loss)


@pytest.mark.parametrize(
    ("spoil", "found"), [("loss", "the loss is nan"), ("slope", "the gradient's norm is nan")]
)
def test_a_loss_or_gradient_that_is_not_finite_stops(
    tiny_model: Path, mask: Mask, spoil: str, found: str
) -> None:
    diverging = Diverging(resolve(str(tiny_model)), small_task(), RECIPE)
    diverging.spoil = spoil
    recipe = dataclasses.replace(RECIPE, dtype="bfloat16")
    with pytest.raises(TrainingError) as caught:
        train(diverging, recipe, seed=1, mask=mask)
    assert str(caught.value) == (
        f"{found} at step 3 of 16 (epoch 0.25 of 2, learning rate 0.00438); expected a finite "
        "number. Try a lower --learning-rate than 0.005, or --dtype float32. "
        "What was finished is kept."
    )


# --- checkpoints --------------------------------------------------------------------------------


def stop_at(step: int) -> Callable[[int, int], None]:
    def progress(done: int, steps: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stopped_training_goes_on_bit_for_bit(
    workload: SequenceClassification, mask: Mask, tmp_path: Path, dtype: str
) -> None:
    recipe = dataclasses.replace(RECIPE, dtype=dtype, freeze_embeddings=dtype == "bfloat16")
    whole = train(workload, recipe, seed=3, mask=mask)
    options: dict[str, Any] = {
        "seed": 3,
        "mask": mask,
        "checkpoint": tmp_path / "scratch",
        "checkpoint_every_s": 0,
    }
    for step in (5, 11):
        with pytest.raises(KeyboardInterrupt):
            train(workload, recipe, progress=stop_at(step), **options)
    steps: list[int] = []
    went_on = train(workload, recipe, progress=lambda done, _: steps.append(done), **options)
    assert (went_on.resumed_at_step, steps[0]) == (11, 12)
    assert went_on.warnings == ()
    assert_same(whole, went_on)
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == [checkpoints.FILE]


def test_stopping_leaves_a_checkpoint_though_none_was_due(
    workload: SequenceClassification, mask: Mask, tmp_path: Path
) -> None:
    whole = train(workload, RECIPE, seed=3, mask=mask)
    with pytest.raises(KeyboardInterrupt):
        train(workload, RECIPE, seed=3, mask=mask, progress=stop_at(3), checkpoint=tmp_path / "s")
    again = train(workload, RECIPE, seed=3, mask=mask, checkpoint=tmp_path / "s")
    assert again.resumed_at_step == 3
    assert_same(whole, again)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "pickle"])
def test_a_torn_checkpoint_is_ignored_with_a_warning(
    workload: SequenceClassification, mask: Mask, tmp_path: Path, damage: str
) -> None:
    whole = train(workload, RECIPE, seed=3, mask=mask)
    with pytest.raises(KeyboardInterrupt):
        train(
            workload,
            RECIPE,
            seed=3,
            mask=mask,
            progress=stop_at(5),
            checkpoint=tmp_path,
            checkpoint_every_s=0,
        )
    path = tmp_path / checkpoints.FILE
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[-100] ^= 1
    elif damage == "empty":
        data = bytearray()
    else:
        data = bytearray(pickle.dumps({"step": 4}))
    path.write_bytes(data)
    again = train(workload, RECIPE, seed=3, mask=mask, checkpoint=tmp_path)
    assert again.resumed_at_step == 0
    (warning,) = again.warnings
    assert "checkpoint.safetensors cannot be used" in warning
    assert_same(whole, again)


def test_a_checkpoint_of_another_training_is_not_taken_up(
    workload: SequenceClassification, mask: Mask, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(
            workload,
            RECIPE,
            seed=3,
            mask=mask,
            progress=stop_at(5),
            checkpoint=tmp_path,
            checkpoint_every_s=0,
        )
    other = train(workload, RECIPE, seed=4, mask=mask, checkpoint=tmp_path)
    assert other.resumed_at_step == 0
    assert "it is another training's" in other.warnings[0]
    assert_same(train(workload, RECIPE, seed=4, mask=mask), other)


def test_a_checkpoint_that_cannot_be_written_is_a_storage_error(
    workload: SequenceClassification, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        train(workload, RECIPE, seed=3, checkpoint=tmp_path / "file" / "x", checkpoint_every_s=0)


def test_a_training_may_end_early_on_the_schedule_of_the_whole(
    workload: SequenceClassification, mask: Mask, tmp_path: Path
) -> None:
    steps = len(workload.batches(0, RECIPE))
    captured = Capture(7)
    train(workload, RECIPE, seed=3, mask=mask, companions=[captured])
    seen: list[tuple[int, int]] = []
    early = train(
        workload, RECIPE, seed=3, mask=mask, course=Course(end_step=7),
        progress=lambda *at: seen.append(at),
    )  # fmt: skip
    assert steps > early.steps == 7
    assert seen[-1] == (7, 7)
    found = take_weights(early.model)
    assert found.keys() == captured.weights.keys()
    assert all(torch.equal(tensor, captured.weights[name]) for name, tensor in found.items())

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            workload, RECIPE, seed=3, mask=mask, course=Course(end_step=7), progress=stop,
            checkpoint=tmp_path / "at",
        )  # fmt: skip
    again = train(
        workload, RECIPE, seed=3, mask=mask, course=Course(end_step=7), checkpoint=tmp_path / "at"
    )
    assert again.resumed_at_step == 4
    assert all(torch.equal(t, found[name]) for name, t in take_weights(again.model).items())
    for end in (0, steps + 1):
        with pytest.raises(ConfigError, match=f"from step 0 to {end} of {steps} was asked for"):
            train(workload, RECIPE, seed=3, course=Course(end_step=end))
