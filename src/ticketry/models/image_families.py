"""Families of image models: transformers on patches, and convolutional ones."""

from __future__ import annotations

from ticketry.core.scope import ScopeRule
from ticketry.models.layout import Cut, Family, Layout

_VIT_HEADS = Layout(
    (
        Cut("layers.*.attention.q_proj.weight", 0),
        Cut("layers.*.attention.k_proj.weight", 0),
        Cut("layers.*.attention.v_proj.weight", 0),
        Cut("layers.*.attention.o_proj.weight", 1),
    ),
    ("num_attention_heads",),
)
_VIT_NEURONS = Layout((Cut("layers.*.mlp.fc1.weight", 0), Cut("layers.*.mlp.fc2.weight", 1)))
_CONVNEXT_NEURONS = Layout(
    (
        Cut("encoder.stages.*.layers.*.pwconv1.weight", 0),
        Cut("encoder.stages.*.layers.*.pwconv2.weight", 1),
    )
)

IMAGE_FAMILIES: tuple[Family, ...] = (
    # The patch projection leads into the blocks, as an embedding does.
    Family(
        "vit",
        scopes={
            "encoder": ScopeRule(
                "encoder",
                include=tuple(cut.tensor for cut in (*_VIT_HEADS.cuts, *_VIT_NEURONS.cuts)),
            )
        },
        embeddings=("embeddings.*",),
        pooler=("pooler.*",),
        heads=(_VIT_HEADS,),
        neurons=(_VIT_NEURONS,),
    ),
    # Every convolution but the stem, as in arXiv 2012.06908: depthwise and pointwise ones (stored
    # as linear layers) and those that halve the size between stages.
    Family(
        "convnext",
        scopes={
            "encoder": ScopeRule(
                "encoder",
                include=(
                    "encoder.stages.*.layers.*.dwconv.weight",
                    "encoder.stages.*.layers.*.pwconv1.weight",
                    "encoder.stages.*.layers.*.pwconv2.weight",
                    "encoder.stages.*.downsampling_layer.*.weight",
                ),
                ndims=(2, 4),
            )
        },
        embeddings=("embeddings.*",),
        neurons=(_CONVNEXT_NEURONS,),
    ),
)
