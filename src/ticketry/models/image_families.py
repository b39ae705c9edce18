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

_TIMM_STEMS = (
    "conv1.*",
    "conv_stem.*",
    "stem.*",
    "stem_*",
    "patch_embed.*",
    "features.0.*",
    "features.conv0.*",
)
"""Where timm's models turn pixels into features: ``first_conv`` in their configurations."""

_TIMM_DEPTHWISE = ("*.conv_dw.*", "*.dwconv.*", "*.conv_dw_*", "*.dw_*")

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
    Family(
        "resnet",
        scopes={"encoder": ScopeRule("encoder", include=("encoder.*.weight",), ndims=(4,))},
        embeddings=("embedder.*",),
    ),
    # Any model of timm: all matrices and convolutions but the stem. Heads are not part of the
    # base, and biases, norms, position embeddings and tokens have other dimensions.
    Family(
        "timm_wrapper",
        scopes={
            "encoder": ScopeRule(
                "encoder", include=("*.weight",), exclude=_TIMM_STEMS, ndims=(2, 4)
            ),
            "no-depthwise": ScopeRule(
                "no-depthwise",
                include=("*.weight",),
                exclude=(*_TIMM_STEMS, *_TIMM_DEPTHWISE),
                ndims=(2, 4),
            ),
        },
        embeddings=_TIMM_STEMS,
    ),
)
