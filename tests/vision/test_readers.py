"""Released checkpoints in each layout, small, into one and the same model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from ticketry import cli
from ticketry.errors import ModelError
from ticketry.models.contrastive import own_projection, projection_head, put_projection_
from ticketry.models.loading import canonical_tensors, load_backbone, resolve
from ticketry.models.readers import convert, read_checkpoint, recognise
from ticketry.models.readers.convert import write_folder
from ticketry.models.timm_nets import create

State = Mapping[str, Tensor]
STAGES = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def weights(architecture: str = "resnet18", classes: int = 3) -> dict[str, Tensor]:
    """Return a model's own tensors, of its size and no more than that: all drawn small."""
    generator = torch.Generator().manual_seed(0)
    expected = create(architecture, classes).state_dict()
    return {
        name: torch.rand(t.shape, generator=generator) if t.is_floating_point() else torch.tensor(7)
        for name, t in expected.items()
    }


@pytest.fixture(scope="module")
def resnet() -> State:
    return weights()


def body(state: State, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: t for name, t in state.items() if not name.startswith("fc.")}


def stages(state: State, prefix: str) -> dict[str, Tensor]:
    found = {}
    for name, tensor in body(state).items():
        first, _, rest = name.partition(".")
        found[f"{prefix}{STAGES[first]}.{rest}"] = tensor
    return found


EXTRA = torch.rand(4)


LAYOUTS: dict[str, tuple[str, Callable[[State], Any], int, list[str]]] = {
    # case: (layout, file, classes that come along, what is left over)
    "torchvision": ("torchvision or timm", dict, 3, []),
    "wrapped": (
        "wrapped in DataParallel",
        lambda s: {"state_dict": {f"module.{n}": t for n, t in s.items()}, "epoch": 3},
        3,
        [],
    ),
    "moco-v2": (
        "MoCo v1/v2",
        lambda s: {
            "state_dict": {
                **body(s, "module.encoder_q."),
                "module.encoder_q.fc.0.weight": EXTRA,
                **body(s, "module.encoder_k."),
                "module.queue": EXTRA,
            }
        },
        0,
        ["module.encoder_q.fc.0.weight", "module.queue"],
    ),
    "moco-v3": (
        "MoCo v3",
        lambda s: {
            "state_dict": {
                **body(s, "module.base_encoder."),
                "module.base_encoder.fc.0.weight": EXTRA,
                **body(s, "module.momentum_encoder."),
                "module.predictor.0.weight": EXTRA,
            }
        },
        0,
        ["module.base_encoder.fc.0.weight", "module.predictor.0.weight"],
    ),
    "simclr": (
        "simCLR (converted)",
        lambda s: {"state_dict": {**s, "contrastive_head.0.weight": EXTRA}},
        3,
        ["contrastive_head.0.weight"],
    ),
    "lightly": (
        "lightly",
        lambda s: {**body(s, "backbone."), "projection_head.layers.0.weight": EXTRA},
        0,
        ["projection_head.layers.0.weight"],
    ),
    "lightly, a sequence": (
        "lightly",
        lambda s: {**stages(s, "backbone."), "projection_head.layers.0.weight": EXTRA},
        0,
        ["projection_head.layers.0.weight"],
    ),
    "bolts": (
        "Lightning Bolts",
        lambda s: {"state_dict": {**body(s, "encoder."), "projection.model.0.weight": EXTRA}},
        0,
        ["projection.model.0.weight"],
    ),
    "solo-learn": (
        "solo-learn",
        lambda s: {"state_dict": {**body(s, "backbone."), "projector.0.weight": EXTRA}},
        0,
        ["projector.0.weight"],
    ),
    "solo-learn, old": (
        "solo-learn (old)",
        lambda s: {"state_dict": {**body(s, "encoder."), "projector.0.weight": EXTRA}},
        0,
        ["projector.0.weight"],
    ),
    "dino": ("torchvision or timm", body, 0, []),
    "dino, training": (
        "DINO (training)",
        lambda s: {
            "teacher": {**body(s, "backbone."), "head.mlp.0.weight": EXTRA},
            "student": {**body(s, "module.backbone."), "module.head.mlp.0.weight": EXTRA},
        },
        0,
        ["head.mlp.0.weight"],
    ),
    "dino, the student taken out": (
        "DINO (student)",
        lambda s: {**body(s, "module.backbone."), "module.head.mlp.0.weight": EXTRA},
        0,
        ["module.head.mlp.0.weight"],
    ),
    "a model that holds its backbone": (
        "backbone alone",
        lambda s: {"state_dict": body(s, "model.backbone.")},
        0,
        [],
    ),
    "swav": (
        "SwAV",
        lambda s: {
            **body(s, "module."),
            "module.projection_head.0.weight": EXTRA,
            "module.prototypes.weight": EXTRA,
        },
        0,
        ["module.projection_head.0.weight", "module.prototypes.weight"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
@pytest.mark.parametrize("as_file", ["pt", "safetensors"])
def test_every_layout_gives_the_same_model(
    case: str, as_file: str, resnet: State, tmp_path: Path
) -> None:
    layout, make, classes, left = LAYOUTS[case]
    content = make(resnet)
    path = tmp_path / f"checkpoint.{as_file}"
    if as_file == "safetensors":
        inner = next((v for v in content.values() if isinstance(v, dict)), content)
        if layout == "DINO (training)":
            pytest.skip("told by the dictionary that holds it, which safetensors has not")
        safetensors.torch.save_file({n: t.clone() for n, t in inner.items()}, path)
    else:
        torch.save(content, path)
    found = convert(read_checkpoint(path), "resnet18")
    assert found.layout == layout
    assert found.classes == classes
    expected = resnet if classes else body(resnet)
    assert set(found.state) == set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state.items())
    assert found.new == ()
    unread = {name for name in found.left_over if "encoder_k" not in name}
    assert {name for name in unread if "momentum_encoder" not in name} == set(left)


def simclr2(state: State) -> dict[str, Tensor]:
    """Name a ResNet-50 as the converted simCLRv2 checkpoints do."""
    parts = {"conv1": "net.0", "bn1": "net.1.0", "conv2": "net.2", "bn2": "net.3.0",
             "conv3": "net.4", "bn3": "net.5.0", "downsample.0": "projection.shortcut",
             "downsample.1": "projection.bn.0"}  # fmt: skip
    found = {}
    for name, tensor in state.items():
        if name.startswith("layer"):
            stage, block, rest = name.removeprefix("layer").split(".", 2)
            inner = next(part for part in parts if rest.startswith(f"{part}."))
            rest = rest.removeprefix(f"{inner}.")
            found[f"net.{stage}.blocks.{block}.{parts[inner]}.{rest}"] = tensor
        elif name.startswith("conv1."):
            found[name.replace("conv1.", "net.0.0.")] = tensor
        elif name.startswith("bn1."):
            found[name.replace("bn1.", "net.0.1.0.")] = tensor
        else:
            found[name] = tensor
    return found


def test_simclr_v2() -> None:
    state = weights("resnet50")
    found = convert({"resnet": simclr2(state), "head": {"layers.0.weight": EXTRA}}, "resnet50")
    assert (found.layout, found.pixels, found.classes) == ("simCLRv2", "raw", 3)
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.state.items())
    assert len(found.state) == len(state)


def test_a_cifar_stem_is_new_and_said_to_be(resnet: State, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": body(resnet, "module.encoder_q.")}, path)
    found = convert(read_checkpoint(path), "resnet18_cifar", seed=3)
    assert found.new == ("conv1.weight",)
    assert found.state["conv1.weight"].shape == (64, 3, 3, 3)
    again = convert(read_checkpoint(path), "resnet18_cifar", seed=3)
    other = convert(read_checkpoint(path), "resnet18_cifar", seed=4)
    assert torch.equal(found.state["conv1.weight"], again.state["conv1.weight"])
    assert not torch.equal(found.state["conv1.weight"], other.state["conv1.weight"])
    write_folder(tmp_path / "model", found, "resnet18_cifar", path, 32)
    record = json.loads((tmp_path / "model" / "conversion.json").read_text())
    assert record["new"] == ["conv1.weight"]
    assert record["layout"] == "MoCo v1/v2"
    loaded = canonical_tensors(load_backbone(resolve(str(tmp_path / "model"))))
    assert torch.equal(loaded["layer1.0.conv1.weight"], resnet["layer1.0.conv1.weight"])
    assert torch.equal(loaded["conv1.weight"], found.state["conv1.weight"])


def test_the_command_writes_a_model_and_lists_what_was_left(
    resnet: State, tmp_path: Path, run: Any
) -> None:
    path = tmp_path / "moco.pth.tar"
    torch.save({"state_dict": {**body(resnet, "module.encoder_q."), "module.queue": EXTRA}}, path)
    done = run("convert", path, "--architecture", "resnet18", "--out", tmp_path / "model")
    assert done.code == 0, done.err
    assert "moco.pth.tar: read as MoCo v1/v2, 120 tensors of resnet18" in done.out
    assert "left over: module.queue" in done.out
    assert run("inspect", tmp_path / "model").code == 0


def head_of(objective: str) -> State:
    """A projection head over a ResNet-18's features, by lightly's names."""
    with torch.device("meta"):
        own = projection_head(objective, 512).state_dict()
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(t.shape, generator=generator) if t.is_floating_point() else torch.tensor(5)
        for name, t in own.items()
    }


@pytest.mark.parametrize(
    ("objective", "name"), [("moco", "moco"), ("moco", "lightly"), ("simclr", "lightly")]
)
def test_a_projection_head_goes_along(
    objective: str, name: str, resnet: State, tmp_path: Path, run: Any
) -> None:
    head = head_of(objective)
    if name == "moco":
        under = "module.encoder_q.fc."
        content = {**body(resnet, "module.encoder_q."), "module.queue": EXTRA}
    else:
        under = "projection_head.layers."
        content = body(resnet, "backbone.")
    named = {under + n.removeprefix("layers."): t for n, t in head.items()}
    path = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": {**content, **named}}, path)
    done = run("convert", path, "--architecture", "resnet18", "--out", tmp_path / "model")
    assert done.code == 0, done.err
    assert f"with its projection head, from which {objective}/… goes on" in done.out
    assert ("left over: module.queue" in done.out) == (name == "moco")
    assert under not in done.out
    base = resolve(str(tmp_path / "model"))
    kept = own_projection(base, objective)
    weights_of_it = {n for n in head if not n.endswith("_tracked")}
    assert set(kept) == set(head)
    assert all(torch.equal(kept[n], head[n]) for n in weights_of_it)
    put_projection_(projection_head(objective, 512), kept, base)
    assert own_projection(base, "simclr" if objective == "moco" else "moco") == {}


def test_a_projection_head_of_other_sizes_is_left_over(resnet: State) -> None:
    content = body(resnet, "module.encoder_q.")
    v1 = {"module.encoder_q.fc.weight": torch.rand(128, 512), "module.encoder_q.fc.bias": EXTRA}
    wide = {f"module.encoder_q.fc.{n.removeprefix('layers.')}": torch.rand(3, *t.shape)
            for n, t in head_of("moco").items()}  # fmt: skip
    for extra in (v1, wide):
        found = convert({**content, **extra}, "resnet18")
        assert (dict(found.projection), found.objective) == ({}, "")
        assert set(found.left_over) == set(extra)


def test_pixels_are_said_where_keys_cannot_tell(resnet: State, tmp_path: Path, run: Any) -> None:
    path = tmp_path / "simclr.pth"
    torch.save(
        {"state_dict": resnet}, path
    )  # converted simCLR: torchvision's names, its classifier
    command = ("convert", path, "--architecture", "resnet18", "--out", tmp_path / "model")
    said = run(*command).out
    assert (
        "pixels: imagenet, as the layout says; of simCLR's, which have torchvision's names" in said
    )
    assert "pixels: raw, as you say" in run(*command, "--pixels", "raw").out
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["pretrained_cfg"]["mean"] == [0.0, 0.0, 0.0]
    assert config["pretrained_cfg"]["std"] == [1.0, 1.0, 1.0]
    wrong = run(*command, "--pixels", "imagnet")
    assert wrong.code == 2
    assert "imagenet" in wrong.err


def test_a_stem_that_was_padded_otherwise_is_said(tmp_path: Path) -> None:
    small = body(weights("resnet18_cifar"), "backbone.")
    found = convert({**small, "projector.0.weight": EXTRA}, "resnet18_cifar")
    assert found.new == ()
    assert "solo-learn pads its 3 × 3 stem by 2 pixels, resnet18_cifar by 1" in found.notes[0]
    assert convert(small, "resnet18_cifar").notes == ()


def test_a_file_saved_on_a_gpu_is_read_without_one(
    resnet: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gpu.pt"
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(resnet, path)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)
    found = read_checkpoint(path)
    assert {t.device.type for t in found.values()} == {"cpu"}
    assert torch.equal(found["conv1.weight"], resnet["conv1.weight"])


class Evil:
    def __reduce__(self) -> Any:
        return print, ("opened",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"encoder.block.weight": EXTRA}, "the checkpoint's layout is not known: its keys are like "
         "encoder.block.weight"),
        ([EXTRA], "holds a list; expected tensors by name"),
        ({"x": Evil()}, "They could run code, so it was not opened"),
    ],
)  # fmt: skip
def test_what_is_no_known_checkpoint(
    content: Any, message: str, tmp_path: Path, run: Any, capsys: Any
) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    done = run("convert", path, "--architecture", "resnet18", "--out", tmp_path / "model")
    assert done.code == 2
    assert message in done.err
    assert "opened" not in done.out
    assert not (tmp_path / "model").exists()


def test_other_bad_files(resnet: State, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        read_checkpoint(tmp_path / "none.pt")
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint at all")
    with pytest.raises(ModelError, match=r"broken\.pt holds other objects than tensors, or is no"):
        read_checkpoint(tmp_path / "broken.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"broken\.safetensors cannot be read"):
        read_checkpoint(tmp_path / "broken.safetensors")
    with pytest.raises(ModelError, match="lacks 1 of the model's tensors: layer4"):
        convert({n: t for n, t in resnet.items() if n != "layer4.1.bn2.bias"}, "resnet18")
    with pytest.raises(ModelError, match="Is --architecture that of the checkpoint"):
        convert(resnet, "resnet50")
    with pytest.raises(ModelError, match="Layouts that are known: MoCo v1/v2, MoCo v3, simCLRv2"):
        recognise(["a", "b"], ["conv1.weight"])


def test_the_command_is_the_one_of_the_package() -> None:
    assert "convert" in {command.callback.__name__ for command in cli.app.registered_commands}
