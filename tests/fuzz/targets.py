"""What is mutated, and the doors that read it: each case is built, read, and used."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mutate import dump, mutate_bytes, mutate_header, mutate_json, places

from ticketry import checkpoint as checkpoints
from ticketry.card import render_card
from ticketry.config import canonical_json, fingerprint
from ticketry.connectivity import POINTS, connectivity_steps, say_stability
from ticketry.connectivity import read_arm as connected_arm
from ticketry.describe import _ticket, inspect_lines
from ticketry.errors import TrainingError
from ticketry.files import pretty_json, sha256_bytes
from ticketry.maskfile import dump_mask, load_mask
from ticketry.metrics import get_metric
from ticketry.packed import form
from ticketry.packed.quantizer import TicketryConfig
from ticketry.recipes import Recipe
from ticketry.recordform import check_output
from ticketry.search import Sizes
from ticketry.shelf import _row, table
from ticketry.steps import Step
from ticketry.store import MANIFEST, RECORD, Store
from ticketry.tasks.base import Split, TaskData
from ticketry.terminal import printable
from ticketry.ticket import Ticket
from ticketry.ticketfolder import CONFIG_FILE, EVIDENCE_FILE, MASK_FILE
from ticketry.verdict import judge
from ticketry.verification import read_arm
from ticketry.weightsfile import dump_weights, load_weights

ARTIFACT = Path(__file__).parents[1] / "artifact" / "v1"
EQUAL, OTHER, REFUSED = "equal", "other valid object", "refused"
CARD_EVERY = 80
"""A card takes 100 times as long as a load; one in so many is drawn."""

Case = Callable[[random.Random], str]


class Targets:
    """Valid artifacts, and a case for each way to mutate and read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ticket = Ticket.from_pretrained(ARTIFACT)
        shutil.copytree(ARTIFACT, folder / "ticket")
        self.mask_bytes = (ARTIFACT / MASK_FILE).read_bytes()
        self.config = json.loads((ARTIFACT / CONFIG_FILE).read_bytes())
        self.evidence = json.loads((ARTIFACT / EVIDENCE_FILE).read_bytes())
        self.config_bytes = (ARTIFACT / CONFIG_FILE).read_bytes()
        self.config_ways, self.evidence_ways = places(self.config), places(self.evidence)
        small = {"a.weight": torch.arange(12.0).reshape(3, 4), "b.weight": torch.ones(5)}
        self.weights = small
        self.weights_bytes = dump_weights(small)
        self._prepare_store()
        self._prepare_line()
        self._prepare_checkpoint()
        self._prepare_data()
        self._prepare_packed()
        self.cases: dict[str, tuple[int, Case]] = {
            "mask, bytes": (24, self.mask_case),
            "mask, header": (20, self.mask_header_case),
            "ticket, mask with right hashes": (4, self.ticket_mask_case),
            "configuration, bytes": (4, self.config_bytes_case),
            "configuration, JSON": (8, self.config_json_case),
            "evidence, wrong hash": (3, self.evidence_bytes_case),
            "evidence, JSON with right hash": (8, self.evidence_json_case),
            "weights, bytes or header": (8, self.weights_case),
            "record, JSON with right hashes": (8, self.record_case),
            "record of a line, JSON with right hashes": (2, self.line_case),
            "manifest": (5, self.manifest_case),
            "checkpoint": (6, self.checkpoint_case),
            "prepared data": (8, self.data_case),
            "packed model, bytes or header": (8, self.packed_case),
            "packed model, right parts of wrong content": (8, self.packed_parts_case),
            "packed model, configuration": (2, self.packed_config_case),
        }

    # --- masks and weights -----------------------------------------------------------------------

    def mask_case(self, draw: random.Random) -> str:
        return self._mask(mutate_bytes(self.mask_bytes, draw))

    def mask_header_case(self, draw: random.Random) -> str:
        return self._mask(mutate_header(self.mask_bytes, draw))

    def _mask(self, data: bytes) -> str:
        mask = load_mask(data)
        if mask == self.ticket.mask:
            return EQUAL
        assert load_mask(dump_mask(mask)) == mask
        return OTHER

    def weights_case(self, draw: random.Random) -> str:
        how = draw.choice([mutate_bytes, mutate_header])
        found = load_weights(how(self.weights_bytes, draw))
        same = found.keys() == self.weights.keys() and all(
            torch.equal(found[name], tensor) for name, tensor in self.weights.items()
        )
        return EQUAL if same else OTHER

    # --- ticket folders --------------------------------------------------------------------------

    def _write(self, name: str, data: bytes) -> None:
        (self.folder / "ticket" / name).write_bytes(data)

    def _use(self, draw: random.Random) -> str:
        """Load the ticket, and do with it what the commands do."""
        row = _row("ticket", self.folder / "ticket", every_file=True)
        table((row,))
        ticket = Ticket.from_pretrained(self.folder / "ticket")
        for line in inspect_lines(_ticket(ticket)):
            printable(line, keep="").encode()
        config = ticket.config()
        if ticket.verdict is not None:
            for sentence in ticket.verdict.sentences():
                printable(sentence).encode()
        if draw.randrange(CARD_EVERY) == 0:
            render_card(ticket.evidence, config)
        same = ticket.mask == self.ticket.mask and ticket.evidence == self.ticket.evidence
        return EQUAL if same and config == self.ticket.config() else OTHER

    def _sealed(self, files: dict[str, bytes], draw: random.Random) -> str:
        """Write files with their right hashes in the configuration, load, and put all back."""
        hashes = {**self.config["files"], **{n: sha256_bytes(d) for n, d in files.items()}}
        files = {**files, CONFIG_FILE: json.dumps({**self.config, "files": hashes}).encode()}
        return self._with(files, draw)

    def _with(self, files: dict[str, bytes], draw: random.Random) -> str:
        for name, data in files.items():
            self._write(name, data)
        try:
            return self._use(draw)
        finally:
            for name in files:
                shutil.copy(ARTIFACT / name, self.folder / "ticket" / name)

    def ticket_mask_case(self, draw: random.Random) -> str:
        how = draw.choice([mutate_bytes, mutate_header])
        return self._sealed({MASK_FILE: how(self.mask_bytes, draw)}, draw)

    def config_bytes_case(self, draw: random.Random) -> str:
        return self._with({CONFIG_FILE: mutate_bytes(self.config_bytes, draw)}, draw)

    def config_json_case(self, draw: random.Random) -> str:
        data = dump(mutate_json(self.config, self.config_ways, draw))
        return REFUSED if data is None else self._with({CONFIG_FILE: data}, draw)

    def evidence_bytes_case(self, draw: random.Random) -> str:
        data = mutate_bytes((ARTIFACT / EVIDENCE_FILE).read_bytes(), draw)
        found = self._with({EVIDENCE_FILE: data}, draw)
        assert found == EQUAL, "an edited file got past its hash"
        return found

    def evidence_json_case(self, draw: random.Random) -> str:
        data = dump(mutate_json(self.evidence, self.evidence_ways, draw))
        return REFUSED if data is None else self._sealed({EVIDENCE_FILE: data}, draw)

    # --- stored steps ----------------------------------------------------------------------------

    def _prepare_store(self) -> None:
        self.store = Store(self.folder / "store")
        self.steps = [
            Step("dense, seed 1", "replicate", {"seed": 1}, "0" * 64),
            Step("dense, seed 2", "replicate", {"seed": 2}, "0" * 64),
        ]
        self.labels = [0, 1] * 10
        for step in self.steps:
            seed = step.params["seed"]
            wrong = seed
            self.record = {
                "seed": seed, "head_seed": 7, "steps": 4, "train_examples": 32, "train_tokens": 99,
                "mean_loss": 0.5, "final_loss": 0.4, "mask_digest": None,
                "truncated": {"train": 0, "validation": 0, "test": 0},
                "validation_score": 0.9, "test_score": 1 - wrong / 20,
                "predictions": [1 - y if i < wrong else y for i, y in enumerate(self.labels)],
            }  # fmt: skip
            self.store.write(step.key, {RECORD: pretty_json(self.record)}, {"seconds": 1.0})
        self.record_ways = places(self.record)
        self.at = self.store.folder(self.steps[-1].key)
        self.manifest = json.loads((self.at / MANIFEST).read_bytes())
        self.manifest_ways = places(self.manifest)
        self.kept = {name: (self.at / name).read_bytes() for name in (RECORD, MANIFEST)}
        self.arm = read_arm("dense", self.steps, self.store)

    def _stored(self, files: dict[str, bytes]) -> str:
        for name, data in files.items():
            (self.at / name).write_bytes(data)
        try:
            if check_output(self.steps[-1], self.store) is not None:
                return REFUSED
            self.store.times(self.steps[-1].key)
            arm = read_arm("dense", self.steps, self.store)
            if arm == self.arm:
                return EQUAL
            metric = get_metric("accuracy")
            judge(dense=arm, ticket=self.arm, controls={}, labels=self.labels, metric=metric,
                  margin=0.01)  # fmt: skip
            return OTHER
        finally:
            for name in files:
                (self.at / name).write_bytes(self.kept[name])

    def record_case(self, draw: random.Random) -> str:
        data = dump(mutate_json(self.record, self.record_ways, draw))
        if data is None:
            return REFUSED
        entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        manifest: dict[str, Any] = {"key": self.manifest["key"], "files": {RECORD: entry}}
        manifest["sha256"] = fingerprint(manifest)
        return self._stored({RECORD: data, MANIFEST: json.dumps(manifest).encode()})

    def _prepare_line(self) -> None:
        sizes, recipe = Sizes(64, 16, 16), Recipe()
        self.connectivity = connectivity_steps(None, recipe, (1, 2), sizes, "0" * 64)
        for step in self.connectivity.ends:
            end = {**self.record, "seed": step.params["seed"]}
            self.store.write(step.key, {RECORD: pretty_json(end)}, {})
        scores = [0.9, *[0.7] * (POINTS - 2), 0.8]
        self.line = {
            "alphas": [i / (POINTS - 1) for i in range(POINTS)], "validation_scores": scores,
        }  # fmt: skip
        self.line_ways = places(self.line)
        self.line_arm = self._line_arm(pretty_json(self.line))

    def _line_arm(self, record: bytes) -> dict[str, Any] | None:
        (step,) = self.connectivity.lines
        shutil.rmtree(self.store.folder(step.key), ignore_errors=True)
        self.store.write(step.key, {RECORD: record}, {})
        if check_output(step, self.store) is not None:
            return None
        arm = connected_arm(self.connectivity, self.store, "accuracy", 0.01)
        say_stability("Dense", arm, "accuracy", 0.01)
        canonical_json(arm)
        return arm

    def line_case(self, draw: random.Random) -> str:
        data = dump(mutate_json(self.line, self.line_ways, draw))
        arm = None if data is None else self._line_arm(data)
        return REFUSED if arm is None else EQUAL if arm == self.line_arm else OTHER

    def manifest_case(self, draw: random.Random) -> str:
        if draw.random() < 0.4:
            return self._stored({MANIFEST: mutate_bytes(self.kept[MANIFEST], draw)})
        changed = mutate_json(self.manifest, self.manifest_ways, draw)
        try:
            changed.pop("sha256", None)
            changed["sha256"] = fingerprint(changed)
            data = canonical_json(changed).encode()
        except (ValueError, RecursionError, AttributeError):
            return REFUSED
        return self._stored({MANIFEST: data})

    # --- checkpoints -----------------------------------------------------------------------------

    def _model(self) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Linear(3, 2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.25)
        return model, torch.optim.AdamW(model.parameters(), lr=0.01)

    def _prepare_checkpoint(self) -> None:
        model, optimizer = self._model()
        for _ in range(2):
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
        state = checkpoints.take(model, optimizer, step=2, tokens=6, examples=2, losses=[0.1, 0.2])
        checkpoints.save(self.folder, state, "i" * 64)
        self.state = state.copied()
        self.checkpoint_bytes = (self.folder / checkpoints.FILE).read_bytes()

    def _forged(self, draw: random.Random) -> bytes:
        """A checkpoint with another tensor or fact, and its right digest."""
        from safetensors.torch import save

        tensors = {**self.state.tensors, "losses": self.state.losses}
        facts: Any = {"version": 1, "identity": "i" * 64, "step": 2, "tokens": 6, "examples": 2}
        if draw.random() < 0.5:
            facts = mutate_json(facts, places(facts), draw)
        name = draw.choice(sorted(tensors))
        tensor = tensors.pop(name)
        odd = [None, tensor.clone(), tensor.reshape(-1)[:1], tensor.double(), torch.zeros(0),
               tensor.reshape(-1).byte(), torch.full((2, 3), float("nan"))]  # fmt: skip
        found = draw.choice(odd)
        if found is not None:
            new = draw.choice([name, name, name, "optimizer/9/step", "optimizer/x/y", "buffer/b"])
            tensors[new] = found.contiguous()
        metadata = {"facts": canonical_json(facts), "sha256": checkpoints._digest(tensors, facts)}
        return save({n: t.clone() for n, t in tensors.items()}, metadata)

    def checkpoint_case(self, draw: random.Random) -> str:
        kind = draw.randrange(3)
        try:
            if kind == 0:
                data = mutate_bytes(self.checkpoint_bytes, draw)
            elif kind == 1:
                data = mutate_header(self.checkpoint_bytes, draw)
            else:
                data = self._forged(draw)
        except (ValueError, RecursionError):
            return REFUSED
        (self.folder / checkpoints.FILE).write_bytes(data)
        found, warning = checkpoints.load(self.folder, "i" * 64)
        if found is None:
            assert warning is not None
            return REFUSED
        model, optimizer = self._model()
        before = [p.clone() for p in model.parameters()]
        with torch.random.fork_rng(devices=[]):
            try:
                checkpoints.restore(found, model, optimizer)
            except ValueError:
                assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(),
                                                             strict=True))  # fmt: skip
                return REFUSED
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
        same = found.tensors.keys() == self.state.tensors.keys() and all(
            torch.equal(found.tensors[n], t) for n, t in self.state.tensors.items()
        )
        return EQUAL if same and found.step == 2 else OTHER

    # --- packed models ---------------------------------------------------------------------------

    def _prepare_packed(self) -> None:
        from safetensors.torch import save

        draw = torch.Generator().manual_seed(0)
        self.packed_tensors = {"bias": torch.ones(3)}
        for name, kind, density in (("a", "fp32", 0.5), ("b", "int8", 0.3), ("c", "bf16", 0.01)):
            weight = torch.randn(20, 30, generator=draw)
            mask = torch.rand(20, 30, generator=draw) < density
            self.packed_tensors |= form.pack_tensor(name, weight, mask, kind)
        self.packed_bytes = save(self.packed_tensors, form.metadata())
        self.packed_path = self.folder / "packed.safetensors"
        self.packed_found = None
        assert self._packed(self.packed_bytes) == OTHER
        self.packed_config = {"quant_method": "ticketry", "format_version": 1, "values": "int8",
                              "sparse": False, "kept": 5, "prunable": 10}  # fmt: skip

    def _packed(self, data: bytes) -> str:
        """Check the file, and unpack what a model of these sizes would."""
        self.packed_path.write_bytes(data)
        with form.open_packed(self.packed_path) as file:
            entries = file.check()
            found = {name: file.tensor(name) for name in file.others}
            for entry in entries:
                if entry.numel <= 1 << 20:
                    found[entry.name] = form.unpack_tensor(*file.parts(entry.name), entry.name)
        before, self.packed_found = self.packed_found, self.packed_found or found
        same = (
            before is not None
            and found.keys() == before.keys()
            and all(torch.equal(found[name], tensor) for name, tensor in before.items())
        )
        return EQUAL if same else OTHER

    def packed_case(self, draw: random.Random) -> str:
        how = draw.choice([mutate_bytes, mutate_header])
        return self._packed(how(self.packed_bytes, draw))

    def packed_parts_case(self, draw: random.Random) -> str:
        from safetensors.torch import save

        tensors = dict(self.packed_tensors)
        name = draw.choice(sorted(tensors))
        if draw.random() < 0.6 and name.endswith(".mask_bits"):
            data = mutate_bytes(tensors[name].numpy().tobytes(), draw)
            tensors[name] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)
        else:
            tensor = tensors.pop(name)
            odd = [None, tensor.reshape(-1)[:-1], tensor.double(), torch.zeros(0), tensor[None],
                   torch.full_like(tensor, 127), tensor.to(torch.int8)]  # fmt: skip
            if (found := draw.choice(odd)) is not None:
                tensors[draw.choice([name, name, *self.packed_tensors])] = found
        data = save({n: t.clone().contiguous() for n, t in tensors.items()}, form.metadata())
        return self._packed(data)

    def packed_config_case(self, draw: random.Random) -> str:
        found = mutate_json(self.packed_config, places(self.packed_config), draw)
        if not isinstance(found, dict):
            return REFUSED
        config = TicketryConfig.from_dict(found)
        assert type(config.sparse) is bool
        return EQUAL if config.to_dict() == self.packed_config else OTHER

    # --- data ------------------------------------------------------------------------------------

    def _prepare_data(self) -> None:
        split = Split(("good film", "bad film", "fine"), None, (1, 0, 1))
        self.data = TaskData("reviews", "reviews.csv", ("neg", "pos"), "accuracy", 0.01, split,
                             split, split)  # fmt: skip
        self.data_json = self.data.to_json()
        self.data_bytes = json.dumps(self.data_json).encode()
        self.data_ways = places(self.data_json)

    def data_case(self, draw: random.Random) -> str:
        path = self.folder / "data.json"
        sealed = draw.random() < 0.5
        if draw.random() < 0.3:
            data: bytes | None = mutate_bytes(self.data_bytes, draw)
        else:
            data = dump(mutate_json(self.data_json, self.data_ways, draw))
        if data is None:
            return REFUSED
        path.write_bytes(data)
        found = TaskData.read(path, self.data.sha256 if sealed else None)
        if sealed:  # names and notes are no part of the hash
            assert found.sha256 == self.data.sha256
        return EQUAL if found == self.data else OTHER


ALLOWED = (TrainingError,)
