"""The rules of each engine, as data: what it can't load of a PEFT adapter, and where its source says so.

An adapter is taken apart in `registry.engines.parts`; a row says which parts the engine can't load. What a model class
of an engine has beyond that (whether it supports adapters at all) is known to the engine only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from registry.digest import sha256_digest
from registry.schemas.form import EngineName

Part = Literal[
    "dora", "replaced", "biases", "tokens", "tied_tokens", "embeddings", "convolutions", "attention", "experts",
    "half_experts", "conv1d", "pattern", "modules", "together",
]  # fmt: skip
"""What an adapter may have, beside plain pairs of linear modules."""


@dataclass(frozen=True)
class Rule:
    """A part of adapters that an engine can't load, but for some modules or models."""

    why: str  # what the engine does with it
    source: str  # file of the engine, and what in it
    but_for: frozenset[str] = frozenset()  # last names of modules that it does load
    but_on: frozenset[str] = frozenset()  # model types of base models on which it does


@dataclass(frozen=True)
class Engine:
    """An engine, as of one version of it."""

    name: EngineName
    title: str
    version: str
    rules: Mapping[Part, Rule]
    rank: int | None = None  # the largest rank that it takes unless it is started with more; None: any
    rank_source: str = ""  # file of the engine, and what in it
    slots: tuple[int, ...] = ()  # the only ranks that it can be started with; empty: any
    uniform: bool = False  # it counts on one rank for all modules, so adapters are filled up with zeros for it
    takes_limit: bool = False  # it is started with a largest rank
    together: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # last name -> those it comes with in a layer


_IN_PEFT_HELPER: Final = "vllm/lora/peft_helper.py (_validate_features, validate_legal)"
_IN_LORA_MODEL: Final = "vllm/lora/lora_model.py (check_unexpected_modules)"

_VLLM: Final = Engine(
    "vllm",
    "vLLM",
    "0.33.0",
    rank=16,
    rank_source="vllm/config/lora.py (LoRAConfig.max_lora_rank, MaxLoRARanks)",
    slots=(1, 8, 16, 32, 64, 128, 256, 320, 512),
    uniform=True,  # versions before rank_pattern was read take `r` for every module
    takes_limit=True,
    rules={
        "dora": Rule("it refuses them", _IN_PEFT_HELPER),
        "replaced": Rule("it refuses them", _IN_PEFT_HELPER, but_for=frozenset({"classifier", "score"})),
        "biases": Rule("it refuses them", _IN_PEFT_HELPER),
        "tokens": Rule("it does not know their tensors", "vllm/lora/utils.py (parse_fine_tuned_lora_name)"),
        "embeddings": Rule(
            "it loads embed_tokens only",
            "vllm/lora/utils.py (get_supported_lora_modules) and embedding_modules of vllm/model_executor/models",
            but_for=frozenset({"embed_tokens"}),
        ),
        "convolutions": Rule("it refuses them", _IN_LORA_MODEL),
        "attention": Rule("it refuses them", _IN_LORA_MODEL),
        "experts": Rule(
            "it takes them in this form only on models whose experts it keeps in one tensor too",
            "vllm/lora/model_manager.py (_validate_moe_lora_format) and is_3d_moe_weight of vllm/model_executor/models",
            but_on=frozenset({"gpt_oss", "qwen3_vl_moe", "qwen3_5_moe", "qwen3_omni_moe", "interns1_pro"}),
        ),
        "half_experts": Rule("it asserts that there are both", "vllm/lora/model_manager.py (_stack_moe_lora_weights)"),
        "conv1d": Rule(
            "its GPT-2 does not support adapters of", "vllm/model_executor/models/gpt2.py (GPT2LMHeadModel)"
        ),
    },
)

_IN_LORA: Final = "sglang/srt/lora/lora.py (LoRAAdapter)"
_IN_MEM_POOL: Final = "sglang/srt/lora/mem_pool.py (load_lora_weight_to_buffer)"
_IN_UTILS: Final = "sglang/srt/lora/utils.py (_KNOWN_LORA_TARGET_MODULES, get_normalized_target_modules)"

_SGLANG: Final = Engine(
    "sglang",
    "SGLang",
    "0.5.23",
    uniform=True,  # sglang/srt/lora/mem_pool.py (load_lora_weight_tensor) takes `r` for every module
    takes_limit=True,  # where it is not given, that of the adapters it is started with
    rank_source="sglang/srt/lora/mem_pool.py (can_support) and sglang/srt/arg_groups/fields/lora.py (max_lora_rank)",
    together={  # sglang/srt/lora/lora.py (normalize_qkv_proj, normalize_gate_up_proj)
        "q_proj": ("v_proj",),
        "k_proj": ("q_proj", "v_proj"),
        "v_proj": ("q_proj",),
        "up_proj": ("gate_proj",),
    },
    rules={
        "dora": Rule("it refuses them", "sglang/srt/lora/lora_manager.py (validate_new_adapter)"),
        "replaced": Rule("it leaves them out", _IN_MEM_POOL),
        "biases": Rule("it leaves them out", _IN_MEM_POOL),
        "tokens": Rule("it leaves them out", _IN_MEM_POOL),
        "embeddings": Rule("it loads embed_tokens only", _IN_UTILS, but_for=frozenset({"embed_tokens"})),
        "convolutions": Rule("it has no place for them", _IN_UTILS),
        "attention": Rule("it has no place for them", _IN_UTILS),
        "experts": Rule("it reads a pair for each expert", _IN_MEM_POOL),
        "conv1d": Rule("it has no place for them", _IN_UTILS),
        "pattern": Rule("it takes a list of names only", "sglang/srt/lora/utils.py (get_normalized_target_modules)"),
        "modules": Rule(
            "it adapts modules of other names only",
            _IN_UTILS,
            but_for=frozenset(
                {
                    "q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "out_proj", "gate_proj", "up_proj",
                    "gate_up_proj", "down_proj", "lm_head", "q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "kv_b_proj",
                }
            ),
        ),
        "together": Rule("it loads them only beside those that it stacks them with", _IN_LORA),
    },
)  # fmt: skip

_PEFT: Final = Engine("peft", "PEFT", "0.21.2", rules={})

_TRANSFORMERS: Final = Engine(
    "transformers",
    "transformers",
    "5.24.0",
    rules={
        "tied_tokens": Rule(
            "it looks for them on the other side of the tie too, and reports them missing there",
            "transformers/integrations/peft.py (load_adapter, adapter_state_dict_load_map)",
        ),
    },
)

ENGINES: Final[Mapping[EngineName, Engine]] = {row.name: row for row in (_VLLM, _SGLANG, _PEFT, _TRANSFORMERS)}


def _digest(row: Engine) -> str:
    return sha256_digest(json.dumps(asdict(row), sort_keys=True, default=sorted).encode())


RULES: Final[Mapping[EngineName, str]] = {name: _digest(row) for name, row in ENGINES.items()}
"""The digest of each engine's rules: an answer that was kept holds for these rules alone."""
