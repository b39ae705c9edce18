"""A bank of tickets: what it shares, that switching is exact, and what it refuses."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from ticketry import Ticket, TicketBank
from ticketry.bank import freeze_
from ticketry.bank import image as images
from ticketry.core.mask import Mask
from ticketry.errors import BankError, BaseMismatchError, UnknownNameError
from ticketry.models.loading import base_sha256, canonical_tensors, load_backbone, prunable, resolve
from ticketry.models.loading import tensor_hashes as hashes_of
from ticketry.ticket import Base, Rewind

IDS = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0))


def ticket_of(
    folder: Path, density: float, seed: int, scope: str = "encoder", **spec: Any
) -> Ticket:
    model = load_backbone(resolve(str(folder)))
    draw = torch.Generator().manual_seed(seed)
    tensors = canonical_tensors(model)
    mask = Mask(
        {n: torch.rand(tensors[n].shape, generator=draw) < density for n in prunable(model, scope)}
    )
    hashes = hashes_of(model)
    return Ticket(mask, Base(str(folder), None, base_sha256(hashes), hashes, "bert", 1), spec)


def model_of(folder: Path, ticket: Ticket, seed: int, auto: Any = None, move: bool = True) -> Any:
    """A task model as `freeze_` and a training leave it: what may learn has moved."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        auto = auto or AutoModelForSequenceClassification
        model = auto.from_pretrained(folder).eval()
        freeze_(model, ticket)
        with torch.no_grad():
            for parameter in model.parameters():
                if move and parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape)
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        torch.equal(found[n].view(torch.int32), wanted[n].view(torch.int32)) for n in wanted
    )


@pytest.fixture(scope="module")
def tickets(tiny_model: Path) -> dict[str, Ticket]:
    return {
        "movies": ticket_of(tiny_model, 0.5, 1, data={"task": "movies"}),
        "tweets": ticket_of(tiny_model, 0.2, 2),
        "tags": ticket_of(tiny_model, 0.7, 3),
    }


@pytest.fixture
def models(tiny_model: Path, tickets: dict[str, Ticket]) -> dict[str, Any]:
    autos = {"tags": AutoModelForTokenClassification}
    return {
        name: model_of(tiny_model, ticket, seed, autos.get(name))
        for seed, (name, ticket) in enumerate(tickets.items())
    }


@pytest.fixture
def bank(tiny_model: Path, tickets: dict[str, Ticket], models: dict[str, Any]) -> TicketBank:
    bank = TicketBank(tiny_model)
    bank.add(tickets["movies"], models["movies"])
    return bank.add(tickets["tweets"], models["tweets"], name="tweets").add(
        tickets["tags"], models["tags"], name="tags"
    )


def test_each_task_is_served_exactly_whatever_was_served_before(
    bank: TicketBank, models: dict[str, Any], tiny_model: Path, tickets: dict[str, Ticket]
) -> None:
    assert bank.names == ("movies", "tweets", "tags")
    assert len(bank) == 3
    assert "tags" in bank
    # Its matrices are those of Ticket.apply_ on a fresh base, bit for bit.
    fresh = {
        name: canonical_tensors(ticket.apply_(load_backbone(resolve(str(tiny_model)))))
        for name, ticket in tickets.items()
    }
    for name in ("tweets", "movies", "movies", "tags", "tweets", "tags", "movies"):
        with bank.use(name) as served, torch.inference_mode():
            assert same(state(served), state(models[name]))
            masked = canonical_tensors(served)
            assert all(torch.equal(masked[n], fresh[name][n]) for n in tickets[name].mask)
            # Copied, its weights lie aligned in memory like the bank's: products round alike.
            assert torch.equal(served(IDS).logits, copy.deepcopy(models[name])(IDS).logits)
            assert not served.training


def test_what_is_shared_lies_in_memory_once(bank: TicketBank, tiny_model: Path) -> None:
    places = {}
    for name in bank.names:
        with bank.use(name) as served:
            places[name] = {n: t.data_ptr() for n, t in canonical_tensors(served).items()}
    own = {
        "embeddings.LayerNorm.weight",
        "encoder.layer.0.output.dense.bias",
        "pooler.dense.weight",
    }
    for tensor in ("embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.weight"):
        assert len({places[name][tensor] for name in bank.names}) == 1
    for tensor in own:
        found = [places[name][tensor] for name in bank.names if tensor in places[name]]
        assert len(set(found)) == len(found) >= 2
    base = load_backbone(resolve(str(tiny_model)))
    size = bank.size()
    assert size.base == sum(t.nbytes for t in canonical_tensors(base).values())
    assert size.image == 4 * 16_384
    assert size.tasks["movies"].mask == 16_384 // 8
    assert size.tasks["movies"].head == 4 * (2 * 32 + 2)
    pooler = 32 * 32 + 32
    small = 2 * (4 * 32 + 64 + 32 + 4 * 32) + 2 * 32  # biases and norms of two layers, and before
    assert size.tasks["movies"].small == 4 * (small + pooler)
    assert size.tasks["tags"].small == 4 * small  # a token classifier has no pooler
    assert size.tasks["tags"].tables == 8 * 2 * 32
    assert size.total == size.base + size.image + sum(t.total for t in size.tasks.values())


def test_a_head_alone_and_no_head(tiny_model: Path, tickets: dict[str, Ticket]) -> None:
    ticket = tickets["movies"]
    model = model_of(tiny_model, ticket, 0, move=False)
    bank = TicketBank(tiny_model).add(ticket, model).add(ticket, name="features")
    size = bank.size().tasks
    assert (size["movies"].small, size["features"].small, size["features"].head) == (0, 0, 0)
    with bank.use("features") as served, torch.inference_mode():
        assert torch.equal(served(IDS)[0], copy.deepcopy(model.bert)(IDS)[0])
    with bank.use("movies") as served, torch.inference_mode():
        assert torch.equal(served(IDS).logits, copy.deepcopy(model)(IDS).logits)


def test_a_head_from_a_folder_dense_or_packed(
    bank: TicketBank, models: dict[str, Any], tickets: dict[str, Ticket], tmp_path: Path
) -> None:
    from ticketry.packed.packer import pack_folder

    models["tweets"].save_pretrained(tmp_path / "dense")
    pack_folder(tmp_path / "dense", tmp_path / "packed")
    tickets["tweets"].save_pretrained(tmp_path / "ticket")
    for kind in ("dense", "packed"):
        bank.add(tmp_path / "ticket", tmp_path / kind, name=kind)
        with bank.use(kind) as served:
            assert same(state(served), state(models["tweets"]))


def test_a_tied_head_shares_the_embeddings(tiny_model: Path, tickets: dict[str, Ticket]) -> None:
    model = model_of(tiny_model, tickets["movies"], 0, AutoModelForMaskedLM)
    bank = TicketBank(tiny_model).add(tickets["movies"], model, name="mlm")
    with bank.use("mlm") as served, torch.inference_mode():
        words = served.get_input_embeddings().weight
        assert served.get_output_embeddings().weight.data_ptr() == words.data_ptr()
        assert torch.equal(served(IDS).logits, copy.deepcopy(model)(IDS).logits)
    assert bank.size().tasks["mlm"].head == sum(
        p.nbytes for n, p in model.named_parameters() if n.startswith("cls")
    )


def test_masks_of_different_scopes(tiny_model: Path, tickets: dict[str, Ticket]) -> None:
    wide = ticket_of(tiny_model, 0.5, 9, "bert-paper")
    models = {
        name: model_of(tiny_model, ticket, 4)
        for name, ticket in (("wide", wide), ("narrow", tickets["tweets"]))
    }
    bank = TicketBank(tiny_model).add(wide, models["wide"], name="wide")
    bank.add(tickets["tweets"], models["narrow"], name="narrow")
    for name in ("narrow", "wide", "narrow", "wide"):
        with bank.use(name) as served:
            assert same(state(served), state(models[name]))
    bank.remove("wide")
    assert bank.size().image == 4 * 16_384
    with bank.use("narrow") as served:
        assert same(state(served), state(models["narrow"]))


def test_signed_zeros_and_nan_are_kept_and_pruned_exactly() -> None:
    source = torch.tensor([[float("nan"), -0.0, -1.5], [float("inf"), -0.0, 2.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    target = torch.full((2, 3), 7.0)
    images.mask_into(source, Mask({"w": mask}).packed("w"), target)
    wanted = source.masked_fill(~mask, 0)
    assert torch.equal(target.view(torch.int32), wanted.view(torch.int32))
    assert str(target[0, 1].item()) == "-0.0"
    assert str(target[1, 1].item()) == "0.0"


def test_a_copy_is_an_ordinary_model(
    bank: TicketBank, models: dict[str, Any], tickets: dict[str, Ticket], tmp_path: Path
) -> None:
    own = bank.copy("tweets")
    with bank.use("movies"):
        assert same(state(own), state(models["tweets"]))
    assert all(parameter.requires_grad for parameter in own.parameters())
    pickle.loads(pickle.dumps(copy.deepcopy(own)))
    tickets["tweets"].accelerate(own)
    with torch.no_grad():
        torch.testing.assert_close(own(IDS).logits, models["tweets"](IDS).logits)
        for parameter in own.parameters():
            parameter.zero_()
    with bank.use("tweets") as served:
        assert same(state(served), state(models["tweets"]))


def test_freezing_leaves_pruned_weights_zero_in_a_training(
    tiny_model: Path, tickets: dict[str, Ticket]
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model).train()
    learning = freeze_(model, tickets["movies"])
    assert "classifier.weight" in learning
    assert "bert.pooler.dense.weight" in learning
    assert "bert.encoder.layer.0.output.LayerNorm.bias" in learning
    assert not [n for n in learning if n.endswith("query.weight") or "word_embeddings" in n]
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), 1e-2)
    for _ in range(3):
        model(IDS, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
    bank = TicketBank(tiny_model).add(tickets["movies"], model)
    with bank.use("movies") as served:
        assert same(state(served), state(model))


# --- refusals ------------------------------------------------------------------------------------


def test_an_unknown_task_shows_the_nearest(bank: TicketBank) -> None:
    for ask in (bank.use, bank.copy, bank.remove):
        with pytest.raises(UnknownNameError, match=r"unknown task 'movie'\. Did you mean 'movies'"):
            _enter(ask)


def _enter(ask: Callable[[str], Any]) -> None:
    found = ask("movie")
    with found:
        pass


def test_a_ticket_of_another_base_is_refused_by_name(
    bank: TicketBank, tiny_model: Path, tmp_path: Path
) -> None:
    from tiny import tiny_bert

    other = tiny_bert(tmp_path / "other", seed=5)
    with pytest.raises(BaseMismatchError) as caught:
        bank.add(ticket_of(other, 0.5, 0), name="other")
    assert f"this ticket is of {other}, and the bank holds {tiny_model}: " in str(caught.value)
    assert "other values in" in str(caught.value)
    wider = tiny_bert(tmp_path / "wider", intermediate_size=48)
    with pytest.raises(BaseMismatchError, match=r"other shapes in 4 \(encoder.layer.0.intermed"):
        bank.add(ticket_of(wider, 0.5, 0), name="wider")
    assert bank.names == ("movies", "tweets", "tags")


def test_a_ticket_with_weights_of_its_own_is_refused(
    bank: TicketBank, tickets: dict[str, Ticket], tiny_model: Path
) -> None:
    given = tickets["movies"]
    weights = canonical_tensors(load_backbone(resolve(str(tiny_model))))
    late = Ticket(given.mask, given.base, given.spec, None, Rewind(weights, 30))
    with pytest.raises(BankError, match=r"weights of its own \(rewound to step 30\)"):
        bank.add(late, name="late")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model)
    with pytest.raises(BankError, match="rewound to step 30"):
        freeze_(model, late)


def test_a_model_that_moved_more_is_refused_with_all_faults(
    bank: TicketBank, tickets: dict[str, Ticket], tiny_model: Path
) -> None:
    model = model_of(tiny_model, tickets["movies"], 0)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[0, 0] += 1
        model.bert.embeddings.word_embeddings.weight[3] += 1
    model.bert.encoder.layer[1].output.dense.to(torch.bfloat16)
    with pytest.raises(BankError) as caught:
        bank.add(tickets["movies"], model, name="more")
    message = str(caught.value)
    assert "cannot share the base" in message
    assert (
        "2 hold other values (embeddings.word_embeddings.weight, "
        "encoder.layer.0.output.dense.weight)" in message
    )
    assert (
        "2 are of another shape or dtype (encoder.layer.1.output.dense.bias (bfloat16 (32,) for "
        "float32 (32,))" in message
    )
    assert "ticketry.bank.freeze_" in message
    with pytest.raises(BankError, match="not from a Linear"):
        bank.add(tickets["movies"], nn.Linear(2, 2), name="more")
    assert bank.names == ("movies", "tweets", "tags")


def test_names(bank: TicketBank, tickets: dict[str, Ticket]) -> None:
    with pytest.raises(BankError, match="the bank has a task 'movies' already"):
        bank.add(tickets["movies"])
    with pytest.raises(BankError, match=r"does not name a task; give it a name"):
        bank.add(tickets["tweets"])


def test_a_base_that_cannot_be_served(tiny_model: Path) -> None:
    half = load_backbone(resolve(str(tiny_model))).half()
    with pytest.raises(BankError, match=r"float32 weights on the CPU .* of 39 tensors"):
        TicketBank(half)


# --- use -----------------------------------------------------------------------------------------


def test_a_model_outside_its_block_refuses(bank: TicketBank) -> None:
    with bank.use("movies") as movies:
        movies(IDS)
        with bank.use("tweets") as tweets:
            tweets(IDS)
            with pytest.raises(BankError, match=r"called outside `with bank.use\('movies'\)`"):
                movies(IDS)
        before = movies(IDS).logits  # served again
        with pytest.raises(BankError, match="'movies' is in use"):
            bank.remove("movies")
    with pytest.raises(BankError, match="called outside"):
        movies(IDS)
    with bank.use("movies") as again:
        assert again is movies
        assert torch.equal(again(IDS).logits, before)


def test_adding_and_removing_in_use(bank: TicketBank, tickets: dict[str, Ticket]) -> None:
    with bank.use("movies") as movies:
        before = movies(IDS).logits
        bank.add(tickets["tweets"], name="more")
        assert torch.equal(movies(IDS).logits, before)
        bank.remove("more")
        bank.verify()
        assert torch.equal(movies(IDS).logits, before)


def test_threads_get_their_own_task_each(bank: TicketBank, models: dict[str, Any]) -> None:
    with torch.inference_mode():
        wanted = {name: copy.deepcopy(model)(IDS).logits for name, model in models.items()}
    wrong: list[str] = []

    def serve(name: str) -> None:
        for _ in range(20):
            with bank.use(name) as model, torch.inference_mode():
                if not torch.equal(model(IDS).logits, wanted[name]):
                    wrong.append(name)

    threads = [threading.Thread(target=serve, args=(name,)) for name in bank.names * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_another_thread_may_not_call_the_model_in_use(bank: TicketBank) -> None:
    refused: list[str] = []

    def call(model: nn.Module) -> None:
        try:
            model(IDS)
        except BankError as error:
            refused.append(str(error))

    with bank.use("movies") as movies:
        thread = threading.Thread(target=call, args=(movies,))
        thread.start()
        thread.join()
    assert "of its thread" in refused[0]


def test_an_error_in_a_block_or_in_a_switch_leaves_the_bank_exact(
    bank: TicketBank, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ZeroDivisionError), bank.use("tweets"):
        _ = 1 / 0
    real, count = images.mask_into, iter(range(100))

    def failing(*arguments: Any) -> None:
        if next(count) == 5:
            raise MemoryError
        real(*arguments)

    monkeypatch.setattr(images, "mask_into", failing)
    with pytest.raises(MemoryError), bank.use("movies"):
        pass
    monkeypatch.setattr(images, "mask_into", real)
    for name in ("tweets", "movies"):
        with bank.use(name) as served:
            assert same(state(served), state(models[name]))


def test_changed_masked_weights_are_put_back_and_said(
    bank: TicketBank, models: dict[str, Any]
) -> None:
    with (
        pytest.raises(BankError, match="1 masked tensors were changed in place while 'movies'"),
        bank.use("movies") as served,
        torch.inference_mode(),
    ):
        served.bert.encoder.layer[0].output.dense.weight.mul_(2)
    with bank.use("movies") as served:
        assert same(state(served), state(models["movies"]))


def test_a_changed_base_is_never_served(bank: TicketBank) -> None:
    with (
        pytest.raises(BankError, match=r"1 of the base's tensors were changed .*\(embeddings.word"),
        bank.use("movies") as served,
        torch.no_grad(),
    ):
        served.bert.embeddings.word_embeddings.weight[0] += 1
    with pytest.raises(BankError, match="were changed in place"), bank.use("tags"):
        pass


def test_verify_sees_what_torch_does_not_count(bank: TicketBank) -> None:
    bank.verify()
    with bank.use("movies") as served:
        served.bert.embeddings.word_embeddings.weight.data[0] += 1
    with pytest.raises(BankError, match=r"were changed in place .*\(embeddings.word"):
        bank.verify()
    with pytest.raises(BankError, match="were changed in place"), bank.use("tags"):
        pass


def test_a_converted_model_is_refused_and_others_go_on(
    bank: TicketBank, models: dict[str, Any]
) -> None:
    with bank.use("movies") as served:
        served.half()
    with pytest.raises(BankError, match="'movies' was moved or converted"), bank.use("movies"):
        pass
    with bank.use("tweets") as served:
        assert same(state(served), state(models["tweets"]))


def test_a_bank_and_its_models_are_not_copied(bank: TicketBank) -> None:
    with pytest.raises(BankError, match="a bank is not copied or pickled"):
        copy.deepcopy(bank)
    with bank.use("movies") as served, pytest.raises(BankError, match=r"bank.copy\('movies'\)"):
        copy.deepcopy(served)
