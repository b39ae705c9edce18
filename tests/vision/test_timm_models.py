"""Models of timm: names, scopes, heads, batch statistics, CIFAR stems, whole runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import TimmWrapperConfig, TimmWrapperModel

from ticketry import api
from ticketry.core.mask import Mask
from ticketry.core.scope import resolve_scope
from ticketry.errors import InputError, ModelError
from ticketry.models.families import scope_rule
from ticketry.models.heads import load_task_model
from ticketry.models.loading import (
    apply_mask_,
    base_sha256,
    canonical_tensors,
    load_backbone,
    prunable,
    resolve,
    tensor_hashes,
)
from ticketry.models.timm_nets import CIFAR, SMALL, create
from ticketry.models.weights import put_weights_, reinitialised, take_weights


def tiny_folder(folder: Path, architecture: str = SMALL, classes: int = 5) -> Path:
    """Write a model in timm's own layout, classifier and all."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = create(architecture, classes, device="cpu")
    folder.mkdir()
    config = {
        "architecture": architecture,
        "num_classes": classes,
        "num_features": model.num_features,
        "pretrained_cfg": {"input_size": [3, 16, 16], "mean": [0.3] * 3, "std": [0.2] * 3},
    }
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("timm") / "small")


@pytest.mark.parametrize(
    ("architecture", "scope", "tensors", "weights"),
    [
        ("resnet50", "encoder", 52, 23_445_504),
        ("resnet18", "encoder", 19, 11_157_504),
        ("resnet50_cifar", "encoder", 52, 23_445_504),
        ("resnet152_cifar", "encoder", 154, 57_982_976),
        ("resnet50d", "encoder", 52, 23_445_504),
        ("tf_efficientnet_lite0", "encoder", 48, 3_328_128),
        ("tf_efficientnet_lite0", "no-depthwise", 32, 3_146_112),
        ("vit_tiny_patch16_224", "encoder", 48, 5_308_416),
    ],
)
def test_every_convolution_or_matrix_but_the_stem(
    architecture: str, scope: str, tensors: int, weights: int
) -> None:
    shapes = {n: tuple(p.shape) for n, p in create(architecture, 0).named_parameters()}
    names = resolve_scope(shapes, scope_rule(scope, "timm_wrapper"))
    assert (len(names), sum(math.prod(shapes[n]) for n in names)) == (tensors, weights)


def test_the_classifier_is_a_head_and_the_base_is_the_same_in_every_task(tiny: Path) -> None:
    base = resolve(str(tiny))
    backbone = load_backbone(base)
    names = set(canonical_tensors(backbone))
    assert "fc.weight" not in names
    assert {"conv1.weight", "bn1.running_mean", "layer4.1.conv2.weight"} <= names
    digest = base_sha256(tensor_hashes(backbone))
    for labels in ("ab", "abcdefg"):
        model = load_task_model(base, "image-classification", list(labels), head_seed=3)
        assert base_sha256(tensor_hashes(model)) == digest
        assert prunable(model, ("encoder",)) == prunable(backbone, ("encoder",))
        weights = take_weights(model)
        heads = {name: t.shape for name, t in weights.items() if name.startswith("head/")}
        assert heads == {
            "head/timm_model.fc.weight": (len(labels), 128),
            "head/timm_model.fc.bias": (len(labels),),
        }


def test_a_head_is_the_seeds_and_not_the_checkpoints(tiny: Path) -> None:
    base = resolve(str(tiny))

    def head(seed: int) -> Tensor:
        # As many classes as the checkpoint has: its own classifier must not come along.
        model = load_task_model(base, "image-classification", list("abcde"), head_seed=seed)
        return take_weights(model)["head/timm_model.fc.weight"]

    stored = safetensors.torch.load_file(tiny / "model.safetensors")["fc.weight"]
    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))
    assert not torch.equal(head(1), stored)


def test_batch_statistics_are_rewound_with_the_weights(tiny: Path) -> None:
    model = load_task_model(resolve(str(tiny)), "image-classification", list("ab"), head_seed=0)
    start = take_weights(model)
    model.train()
    model(pixel_values=torch.rand(8, 3, 16, 16))
    assert not torch.equal(take_weights(model)["bn1.running_mean"], start["bn1.running_mean"])
    put_weights_(model, start)
    again = take_weights(model)
    assert all(torch.equal(tensor, start[name]) for name, tensor in again.items())


def test_weights_drawn_anew_are_the_seeds(tiny: Path) -> None:
    base = resolve(str(tiny))
    one, same, other = (reinitialised(base, seed) for seed in (1, 1, 2))
    theta0 = canonical_tensors(load_backbone(base))
    assert set(one) == set(theta0)
    assert torch.equal(one["layer1.0.conv1.weight"], same["layer1.0.conv1.weight"])
    assert not torch.equal(one["layer1.0.conv1.weight"], other["layer1.0.conv1.weight"])
    assert not torch.equal(one["layer1.0.conv1.weight"], theta0["layer1.0.conv1.weight"])


@pytest.mark.parametrize("architecture", [*CIFAR, SMALL])
def test_a_cifar_stem_keeps_the_size_of_small_images(architecture: str) -> None:
    model = create(architecture, 0)
    assert (model.conv1.kernel_size, model.conv1.stride) == ((3, 3), (1, 1))
    features = model.layer1(model.maxpool(model.conv1(torch.rand(1, 3, 32, 32, device="meta"))))
    assert features.shape[-2:] == (32, 32)


@pytest.mark.parametrize(
    ("architecture", "stem"),
    [
        ("dla46_c", "base_layer.0.weight"),
        ("legacy_seresnet18", "layer0.conv1.weight"),
        ("twins_svt_small", "patch_embeds.0.proj.weight"),
        ("resnet50d", "conv1.0.weight"),
    ],
)
def test_a_stem_is_what_the_architecture_says(architecture: str, stem: str) -> None:
    with torch.device("meta"):
        model = TimmWrapperModel(TimmWrapperConfig(architecture=architecture))
    assert stem in canonical_tensors(model)
    names = prunable(model, "encoder")
    assert stem not in names
    assert len(names) > 10
    assert prunable(model, stem) == (stem,)  # whoever names it means it


@pytest.mark.parametrize(
    "architecture", ["mobilevit_s", "ghostnet_050", "repvit_m0_9", "lcnet_035"]
)
def test_no_depthwise_is_told_by_what_a_convolution_does(architecture: str) -> None:
    with torch.device("meta"):
        model = TimmWrapperModel(TimmWrapperConfig(architecture=architecture))
    kept = set(prunable(model, "no-depthwise"))
    parts = {
        f"{name}.weight": part.groups == part.in_channels > 1
        for name, part in model.base_model.named_modules()
        if isinstance(part, torch.nn.Conv2d)
    }
    assert any(parts.values())
    assert not kept & {name for name, depthwise in parts.items() if depthwise}
    assert kept < set(prunable(model, "encoder"))


def test_an_unknown_architecture_shows_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no architecture 'resnet5'\. Did you mean resnet50"):
        create("resnet5", 0)
    folder = tiny_folder(tmp_path / "small")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architecture": "resnet5"}))
    with pytest.raises(ModelError, match="resnet5"):
        load_backbone(resolve(str(folder)))


def test_a_masked_model_is_saved_and_read_by_transformers_alone(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    model = load_backbone(resolve(str(tiny)))
    names = prunable(model, ("encoder",))
    mask = Mask({name: canonical_tensors(model)[name] > 0 for name in names})
    apply_mask_(model, mask)
    model.save_pretrained(tmp_path / "saved")
    again = canonical_tensors(AutoModel.from_pretrained(tmp_path / "saved"))
    assert all((again[name][~mask[name]] == 0).all() for name in names)
    assert load_backbone(resolve(str(tmp_path / "saved"))) is not None


def test_a_whole_run_on_digits(tiny: Path, tmp_path: Path) -> None:
    ticket = api.find(
        str(tiny), "digits", method="imp", levels=2, sparsity=0.36, replicates=2, recipe="images",
        image_size=8, epochs=4, batch_size=16, learning_rate=0.05, train_samples=300,
        augment="crop", controls=["random-layerwise"], workers=0, out=tmp_path / "run",
    )  # fmt: skip
    assert ticket.verdict.replicates == 2
    assert ticket.verdict.dense_mean > 0.3  # of ten classes
    assert ticket.mask.sparsity == pytest.approx(0.36, abs=1e-4)
    evidence = json.loads((tmp_path / "run" / "ticket" / "ticket_evidence.json").read_text())
    assert "SGD, momentum 0.9, learning rate 0.05" in evidence["recipe"]["description"]
    assert "images of 8 pixels, crop" in evidence["recipe"]["description"]


def test_what_an_image_recipe_refuses(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as found:
        api.find(str(tiny), "digits", image_size=4, augment="mirror", out=tmp_path / "run")
    assert "--image-size is 4; expected 8 to 4096 pixels" in str(found.value)
    assert "unknown --augment 'mirror'" in str(found.value)
    assert not (tmp_path / "run").exists()
