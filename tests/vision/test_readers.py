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
