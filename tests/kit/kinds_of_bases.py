"""Tiny bases for what a plain llama lacks: biases, convolutions, ``nn.MultiheadAttention``, fused experts.

Made by hand like those of `tests.kit.bases`; the nets of `conv_base` and `attention_base` are known to no library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.kit.bases import Base, Kind, Module, Shapes, write_base
from tests.kit.layouts import EMBEDDING_LEAVES, layout_of


def opt_base(
    folder: Path, *, dtype: str = "F32", seed: int = 0, shards: int = 1, layers: int = 2, tied: bool = True
) -> Base:
    """An `OPTForCausalLM`: biases everywhere, tied head."""
    hidden, mlp, vocab = 16, 24, 40
    lead = "model.decoder."
    shapes: dict[str, tuple[int, ...]] = {
        f"{lead}embed_tokens.weight": (vocab, hidden),
        f"{lead}embed_positions.weight": (34, hidden),
        f"{lead}final_layer_norm.weight": (hidden,),
        f"{lead}final_layer_norm.bias": (hidden,),
    }
    for number in range(layers):
        for name, out_features, in_features in (
            ("self_attn.k_proj", hidden, hidden),
            ("self_attn.v_proj", hidden, hidden),
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.out_proj", hidden, hidden),
            ("fc1", mlp, hidden),
            ("fc2", hidden, mlp),
        ):
            stem = f"{lead}layers.{number}.{name}"
            shapes |= {f"{stem}.weight": (out_features, in_features), f"{stem}.bias": (out_features,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            stem = f"{lead}layers.{number}.{name}"
            shapes |= {f"{stem}.weight": (hidden,), f"{stem}.bias": (hidden,)}
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    config = {
        "activation_function": "relu",
        "architectures": ["OPTForCausalLM"],
        "bos_token_id": 0,
        "do_layer_norm_before": True,
        "dropout": 0.0,
        "enable_bias": True,
        "eos_token_id": 1,
        "ffn_dim": mlp,
        "hidden_size": hidden,
        "layer_norm_elementwise_affine": True,
        "max_position_embeddings": 32,
        "model_type": "opt",
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
        "pad_token_id": 2,
        "tie_word_embeddings": tied,
        "vocab_size": vocab,
        "word_embed_proj_dim": hidden,
    }
    return _make(folder, config, shapes, dtype, seed, shards, "OPTForCausalLM")


CONV_SHAPES: dict[str, tuple[int, ...]] = {
    "c1.weight": (6, 4, 3),
    "c1.bias": (6,),
    "c1p.weight": (6, 6, 1),
    "c1p.bias": (6,),
    "c2.weight": (5, 1, 3, 3),
    "c2.bias": (5,),
    "c2p.weight": (6, 5, 1, 1),
    "c2p.bias": (6,),
    "c2r.weight": (4, 6, 1, 3),
    "c2r.bias": (4,),
    "c3.weight": (3, 1, 3, 3, 3),
    "c3.bias": (3,),
    "c3p.weight": (5, 3, 1, 1, 1),
    "c3p.bias": (5,),
    "emb.weight": (30, 4),
    "head.weight": (5, 3),
    "head.bias": (5,),
}
"""`conv_base`: convolutions of one, two and three dimensions, pointwise ones too."""


def conv_base(folder: Path, *, dtype: str = "F32", seed: int = 0, shards: int = 1) -> Base:
    """A net of convolutions, an embedding and a linear module, with no config to say what it is."""
    return _make(folder, {}, CONV_SHAPES, dtype, seed, shards, None)


def attention_base(folder: Path, *, dtype: str = "F32", seed: int = 0, shards: int = 1, hidden: int = 8) -> Base:
    """A net with two ``nn.MultiheadAttention``, with no config to say what it is."""
    shapes: dict[str, tuple[int, ...]] = {"emb.weight": (30, hidden)}
    for number in range(2):
        shapes |= {
            f"blocks.{number}.attn.in_proj_weight": (3 * hidden, hidden),
            f"blocks.{number}.attn.in_proj_bias": (3 * hidden,),
            f"blocks.{number}.attn.out_proj.weight": (hidden, hidden),
            f"blocks.{number}.attn.out_proj.bias": (hidden,),
            f"blocks.{number}.linear.weight": (12, hidden),
            f"blocks.{number}.linear.bias": (12,),
            f"blocks.{number}.back.weight": (hidden, 12),
            f"blocks.{number}.back.bias": (hidden,),
        }
    return _make(folder, {}, shapes, dtype, seed, shards, None)


def declared_base(folder: Path, *, dtype: str = "F32", seed: int = 0, shards: int = 1) -> Base:
    """A net that says by ``registry.json`` what its tensors can't: which are transposed, and which hold experts.

    ``turned`` is square, and the experts' matrices are square in one parameter.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "body.turned.weight": (12, 12),
        "body.turned.bias": (12,),
        "body.straight.weight": (12, 12),
        "body.experts.up": (3, 12, 20),
        "body.experts.mid": (3, 20, 20),
        "body.experts.down": (3, 20, 12),
    }
    modules = {
        "body.turned": {"kind": "linear", "transposed": True},
        "body.straight": {"kind": "linear"},
        "body.experts": {"kind": "experts", "parameters": ["up", "mid", "down"], "transposed": True},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "registry.json").write_text(json.dumps({"modules": modules}))
    return _make(folder, {}, shapes, dtype, seed, shards, None)


def mixtral_base(
    folder: Path,
    *,
    dtype: str = "F32",
    seed: int = 0,
    shards: int = 1,
    layers: int = 1,
    mlp: int = 12,
    experts: int = 3,
) -> Base:
    """A `MixtralForCausalLM`: one parameter for all experts at run time, w1, w2 and w3 of each in the files.

    With ``mlp=16`` the matrices of ``down_proj`` are square.
    """
    hidden, vocab = 16, 40
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for number in range(layers):
        lead = f"model.layers.{number}."
        shapes |= {
            f"{lead}input_layernorm.weight": (hidden,),
            f"{lead}post_attention_layernorm.weight": (hidden,),
            f"{lead}self_attn.k_proj.weight": (hidden // 2, hidden),
            f"{lead}self_attn.o_proj.weight": (hidden, hidden),
            f"{lead}self_attn.q_proj.weight": (hidden, hidden),
            f"{lead}self_attn.v_proj.weight": (hidden // 2, hidden),
            f"{lead}block_sparse_moe.gate.weight": (experts, hidden),
        }
        for expert in range(experts):
            stem = f"{lead}block_sparse_moe.experts.{expert}."
            shapes |= {f"{stem}w1.weight": (mlp, hidden), f"{stem}w2.weight": (hidden, mlp)}
            shapes |= {f"{stem}w3.weight": (mlp, hidden)}
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    config = {
        "architectures": ["MixtralForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "max_position_embeddings": 64,
        "model_type": "mixtral",
        "num_attention_heads": 4,
        "num_experts_per_tok": 2,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "num_local_experts": experts,
        "tie_word_embeddings": False,
        "vocab_size": vocab,
    }
    return _make(folder, config, shapes, dtype, seed, shards, "MixtralForCausalLM")


def gpt_oss_base(
    folder: Path,
    *,
    dtype: str = "F32",
    seed: int = 0,
    shards: int = 1,
    mlp: int = 12,
    experts: int = 3,
    hidden: int = 16,
) -> Base:
    """A `GptOssForCausalLM`: experts fused in the files too, stored (experts, in, out).

    With ``mlp=16`` the matrices of ``down_proj`` are square.
    """
    vocab = 40
    lead = "model.layers.0."
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for name, out_features, in_features in (
        ("self_attn.q_proj", 32, hidden),
        ("self_attn.k_proj", 16, hidden),
        ("self_attn.v_proj", 16, hidden),
        ("self_attn.o_proj", hidden, 32),
        ("mlp.router", experts, hidden),
    ):
        shapes |= {f"{lead}{name}.weight": (out_features, in_features), f"{lead}{name}.bias": (out_features,)}
    shapes |= {
        f"{lead}self_attn.sinks": (4,),
        f"{lead}mlp.experts.gate_up_proj": (experts, hidden, 2 * mlp),
        f"{lead}mlp.experts.gate_up_proj_bias": (experts, 2 * mlp),
        f"{lead}mlp.experts.down_proj": (experts, mlp, hidden),
        f"{lead}mlp.experts.down_proj_bias": (experts, hidden),
        f"{lead}input_layernorm.weight": (hidden,),
        f"{lead}post_attention_layernorm.weight": (hidden,),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocab, hidden),
    }
    config: dict[str, Any] = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "eos_token_id": 2,
        "head_dim": 8,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "layer_types": ["sliding_attention"],
        "max_position_embeddings": 64,
        "model_type": "gpt_oss",
        "num_attention_heads": 4,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "num_local_experts": experts,
        "rope_parameters": {"rope_theta": 150000.0, "rope_type": "default"},
        "sliding_window": 16,
        "tie_word_embeddings": False,
        "vocab_size": vocab,
    }
    return _make(folder, config, shapes, dtype, seed, shards, "GptOssForCausalLM")


def _make(
    folder: Path, config: dict[str, Any], shapes: Shapes, dtype: str, seed: int, shards: int, architecture: str | None
) -> Base:
    write_base(folder, config, shapes, dtype, seed, shards, 0.1)
    return Base(folder, _modules(folder), architecture)


def _modules(folder: Path) -> dict[str, Module]:
    """Every module with a weight, and the experts' as the files name them (adapters of transformers 4 do)."""
    layout = layout_of(folder)
    found = {}
    for parameter, held in layout.parameters.items():
        if parameter.endswith(".in_proj_weight"):
            name = parameter.removesuffix(".in_proj_weight")
            found[name] = Module(name, held.parts[0].tensor, "attention", held.shape)
        elif parameter.endswith(".weight") and len(held.shape) >= 2:
            name = parameter.removesuffix(".weight")
            tensor = held.parts[0].tensor if held.parts else layout.parameters[layout.ties[parameter]].parts[0].tensor
            turned = name in layout.conv1d
            found[name] = Module(name, tensor, "conv1d" if turned else _kind(name, held.shape), held.shape)
        elif len(held.parts) > 1:
            for part in held.parts:
                name = part.tensor.removesuffix(".weight")
                rows = part.index[1]
                height = rows.stop - rows.start if isinstance(rows, slice) else held.shape[1]
                found[name] = Module(name, part.tensor, "linear", (height, held.shape[2]))
    return found


def _kind(name: str, shape: tuple[int, ...]) -> Kind:
    if len(shape) > 2:
        return "conv"
    return "embedding" if name.rpartition(".")[2] in EMBEDDING_LEAVES else "linear"
