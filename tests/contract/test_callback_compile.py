"""``TicketCallback`` in a Trainer that compiles the model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, Trainer, TrainingArguments

from small_task import small_task
from ticketry import TicketCallback
from ticketry.core.mask import Mask
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
from ticketry.ticket import Base, Ticket

COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile for the CPU needs a C++ compiler (g++), which is not installed",
)


@pytest.fixture
def one_layer(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny BERT with its first layer alone, which halves the time to compile."""
    shutil.copytree(tiny_model, tmp_path / "one")
    config = BertConfig.from_pretrained(tiny_model, num_hidden_layers=1)
    BertModel.from_pretrained(tiny_model, config=config).save_pretrained(tmp_path / "one")
    return tmp_path / "one"


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=COMPILER)])
# torch's own: a deprecated call inside inductor, and float32 products it would round for speed.
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::UserWarning:torch")
def test_zeros_stay_in_a_compiled_training(one_layer: Path, tmp_path: Path, backend: str) -> None:
    torch.set_num_threads(1)
    recipe = Recipe(epochs=1, batch_size=8, max_length_tokens=16)
    workload = SequenceClassification(resolve(str(one_layer)), small_task(), recipe)
    # One shape, so that it is compiled once.
    given = [dict(b) for b in workload.batches(0, recipe)]
    shape = given[0]["input_ids"].shape
    given = [batch for batch in given if batch["input_ids"].shape == shape] * 4
    backbone = load_backbone(resolve(str(one_layer)))
    hashes = tensor_hashes(backbone)
    parameters = canonical_parameters(backbone)
    draw = torch.Generator().manual_seed(0)
    mask = Mask(
        {
            name: torch.rand(parameters[name].shape, generator=draw) < 0.5
            for name in prunable(backbone, "encoder")
        }
    )
    ticket = Ticket(mask, Base("tiny", None, base_sha256(hashes), hashes, "bert", 20_192))

    def trained(**options: Any) -> nn.Module:
        model = workload.build(1)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        keys = list(model.state_dict())
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "out"),
            use_cpu=True,
            num_train_epochs=1,
            per_device_train_batch_size=1,
            train_sampling_strategy="sequential",
            learning_rate=1e-3,
            weight_decay=0.1,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            **options,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=given,
            data_collator=lambda items: items[0],
            callbacks=[TicketCallback(ticket)],
        )
        with torch.random.fork_rng():
            trainer.train()
        if options:
            assert type(trainer.model_wrapped).__name__ == "OptimizedModule"
        assert list(model.state_dict()) == keys
        return model

    plain = trained()
    compiled = trained(torch_compile=True, torch_compile_backend=backend)
    for name, parameter in canonical_parameters(compiled).items():
        if name in mask:
            assert int(parameter[~mask[name]].count_nonzero()) == 0
            assert int(parameter[mask[name]].count_nonzero()) > 0
    # Compiled kernels sum in another order; Adam divides by the gradient's size, so a sign that
    # flips near zero moves a weight by up to the learning rate in a step.
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=0, atol=1e-4)
