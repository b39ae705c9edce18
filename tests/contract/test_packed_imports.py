"""What a user sees: with ticketry imported before or after transformers, and without ticketry."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from ticketry.packed.packer import pack_folder

LOAD = """
import torch
from transformers import AutoModelForSequenceClassification as Auto, BertForSequenceClassification
{first}
model = Auto.from_pretrained({packed!r})
plain = BertForSequenceClassification.from_pretrained({dense!r})
state = plain.state_dict()
print(all(torch.equal(t, state[n]) for n, t in model.state_dict().items()))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("packed")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(
            BertConfig(
                vocab_size=23,
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
            )
        )
    for name, weight in model.named_parameters():
        if "encoder" in name and weight.dim() == 2:
            weight.data[::2] = 0
    model.save_pretrained(folder / "dense")
    pack_folder(str(folder / "dense"), folder / "packed")
    return str(folder / "dense"), str(folder / "packed")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("before", "first"),
    [
        ("import ticketry", ""),
        ("", "import ticketry"),
        ("from ticketry.packed.quantizer import TicketryConfig", ""),
    ],
    ids=["before", "after", "the plug-in itself"],
)
def test_either_may_be_imported_first(folders: tuple[str, str], before: str, first: str) -> None:
    dense, packed = folders
    result = run(before + LOAD.format(first=first, packed=packed, dense=dense))
    assert result.stdout == "True\n", result.stderr
    assert "Unknown quantization type" not in result.stderr
    assert "UserWarning" not in result.stderr


def test_without_ticketry_loading_fails_and_says_why(folders: tuple[str, str]) -> None:
    """Never random weights: transformers warns, and then finds no weights that it knows."""
    dense, packed = folders
    result = run(LOAD.format(first="", packed=packed, dense=dense))
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Unknown quantization type, got ticketry" in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("OSError: Error no file named model.safetensors")


def test_importing_ticketry_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, ticketry\n"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))\n"
        "import ticketry.plugin, transformers.quantizers.auto as home\n"
        "print('ticketry' in home.AUTO_QUANTIZER_MAPPING, home.__spec__.origin == home.__file__)\n"
        "print([f for f in sys.meta_path if type(f).__module__.startswith('ticketry')])\n"
        "ticketry.plugin.install()\n"
    )
    assert run(code).stdout.splitlines() == ["[]", "True True", "[]"]


def test_a_transformers_that_cannot_take_it_still_imports() -> None:
    code = (
        "import ticketry, sys\n"
        "sys.modules['ticketry.packed.quantizer'] = None\n"
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    import transformers.quantizers.auto as home\n"
        "print('ticketry' in home.AUTO_QUANTIZER_MAPPING)\n"
        "print([str(w.message)[:58] for w in seen if 'packed' in str(w.message)])\n"
    )
    assert run(code).stdout.splitlines() == [
        "False",
        '["this transformers cannot load ticketry\'s packed models: im"]',
    ]
