"""A tiny model of every family, built from its configuration, and what is prunable in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from transformers import PretrainedConfig

VOCABULARY = 28  # that of tests/tiny.py; [PAD] is 0, [SEP] is 3
TEXT = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
BERT = {
    **TEXT,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
LLAMA = {**BERT, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}


@dataclass(frozen=True)
class Tiny:
    """One architecture.

    Attributes:
        config: class of the configuration, in transformers.
        options: of the configuration.
        tensors, weights: prunable in the scope ``encoder``, counted by hand beside the entry.
        heads, neurons: units in all layers; 0: the family has none.
        pretraining: a class whose folder must load as the base.
    """

    config: str
    options: Mapping[str, Any]
    tensors: int
    weights: int
    heads: int
    neurons: int
    pretraining: str

    def build_config(self) -> PretrainedConfig:
        """Return a fresh configuration."""
        return getattr(transformers, self.config)(**self.options)


# A BERT layer: query, key, value, output 4·16·16 and two of 16·32 = 2,048 in 6 tensors.
# Hidden 16 and 2 layers everywhere, so two such layers are 12 tensors and 4,096 weights.
ARCHITECTURES: Mapping[str, Tiny] = {
    "bert": Tiny("BertConfig", BERT, 12, 4096, 4, 64, "BertForMaskedLM"),
    "roberta": Tiny("RobertaConfig", BERT, 12, 4096, 4, 64, "RobertaForMaskedLM"),
    "xlm-roberta": Tiny("XLMRobertaConfig", BERT, 12, 4096, 4, 64, "XLMRobertaForMaskedLM"),
    "electra": Tiny(
        "ElectraConfig", {**BERT, "embedding_size": 8}, 12, 4096, 4, 64, "ElectraForPreTraining"
    ),
    "deberta-v2": Tiny(
        "DebertaV2Config",
        {
            **BERT,
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
        },
        12,
        4096,
        4,
        64,
        "DebertaV2ForMaskedLM",
    ),
    # One layer, used twice: 6 tensors and 2,048 weights.
    "albert": Tiny(
        "AlbertConfig", {**BERT, "embedding_size": 8}, 6, 2048, 2, 32, "AlbertForMaskedLM"
    ),
    "distilbert": Tiny(
        "DistilBertConfig",
        {
            **TEXT,
            "dim": 16,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 32,
            "max_position_embeddings": 40,
        },
        12,
        4096,
        4,
        64,
        "DistilBertForMaskedLM",
    ),
    # Wqkv 48·16, Wo 16·16, Wi 64·16 (input and gate), Wo 16·32 = 2,560 in 4 tensors.
    "modernbert": Tiny(
        "ModernBertConfig",
        {**BERT, "cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 2},
        8,
        5120,
        4,
        64,
        "ModernBertForMaskedLM",
    ),
    # c_attn 16·48, c_proj 16·16, c_fc 16·64, c_proj 64·16 = 3,072 in 4 tensors (inner 4·16).
    "gpt2": Tiny(
        "GPT2Config",
        {**TEXT, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40},
        8,
        6144,
        4,
        128,
        "GPT2LMHeadModel",
    ),
    # Encoder alone: q, k, v, o 4·16·16 and wi, wo 2·16·32 = 2,048 in 6 tensors a block.
    "t5": Tiny(
        "T5Config",
        {
            **TEXT,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 2,
            "decoder_start_token_id": 0,
        },
        12,
        4096,
        4,
        64,
        "T5ForConditionalGeneration",
    ),
    # q, o 2·16·16, k, v 2·8·16 (2 of 4 heads' width), gate, up, down 3·16·32 = 2,304 in 7 tensors.
    # Queries share keys and values two by two, so a layer has 2 heads that can go.
    "llama": Tiny("LlamaConfig", LLAMA, 14, 4608, 4, 64, "LlamaForCausalLM"),
    "mistral": Tiny("MistralConfig", LLAMA, 14, 4608, 4, 64, "MistralForCausalLM"),
    "qwen2": Tiny("Qwen2Config", LLAMA, 14, 4608, 4, 64, "Qwen2ForCausalLM"),
    "qwen3": Tiny("Qwen3Config", LLAMA, 14, 4608, 4, 64, "Qwen3ForCausalLM"),
    # q, k, v, o 4·16·16 and two of 16·32 = 2,048 in 6 tensors a layer.
    "vit": Tiny(
        "ViTConfig",
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "image_size": 8,
            "patch_size": 4,
        },
        12,
        4096,
        4,
        64,
        "ViTForImageClassification",
    ),
    # A block of width 8: dwconv 8·7·7 and two of 8·32 = 904; of width 16: 784 + 2·16·64 = 2,832;
    # between them a 2·2 convolution 16·8·2·2 = 512. In all 4,248 in 7 tensors, 32 + 64 neurons.
    "convnext": Tiny(
        "ConvNextConfig",
        {
            "num_stages": 2,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "image_size": 8,
            "patch_size": 1,
            "layer_scale_init_value": 1.0,
        },
        7,
        4248,
        0,
        96,
        "ConvNextForImageClassification",
    ),
    # Two blocks of two 3·3 convolutions: 8 to 8 channels, 2·8·8·9 = 1,152; 8 to 16, 16·8·9 +
    # 16·16·9 + a shortcut of 16·8 = 3,584. In all 4,736 in 5 tensors.
    "resnet": Tiny(
        "ResNetConfig",
        {
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "layer_type": "basic",
            "image_size": 32,
        },
        5,
        4736,
        0,
        0,
        "ResNetForImageClassification",
    ),
}
IMAGES = ("convnext", "resnet", "vit")
"""Those of images; timm's have tests of their own (tests/vision)."""
