"""The variants that the tests go through: for each kind of base, named recipes that any order of links may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tests.kit.bases import Base, gpt2_base, llama_base
from tests.kit.kinds_of_bases import attention_base, conv_base, declared_base, gpt_oss_base, mixtral_base, opt_base
from tests.kit.recipes import Recipe

CONVS: Final = ("c1", "c1p", "c2", "c2p", "c2r", "c3", "c3p")
_GATE_UP: Final = "mlp.experts.gate_up_proj"
_DOWN: Final = "mlp.experts.down_proj"

MAKERS: Final[Mapping[str, Callable[..., Base]]] = {
    "llama": llama_base,
    "tied llama": lambda folder, **options: llama_base(folder, tied=True, **options),
    "gpt2": gpt2_base,
    "opt": opt_base,
    "conv": conv_base,
    "attention": attention_base,
    "mixtral": mixtral_base,
    "gpt_oss": gpt_oss_base,
    "declared": declared_base,
}
"""Makers of bases, by the name that `VARIANTS` uses."""

VARIANTS: Final[Mapping[str, Mapping[str, Recipe]]] = {
    "llama": {
        "plain": Recipe(("q_proj", "v_proj", "down_proj"), r=3, alpha=6),
        "one layer": Recipe(("model.layers.1.self_attn.q_proj",), r=1, alpha=2),
        "rslora": Recipe(("q_proj", "up_proj"), r=4, rslora=True, rank_pattern={"up_proj": 2}),
        "patterns": Recipe(("q_proj", "k_proj"), rank_pattern={"q_proj": 5}, alpha_pattern={"k_proj": 1}, alpha=8),
        "dora": Recipe(("q_proj", "down_proj"), dora=True),
        "dora of others": Recipe(("k_proj", "up_proj", "q_proj"), dora=True, rslora=True, r=3),
        "dora embedding": Recipe(("embed_tokens", "v_proj"), dora=True, copies=True),
        "embedding and head": Recipe(("embed_tokens", "lm_head"), copies=True),
        "dora head": Recipe(("lm_head",), dora=True),
        "new head": Recipe(("q_proj",), replaced=("lm_head",)),
        "new embedding": Recipe(("q_proj",), replaced=("embed_tokens",)),
        "new norm": Recipe(("v_proj",), replaced=("input_layernorm", "model.norm")),
        "new linear": Recipe(("v_proj",), replaced=("q_proj", "down_proj")),
        "tokens": Recipe(("q_proj",), tokens={"embed_tokens": (1, 5)}, tokens_as_list=True),
        "other tokens": Recipe(("v_proj",), tokens={"embed_tokens": (5, 7, 0)}),
        "blocks": Recipe(("q_proj", "o_proj", "v_proj"), r=4, blocks_a=("q_proj",), blocks_b=("o_proj",)),
        "negative alpha": Recipe(("q_proj",), alpha=-3.5),
        "zero alpha": Recipe(("q_proj", "v_proj"), alpha_pattern={"v_proj": 0}),
        "loha": Recipe(("q_proj", "v_proj", "down_proj"), product="loha", rank_pattern={"down_proj": 1}),
        "lokr": Recipe(("q_proj", "up_proj"), product="lokr", r=1, alpha_pattern={"q_proj": 3}, dtype="BF16"),
        "lokr of pairs": Recipe(("q_proj", "down_proj"), product="lokr of pairs", r=1, replaced=("model.norm",)),
        "lokr whole": Recipe(("k_proj", "v_proj"), product="lokr whole", r=4, alpha=2),
        "half": Recipe(("q_proj", "down_proj"), dtype="F16", dora=True),
        "brain": Recipe(("q_proj", "down_proj"), dtype="BF16", alpha=8),
    },
    "tied llama": {
        "plain": Recipe(("q_proj", "v_proj")),
        "embedding": Recipe(("embed_tokens",)),
        "head": Recipe(("lm_head", "q_proj")),
        "both": Recipe(("embed_tokens", "lm_head")),
        "kept": Recipe(("embed_tokens", "lm_head"), ensure_tied=True),
        "dora embedding": Recipe(("embed_tokens",), dora=True),
        "dora head": Recipe(("lm_head",), dora=True),
        "new head": Recipe(("q_proj",), replaced=("lm_head",)),
        "new embedding": Recipe(("q_proj",), replaced=("embed_tokens",)),
        "new kept": Recipe(("q_proj",), replaced=("embed_tokens", "lm_head"), ensure_tied=True),
        "tokens": Recipe(("q_proj",), tokens={"embed_tokens": (3, 4)}),
        "head tokens": Recipe(("q_proj",), tokens={"lm_head": (3, 9)}),
        "tokens of both": Recipe(("q_proj",), tokens={"embed_tokens": (3, 4), "lm_head": (3, 4)}),
        "tokens of each": Recipe(("q_proj",), tokens={"embed_tokens": (3, 4), "lm_head": (2, 3)}),
    },
    "gpt2": {
        "plain": Recipe(("c_attn", "c_proj", "c_fc")),
        "dora": Recipe(("c_attn", "c_proj"), dora=True),
        "bias": Recipe(("c_proj",), bias="lora_only"),
        "biases": Recipe(("c_fc",), bias="all"),
        "lora bias": Recipe(("c_attn", "c_proj"), lora_bias=True),
        "positions": Recipe(("wpe",)),
        "dora positions": Recipe(("wpe", "c_fc"), dora=True),
        "new norm": Recipe(("c_fc",), replaced=("ln_1", "ln_f")),
        "new linear": Recipe(("c_fc",), replaced=("c_proj",)),
    },
    "opt": {
        "plain": Recipe(("q_proj", "fc1")),
        "bias": Recipe(("q_proj", "fc1"), bias="lora_only"),
        "biases": Recipe(("q_proj",), bias="all"),
        "lora bias": Recipe(("q_proj", "v_proj"), lora_bias=True, rslora=True, r=4),
        "dora": Recipe(("q_proj", "fc2"), dora=True),
        "dora bias": Recipe(("fc1",), dora=True, bias="lora_only"),
        "new linear": Recipe(("q_proj",), replaced=("fc2",)),
    },
    "conv": {
        "plain": Recipe((*CONVS, "emb", "head")),
        "dora": Recipe((*CONVS, "emb", "head"), dora=True),
        "some": Recipe(("c2", "c3p"), r=3, rslora=True),
        "dora of some": Recipe(("c1p", "c3"), dora=True, r=1),
        "lora bias": Recipe(("c1", "c2", "c3", "head"), lora_bias=True),
        "biases": Recipe(("c1", "c2"), bias="all"),
        "loha": Recipe(("c1p", "c2", "c2p", "head"), product="loha"),
        "lokr": Recipe(("c2", "head"), product="lokr"),
        "lokr whole": Recipe(("c2", "c2p"), product="lokr whole", r=3),
        "new conv": Recipe(("c1",), replaced=("c2", "c3p")),
    },
    "attention": {
        "plain": Recipe(("attn",)),
        "ranks": Recipe(("attn", "linear"), rank_pattern={"attn": 3}, alpha_pattern={"attn": 1}),
        "rslora": Recipe(("attn",), r=4, rslora=True),
        "beside": Recipe(("linear", "back"), dora=True),
        "fixed peft": Recipe(("attn",), peft_version="0.21.3"),
        "old peft": Recipe(("attn", "back"), peft_version="0.18.0"),
    },
    "mixtral": {
        "fused": Recipe(("q_proj",), (_DOWN, _GATE_UP)),
        "up only": Recipe((), (_GATE_UP,), r=3, alpha=3),
        "down only": Recipe(("v_proj",), (_DOWN,), rslora=True),
        "patterns": Recipe(
            (), (_GATE_UP, _DOWN), rank_pattern={"experts.down_proj": 1}, alpha_pattern={"gate_up_proj": 9}
        ),
        "each expert": Recipe(("w1", "w2", "w3")),
        "one of each": Recipe(("w3", "q_proj"), r=1),
        "attention": Recipe(("q_proj", "o_proj"), dora=True),
        "new experts": Recipe(("q_proj",), replaced=("experts",)),
    },
    "gpt_oss": {
        "fused": Recipe(("q_proj",), (_DOWN, _GATE_UP)),
        "up only": Recipe((), (_GATE_UP,), r=3),
        "down only": Recipe((), (_DOWN,), r=1, rslora=True),
        "attention": Recipe(("q_proj", "o_proj"), lora_bias=True),
        "dora": Recipe(("k_proj",), dora=True),
        "new experts": Recipe(("q_proj",), replaced=("experts",)),
    },
    "declared": {
        "linear": Recipe(("turned", "straight")),
        "dora": Recipe(("turned", "straight"), dora=True),
        "bias": Recipe(("turned",), lora_bias=True),
        "experts": Recipe((), ("experts.up", "experts.mid", "experts.down")),
        "inner experts": Recipe(("straight",), ("experts.mid",), r=3),
        "outer experts": Recipe((), ("body.experts.up", "body.experts.down")),
        "new linear": Recipe(("straight",), replaced=("turned",)),
    },
}
"""Recipes by base and name."""
