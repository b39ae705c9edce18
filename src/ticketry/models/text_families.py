"""Families of text models: encoders, decoders, and both.

Names are canonical: those of the base ``AutoModel``'s ``state_dict``. The scope ``encoder`` holds
the matrices of the blocks; embeddings, what leads into and out of them, norms, biases and tables
of relative positions never count. Each tensor is named outright: a looser glob would catch tables
such as ``distance_embedding``.
"""

from __future__ import annotations

from ticketry.core.scope import ScopeRule
from ticketry.models.layout import Cut, Family, Layout


def _attention(place: str, inputs: tuple[str, ...], output: str, *count: str) -> Layout:
    """Lay out attention heads: rows of each input projection, columns of the output one."""
    rows = tuple(Cut(f"{place}{name}.weight", 0) for name in inputs)
    return Layout((*rows, Cut(f"{place}{output}.weight", 1)), count)


def _mlp(place: str, inputs: tuple[str, ...], output: str) -> Layout:
    """Lay out neurons: a row of each input projection, a column of the output one."""
    rows = tuple(Cut(f"{place}{name}.weight", 0) for name in inputs)
    return Layout((*rows, Cut(f"{place}{output}.weight", 1)))


def _family(
    model_type: str,
    heads: tuple[Layout, ...],
    neurons: tuple[Layout, ...],
    embeddings: tuple[str, ...],
    *,
    pooler: tuple[str, ...] = (),
    reserved_positions: int = 0,
    **more_scopes: tuple[str, ...],
) -> Family:
    """Describe a family whose blocks are made of these heads and neurons, and nothing else."""
    tensors = [cut.tensor for layout in (*heads, *neurons) for cut in layout.cuts]
    scopes = {"encoder": tuple(dict.fromkeys(tensors))}
    scopes |= {name.replace("_", "-"): patterns for name, patterns in more_scopes.items()}
    return Family(
        model_type,
        scopes={name: ScopeRule(name, include=patterns) for name, patterns in scopes.items()},
        embeddings=embeddings,
        pooler=pooler,
        reserved_positions=reserved_positions,
        heads=heads,
        neurons=neurons,
    )


def _bert_like(
    model_type: str,
    *,
    queries: tuple[str, ...] = ("query", "key", "value"),
    embeddings: tuple[str, ...] = ("embeddings.*",),
    pooler: tuple[str, ...] = (),
    reserved_positions: int = 0,
    **more_scopes: tuple[str, ...],
) -> Family:
    """Describe BERT and those that kept its names."""
    inputs = tuple(f"self.{name}" for name in queries)
    heads = _attention("encoder.layer.*.attention.", inputs, "output.dense", "num_attention_heads")
    return _family(
        model_type,
        (heads,),
        (_mlp("encoder.layer.*.", ("intermediate.dense",), "output.dense"),),
        embeddings,
        pooler=pooler,
        reserved_positions=reserved_positions,
        **more_scopes,
    )


_BERT_BLOCK = (
    "encoder.layer.*.attention.self.query.weight",
    "encoder.layer.*.attention.self.key.weight",
    "encoder.layer.*.attention.self.value.weight",
    "encoder.layer.*.attention.output.dense.weight",
    "encoder.layer.*.intermediate.dense.weight",
    "encoder.layer.*.output.dense.weight",
)


def _decoder(model_type: str) -> Family:
    """Describe Llama and those that kept its names; a head is a group that shares its keys."""
    return _family(
        model_type,
        (
            _attention(
                "layers.*.self_attn.",
                ("q_proj", "k_proj", "v_proj"),
                "o_proj",
                "num_key_value_heads",
                "num_attention_heads",
            ),
        ),
        (_mlp("layers.*.mlp.", ("gate_proj", "up_proj"), "down_proj"),),
        ("embed_tokens.*",),
    )


# T5 scales no attention and shares tables of relative positions, which are no block matrices.
_T5_ENCODER_HEADS = _attention(
    "encoder.block.*.layer.0.SelfAttention.", ("q", "k", "v"), "o", "num_heads"
)
_T5_DECODER_HEADS = (
    _attention("decoder.block.*.layer.0.SelfAttention.", ("q", "k", "v"), "o", "num_heads"),
    _attention("decoder.block.*.layer.1.EncDecAttention.", ("q", "k", "v"), "o", "num_heads"),
)
# A checkpoint has either `wi` or the gated pair.
_T5_ENCODER_NEURONS = tuple(
    _mlp("encoder.block.*.layer.1.DenseReluDense.", inputs, "wo")
    for inputs in (("wi",), ("wi_0", "wi_1"))
)
_T5_DECODER_NEURONS = tuple(
    _mlp("decoder.block.*.layer.2.DenseReluDense.", inputs, "wo")
    for inputs in (("wi",), ("wi_0", "wi_1"))
)


def _t5() -> Family:
    encoder = (
        "encoder.block.*.layer.0.SelfAttention.[qkvo].weight",
        "encoder.block.*.layer.1.DenseReluDense.w*.weight",
    )
    decoder = (
        "decoder.block.*.layer.0.SelfAttention.[qkvo].weight",
        "decoder.block.*.layer.1.EncDecAttention.[qkvo].weight",
        "decoder.block.*.layer.2.DenseReluDense.w*.weight",
    )
    scopes = {"encoder": encoder, "encoder-decoder": (*encoder, *decoder)}
    return Family(
        "t5",
        scopes={name: ScopeRule(name, include=patterns) for name, patterns in scopes.items()},
        embeddings=("shared.*",),
        heads=(_T5_ENCODER_HEADS, *_T5_DECODER_HEADS),
        neurons=(*_T5_ENCODER_NEURONS, *_T5_DECODER_NEURONS),
    )


TEXT_FAMILIES: tuple[Family, ...] = (
    # bert-paper: the 73 matrices of BERT-base in arXiv 2007.12223 and its released code.
    _bert_like("bert", pooler=("pooler.*",), bert_paper=(*_BERT_BLOCK, "pooler.dense.weight")),
    # No `bert-paper` here: RoBERTa's classifier drops the base's pooler for a head of its own,
    # and most RoBERTa checkpoints lack one.
    _bert_like("roberta", pooler=("pooler.*",), reserved_positions=2),
    _bert_like("xlm-roberta", pooler=("pooler.*",), reserved_positions=2),
    # `embeddings_project` leads into the blocks where the embeddings are narrower.
    _bert_like("electra"),
    # `rel_embeddings` is a table of relative positions.
    _bert_like(
        "deberta-v2",
        queries=("query_proj", "key_proj", "value_proj"),
        embeddings=("embeddings.*", "encoder.rel_embeddings.*"),
    ),
    # One block, used in every layer: it counts once. `embedding_hidden_mapping_in` leads into it.
    _family(
        "albert",
        (
            _attention(
                "encoder.albert_layer_groups.*.albert_layers.*.attention.",
                ("query", "key", "value"),
                "dense",
                "num_attention_heads",
            ),
        ),
        (_mlp("encoder.albert_layer_groups.*.albert_layers.*.", ("ffn",), "ffn_output"),),
        ("embeddings.*",),
        pooler=("pooler.*",),
    ),
    _family(
        "distilbert",
        (
            _attention(
                "transformer.layer.*.attention.", ("q_lin", "k_lin", "v_lin"), "out_lin", "n_heads"
            ),
        ),
        (_mlp("transformer.layer.*.ffn.", ("lin1",), "lin2"),),
        ("embeddings.*",),
    ),
    # Queries, keys and values are one matrix, and so are the MLP's input and its gate.
    _family(
        "modernbert",
        (
            Layout(
                (
                    Cut("layers.*.attn.Wqkv.weight", 0, blocks=3),
                    Cut("layers.*.attn.Wo.weight", 1),
                ),
                ("num_attention_heads",),
            ),
        ),
        (Layout((Cut("layers.*.mlp.Wi.weight", 0, blocks=2), Cut("layers.*.mlp.Wo.weight", 1))),),
        ("embeddings.*",),
    ),
    # Conv1D stores [in, out], the transpose of a Linear.
    _family(
        "gpt2",
        (
            Layout(
                (Cut("h.*.attn.c_attn.weight", 1, blocks=3), Cut("h.*.attn.c_proj.weight", 0)),
                ("n_head",),
            ),
        ),
        (Layout((Cut("h.*.mlp.c_fc.weight", 1), Cut("h.*.mlp.c_proj.weight", 0))),),
        ("wte.*", "wpe.*"),
    ),
    _t5(),
    _decoder("llama"),
    _decoder("mistral"),
    _decoder("qwen2"),
    _decoder("qwen3"),
)
