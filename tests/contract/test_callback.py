"""A ticket in a user's own ``transformers.Trainer``: exact zeros, whatever the Trainer does."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import DeepSpeedPlugin
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from small_task import small_task
from ticketry import TicketCallback
from ticketry.config import derive_seed
from ticketry.core.mask import Mask
from ticketry.enforce import MaskEnforcer
from ticketry.errors import (
    BaseMismatchError,
    ConfigError,
    RunMismatchError,
    TrainingError,
)
from ticketry.models import lean
from ticketry.models.loading import (
    base_sha256,
    canonical_parameters,
    load_backbone,
    prunable,
    resolve,
    tensor_hashes,
)
from ticketry.recipes import Recipe
from ticketry.tasks.classification import SequenceClassification
from ticketry.ticket import Base, Rewind, Ticket
from ticketry.training import make_optimizer, train

RATE = 2.0**-8
"""A power of two, so that the Trainer's rate × share is the same number as our (rate · n) / m."""
RECIPE = Recipe(
    epochs=2, batch_size=8, max_length_tokens=16, learning_rate=RATE, weight_decay=0.1, clip_norm=1
)
SEED = 3


@pytest.fixture(scope="module")
def workload(tiny_model: Path) -> SequenceClassification:
    torch.set_num_threads(1)
    return SequenceClassification(resolve(str(tiny_model)), small_task(), RECIPE)


def draw_mask(model: nn.Module, density: float = 0.5, seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    parameters = canonical_parameters(model)
    names = prunable(model, "encoder")
    return Mask({n: torch.rand(parameters[n].shape, generator=generator) < density for n in names})


def ticket_for(folder: Path, *, seed: int = 0) -> Ticket:
    backbone = load_backbone(resolve(str(folder)))
    hashes = tensor_hashes(backbone)
    base = Base(str(folder), None, base_sha256(hashes), hashes, "bert", 20_192)
    return Ticket(draw_mask(backbone, seed=seed), base)


@pytest.fixture(scope="module")
def ticket(tiny_model: Path) -> Ticket:
    return ticket_for(tiny_model)


@pytest.fixture
def model(workload: SequenceClassification) -> nn.Module:
    return workload.build(derive_seed(SEED, "head"))


@pytest.fixture(scope="module")
def batches(workload: SequenceClassification) -> list[dict[str, Tensor]]:
    return [dict(batch) for batch in workload.batches(derive_seed(SEED, "order"), RECIPE)]


class SeedDropout(TrainerCallback):
    """Draws dropout as our loop does; the data loader draws from the same generator before it."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            torch.default_generator.manual_seed(derive_seed(SEED, "dropout"))


@pytest.fixture
def make(model: nn.Module, batches: list[dict[str, Tensor]], tmp_path: Path) -> Iterator[Any]:
    """Make a Trainer that is given whole batches in their order."""

    def make(*callbacks: TrainerCallback, **options: Any) -> Trainer:
        chosen = options.pop("model", model)
        optimizer = options.pop("optimizer", None)
        given = options.pop("batches", batches)
        metrics = options.pop("compute_metrics", None)
        arguments: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 1,
            "per_device_eval_batch_size": 1,
            "train_sampling_strategy": "sequential",
            "learning_rate": RATE,
            "weight_decay": 0.1,
            "max_grad_norm": RECIPE.clip_norm,
            "lr_scheduler_type": "linear",
            "remove_unused_columns": False,
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
            "report_to": "none",
            "save_strategy": "no",
            "logging_strategy": "no",
            "seed": SEED,
            **options,
        }
        return Trainer(
            model=chosen,
            args=TrainingArguments(**arguments),
            train_dataset=given,
            eval_dataset=given[:3],
            data_collator=lambda items: items[0],
            callbacks=list(callbacks),
            compute_metrics=metrics,
            optimizers=(optimizer, None),
        )

    with torch.random.fork_rng():
        yield make


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def assert_zeros(model: nn.Module, mask: Mask) -> None:
    parameters = canonical_parameters(model)
    for name in mask:
        values = parameters[name].detach()
        assert int(values[~mask[name]].count_nonzero()) == 0, name
        assert int(values[mask[name]].count_nonzero()) > 0, name


# --- the same training as ours ------------------------------------------------------------------


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our loop on transformers' own forward, as the Trainer's: the lean one draws other dropout."""
    monkeypatch.setattr(lean, "LONGEST", 0)


@pytest.mark.usefixtures("plain")
def test_the_trainer_gives_our_loops_weights_bit_for_bit(
    make: Any, model: nn.Module, ticket: Ticket, workload: SequenceClassification
) -> None:
    """Same head, data order, dropout, optimizer, schedule and clipping: the tolerance is zero."""
    ours = train(workload, RECIPE, seed=SEED, mask=ticket.mask)
    optimizer = make_optimizer(model, RECIPE, torch.device("cpu"))
    trainer = make(TicketCallback(ticket), SeedDropout(), optimizer=optimizer)
    trainer.train()
    assert trainer.state.global_step == ours.steps == 16
    assert_equal(weights(model), weights(ours.model))
    assert_zeros(model, ticket.mask)


@pytest.mark.usefixtures("plain")
def test_the_comparison_above_can_fail(
    make: Any, model: nn.Module, ticket: Ticket, workload: SequenceClassification
) -> None:
    ours = train(workload, RECIPE, seed=SEED, mask=ticket.mask)
    optimizer = make_optimizer(model, RECIPE, torch.device("cpu"))
    make(SeedDropout(), optimizer=optimizer).train()
    assert not torch.equal(
        *(canonical_parameters(m)[sorted(ticket.mask)[0]] for m in (model, ours.model))
    )


# --- zeros, whatever the Trainer does -----------------------------------------------------------

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw-fused": {"optim": "adamw_torch_fused"},
    "adamw": {"optim": "adamw_torch"},
    "sgd": {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=True"},
    "adafactor": {"optim": "adafactor"},
    "rmsprop": {"optim": "rmsprop"},
}


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_zeros_stay_with_decay_momentum_accumulation_and_evaluation(
    make: Any, model: nn.Module, ticket: Ticket, kind: str
) -> None:
    keys = list(model.state_dict())
    trainer = make(
        TicketCallback(ticket),
        gradient_accumulation_steps=3,
        eval_strategy="steps",
        eval_steps=2,
        **OPTIMIZERS[kind],
    )
    trainer.train()
    assert sum("eval_loss" in entry for entry in trainer.state.log_history) == 3
    assert_zeros(model, ticket.mask)
    assert list(model.state_dict()) == keys


class NormOfSurvivors(TrainerCallback):
    """Notes, before the optimizer's step, the whole gradient's norm and that of the survivors."""

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self.pruned: list[float] = []
        self.norms: list[float] = []

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any
    ) -> None:
        parameters = canonical_parameters(model)
        gone = [parameters[n].grad[~self.mask[n]] for n in self.mask]
        self.pruned.append(float(torch.cat(gone).abs().max()))
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))


def test_clipping_counts_survivors_only(make: Any, model: nn.Module, ticket: Ticket) -> None:
    noted = NormOfSurvivors(ticket.mask)
    trainer = make(TicketCallback(ticket), noted, max_grad_norm=1e-3, gradient_accumulation_steps=2)
    trainer.train()
    assert noted.pruned == [0.0] * 8
    # Clipped to exactly the bound: nothing that was dropped had a part in the norm.
    assert noted.norms == pytest.approx([1e-3] * 8, rel=1e-3)


def test_accumulated_halves_equal_the_whole_batch(
    make: Any, workload: SequenceClassification, ticket: Ticket, batches: list[dict[str, Tensor]]
) -> None:
    """Two batches of 4 make a step of 8, up to the order of float32 sums (1e-5)."""
    halves = [
        {name: tensor[part] for name, tensor in batch.items()}
        for batch in batches[:4]
        for part in (slice(0, 4), slice(4, 8))
    ]
    ends = []
    for given, steps in ((batches[:4], 1), (halves, 2)):
        model = workload.build(derive_seed(SEED, "head"))
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        trainer = make(
            TicketCallback(ticket),
            model=model,
            batches=given,
            gradient_accumulation_steps=steps,
            optim="sgd",
        )
        # Otherwise the Trainer (5.23) sums the halves' losses: it takes BERT's for divided by the
        # number of items that it hands over, which BERT's classification loss ignores.
        trainer.model_accepts_loss_kwargs = False
        trainer.train()
        ends.append(weights(model))
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-5, atol=1e-5)


# --- checkpoints --------------------------------------------------------------------------------


def rebuilt(workload: SequenceClassification) -> nn.Module:
    return workload.build(derive_seed(SEED, "head"))


def test_a_resumed_training_ends_like_an_undisturbed_one(
    make: Any, workload: SequenceClassification, ticket: Ticket, tmp_path: Path
) -> None:
    whole = rebuilt(workload)
    make(TicketCallback(ticket), model=whole, save_strategy="steps", save_steps=5).train()
    checkpoint = tmp_path / "out" / "checkpoint-5"
    for restore in (False, True):
        again = rebuilt(workload)
        make(
            TicketCallback(ticket), model=again, restore_callback_states_from_checkpoint=restore
        ).train(resume_from_checkpoint=str(checkpoint))
        assert_equal(weights(again), weights(whole))
        assert_zeros(again, ticket.mask)
    saved = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    assert_zeros(saved, ticket.mask)
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["TicketCallback"] == {
        "args": {"ticket": ticket.mask.digest()},
        "attributes": {},
    }


def test_a_checkpoint_of_another_mask_or_of_none_is_refused_or_cleared(
    make: Any, workload: SequenceClassification, ticket: Ticket, tiny_model: Path, tmp_path: Path
) -> None:
    other = ticket_for(tiny_model, seed=1)
    options = {"save_strategy": "steps", "save_steps": 4, "optim": "adamw_torch"}
    checkpoints = {}
    for name, callbacks in {"other": [TicketCallback(other)], "none": []}.items():
        make(*callbacks, model=rebuilt(workload), **options).train()
        checkpoints[name] = str(shutil.move(tmp_path / "out", tmp_path / name) / "checkpoint-4")
    for name, found in {"other": "under the mask", "none": "without a ticket"}.items():
        with pytest.raises(RunMismatchError, match=f"step 4 was trained {found}.*strict=False"):
            make(TicketCallback(ticket), model=rebuilt(workload)).train(
                resume_from_checkpoint=checkpoints[name]
            )
        # Without `strict` it goes on, and what Adam remembers of the pruned weights is gone.
        model = rebuilt(workload)
        trainer = make(TicketCallback(ticket, strict=False), model=model, **options)
        trainer.train(resume_from_checkpoint=checkpoints[name])
        assert_zeros(model, ticket.mask)
        for parameter_name, parameter in canonical_parameters(model).items():
            if parameter_name in ticket.mask:
                moments = trainer.optimizer.state[parameter]
                gone = ~ticket.mask[parameter_name]
                assert int(moments["exp_avg"][gone].count_nonzero()) == 0
                assert int(moments["exp_avg_sq"][gone].count_nonzero()) == 0


def test_a_restored_callback_whose_ticket_is_not_here_is_refused() -> None:
    with pytest.raises(RunMismatchError, match=r"trained under the mask ffffffffffff…; no Ticket"):
        TicketCallback("f" * 64)


@pytest.mark.parametrize("strict", [True, False])
def test_a_restored_callback_is_like_the_living_one(ticket: Ticket, strict: bool) -> None:
    living = TicketCallback(ticket, strict=strict)
    restored = TicketCallback(**living.state()["args"])
    assert restored.ticket is ticket
    assert restored.strict == strict
    assert json.loads(json.dumps(living.state())) == living.state()


def first_is_best() -> Callable[[Any], dict[str, float]]:
    scores = iter([0.9, 0.5, 0.4, 0.3])
    return lambda _: {"score": next(scores)}


def test_the_best_model_is_loaded_at_the_end_with_its_zeros(
    make: Any, model: nn.Module, ticket: Ticket, tmp_path: Path
) -> None:
    trainer = make(
        TicketCallback(ticket),
        save_strategy="steps",
        save_steps=4,
        eval_strategy="steps",
        eval_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        compute_metrics=first_is_best(),
    )
    trainer.train()
    best = tmp_path / "out" / "checkpoint-4"
    assert trainer.state.best_model_checkpoint == str(best)
    assert_equal(weights(model), weights(AutoModelForSequenceClassification.from_pretrained(best)))
    assert_zeros(model, ticket.mask)


def test_a_best_model_of_before_the_mask_is_noticed(
    make: Any, workload: SequenceClassification, ticket: Ticket, tmp_path: Path
) -> None:
    options = {
        "save_strategy": "steps",
        "save_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "load_best_model_at_end": True,
        "metric_for_best_model": "score",
        "greater_is_better": True,
    }
    make(model=rebuilt(workload), compute_metrics=first_is_best(), **options).train()
    shutil.rmtree(tmp_path / "out" / "checkpoint-16")
    later = iter([0.1, 0.1, 0.1])
    trainer = make(
        TicketCallback(ticket, strict=False),
        model=rebuilt(workload),
        compute_metrics=lambda _: {"score": next(later)},
        **options,
    )
    with pytest.raises(TrainingError, match=r"load_best_model_at_end loaded .*checkpoint-4, which"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-8"))


# --- what is refused ----------------------------------------------------------------------------


class Meddler(TrainerCallback):
    """Changes the weights at step 3, as an average of weights would."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        if state.global_step == 3:
            with torch.no_grad():
                model.get_parameter("bert.encoder.layer.0.output.dense.weight").add_(1)


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_weights_that_something_else_changed_are_not_saved(
    make: Any, ticket: Ticket, tmp_path: Path, strategy: str
) -> None:
    callbacks = (TicketCallback(ticket), Meddler())
    trainer = make(*callbacks, save_strategy=strategy, save_steps=4)
    step = {"steps": 4, "epoch": 16}[strategy]
    with pytest.raises(
        TrainingError, match=rf"at step {step} \d+ pruned weights are not zero .in e"
    ):
        trainer.train()
    assert not (tmp_path / "out" / f"checkpoint-{step}").exists()


class OutOfMemoryOnce(TrainerCallback):
    """Fails at step 3, once, as a batch that is too large does."""

    failed = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3 and not self.failed:
            self.failed = True
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def test_a_training_that_is_retried_with_smaller_batches_goes_on(
    make: Any, model: nn.Module, ticket: Ticket
) -> None:
    failing = OutOfMemoryOnce()
    trainer = make(
        TicketCallback(ticket), failing, auto_find_batch_size=True, per_device_train_batch_size=2
    )
    trainer.train()
    assert failing.failed
    assert trainer.state.global_step == 16
    assert_zeros(model, ticket.mask)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_quantised_moments_cannot_be_cleared(
    model: nn.Module, ticket: Ticket, dtype: torch.dtype
) -> None:
    enforcer = MaskEnforcer(model, ticket.mask)
    optimizer = torch.optim.SGD(model.parameters())
    name = sorted(ticket.mask)[0]
    parameter = canonical_parameters(model)[name]
    optimizer.state[parameter]["state1"] = torch.zeros_like(parameter, dtype=dtype)
    with pytest.raises(TrainingError, match=rf"the optimizer's state1 of {name} is {dtype}"):
        enforcer.clear_moments(optimizer)


def test_an_optimizer_that_revives_weights_is_named_after_the_first_step(
    make: Any, model: nn.Module, ticket: Ticket
) -> None:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    muon = torch.optim.Muon(matrices, lr=0.01)
    with pytest.raises(TrainingError, match=r"at step 1 .* Muon moves weights whose gradient"):
        make(TicketCallback(ticket), optimizer=muon).train()


def test_a_model_that_is_not_at_the_tickets_weights(
    make: Any, model: nn.Module, ticket: Ticket
) -> None:
    make(TicketCallback(ticket)).train()
    with pytest.raises(BaseMismatchError, match=r"differ from this ticket's base .*in float32, or"):
        make(TicketCallback(ticket)).train()
    assert_zeros(model, ticket.mask)
    make(TicketCallback(ticket, strict=False)).train()
    assert_zeros(model, ticket.mask)


def test_a_model_with_the_mask_applied_already_is_at_the_tickets_weights(
    make: Any, workload: SequenceClassification, ticket: Ticket
) -> None:
    ends = []
    for applied in (False, True):
        model = rebuilt(workload)
        if applied:
            ticket.apply_(model)
        torch.manual_seed(0)
        make(TicketCallback(ticket), model=model).train()
        ends.append(weights(model))
    assert_equal(*ends)


def test_a_ticket_that_carries_weights_starts_from_them(
    make: Any, model: nn.Module, ticket: Ticket
) -> None:
    backbone = canonical_parameters(model)
    carried = {name: tensor.detach() * 1.5 for name, tensor in backbone.items()}
    rewound = dataclasses.replace(ticket, rewind=Rewind(carried))
    with pytest.raises(BaseMismatchError, match=r"differ from the weights .*ticket.apply_.model."):
        make(TicketCallback(rewound)).train()
    rewound.apply_(model)
    make(TicketCallback(rewound)).train()
    assert_zeros(model, ticket.mask)


def test_a_model_of_other_names(make: Any, ticket: Ticket) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    small = BertForSequenceClassification(
        BertConfig(
            vocab_size=29,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
        )
    )
    with pytest.raises(BaseMismatchError, match=r"the model lacks encoder\.layer\.1"):
        make(TicketCallback(ticket), model=small).train()


class Replacer(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        layer = model.get_submodule("bert.encoder.layer.0.output.dense")
        layer.weight = nn.Parameter(torch.ones_like(layer.weight))


def test_parameters_that_were_exchanged_are_noticed(make: Any, ticket: Ticket) -> None:
    trainer = make(Replacer(), TicketCallback(ticket))
    with pytest.raises(TrainingError, match="at step 1 the model has other parameters than the"):
        trainer.train()


def test_a_training_that_fails_leaves_no_second_set_of_hooks(
    make: Any, model: nn.Module, ticket: Ticket
) -> None:
    callback = TicketCallback(ticket)
    with pytest.raises(TrainingError):
        make(Replacer(), callback, model=copy.deepcopy(model)).train()
    callback.detach()
    make(callback).train()
    hooks = [p._post_accumulate_grad_hooks for p in model.parameters()]
    assert not any(hooks)
    assert_zeros(model, ticket.mask)


# --- wrapped and sharded models -----------------------------------------------------------------


def test_a_wrapped_model_is_found_inside(model: nn.Module, ticket: Ticket) -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    for wrapped in (Wrapper(copy.deepcopy(model)), compiled, Wrapper(compiled)):
        with MaskEnforcer(wrapped, ticket.mask):
            assert_zeros(wrapped, ticket.mask)


def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")


def refused(ticket: Ticket, args: TrainingArguments, model: nn.Module, why: str) -> None:
    from transformers import TrainerControl, TrainerState

    before = weights(model) if not hasattr(next(model.parameters()), "full_tensor") else None
    with pytest.raises(ConfigError, match=f"TicketCallback cannot keep a mask here: {why}"):
        TicketCallback(ticket).on_train_begin(args, TrainerState(), TrainerControl(), model=model)
    if before is not None:
        assert_equal(before, weights(model))


def test_deepspeed_is_refused(ticket: Ticket, model: nn.Module, tmp_path: Path) -> None:
    args = arguments(tmp_path)
    args.deepspeed_plugin = DeepSpeedPlugin(
        hf_ds_config={
            "zero_optimization": {"stage": 3},
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
        }
    )
    assert args.deepspeed_plugin.zero_stage == 3
    refused(ticket, args, model, "DeepSpeed partitions parameters")
    # ZeRO-3 marks each parameter so, however it was switched on.
    next(model.parameters()).ds_id = 0  # type: ignore[attr-defined]
    refused(ticket, arguments(tmp_path), model, "DeepSpeed partitions parameters")


def test_sharded_parameters_are_refused(
    ticket: Ticket, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    refused(ticket, arguments(tmp_path), model, "FSDP shards the parameters")
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    args = arguments(tmp_path)
    args.fsdp = True
    refused(ticket, args, model, "FSDP shards the parameters")

    args = arguments(tmp_path)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        fully_shard(model, mesh=mesh)
        refused(ticket, args, model, "the model's parameters are sharded")
    finally:
        distributed.destroy_process_group()
