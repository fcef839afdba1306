"""The rules of each engine, as data: what it can't load of a PEFT adapter, and where its source shows it.

An adapter is taken apart in `registry.engines.parts`; a row lists the parts that the engine can't load, and the
models on which it loads no adapter at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from registry.digest import sha256_digest
from registry.schemas.form import BaseQuantization, EngineName, Layout

Part = Literal[
    "language", "image", "family", "model", "dora", "not_low_rank", "replaced", "biases", "tokens",
    "embeddings", "convolutions", "attention", "experts", "half_experts", "conv1d", "pattern", "modules", "head",
    "parameters", "indexer", "together", "clip", "t5", "encoders", "denoisers", "unnamed",
]  # fmt: skip
"""What an adapter may have in addition to plain pairs of linear modules; first the model that it goes on."""

OF_MODEL: Final[frozenset[Part]] = frozenset({"language", "image", "family", "model"})
"""Those about the model alone: nothing else matters where one of them is a reason."""


@dataclass(frozen=True)
class Rule:
    """A part of adapters that an engine can't load, but for some modules or models."""

    why: str  # what the engine does with it
    source: str  # file of the engine, and what in it
    but_for: frozenset[str] = frozenset()  # last names of modules that it does load
    but_named: frozenset[str] = frozenset()  # whole names of those
    but_on: frozenset[str] = frozenset()  # model types of base models on which it does
    only_on: frozenset[str] = frozenset()  # and those on which alone it does not, of the rule about the model
    more_on: Mapping[str, frozenset[str]] = field(
        default_factory=dict
    )  # model type -> last names that it loads on it, too
    less_on: Mapping[str, frozenset[str]] = field(default_factory=dict)  # and those that it does not, of `but_for`

    def loads(self, module: str, model_type: str | None) -> bool:
        """Whether a module is one that the engine does load; of a model type that is not known, what any has is."""
        last = module.rpartition(".")[2]
        if model_type is None:
            return module in self.but_named or any(last in names for names in (self.but_for, *self.more_on.values()))
        if last in self.less_on.get(model_type, ()):
            return False
        return module in self.but_named or last in self.but_for | self.more_on.get(model_type, frozenset())


@dataclass(frozen=True)
class OnQuantised:
    """What an engine does with adapters on a base model that is quantised in some way."""

    what: str  # completes "Title version ...", for those who serve it so
    source: str  # file of the engine, and what in it; or an issue
    loads: bool = True  # False: it does not, and the adapter is served merged
    experts: bool = False  # only of adapters that adapt experts


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
    stacks: Mapping[str, str] = field(
        default_factory=dict
    )  # last name -> that of the module which holds it with others
    quantised: Mapping[BaseQuantization, tuple[OnQuantised, ...]] = field(default_factory=dict)  # empty: not known


_IN_PEFT_HELPER: Final = "vllm/lora/peft_helper.py (_validate_features, validate_legal)"
_IN_LORA_MODEL: Final = "vllm/lora/lora_model.py (check_unexpected_modules)"

_WITHOUT_EMBEDDINGS: Final = (
    "afmoe", "axk1", "deepseek_v2", "deepseek_v3", "ernie4_5_moe", "gemma", "gemma2", "gemma3_text", "gemma4_text",
    "glm4", "glm4_moe", "glm4_moe_lite", "gpt_oss", "hy_v3", "laguna", "longcat_flash", "minimax_m2", "ministral3",
    "mistral", "olmoe", "opt", "qwen2", "qwen2_moe", "sarvam_mla", "sarvam_moe",
)  # fmt: skip
"""Model types whose classes in vLLM support adapters and have no ``embedding_modules``."""
_EMBEDDING_MODULES: Final = "embedding_modules of vllm/model_executor/models, by get_supported_lora_modules"

_WITHOUT_ADAPTERS: Final = (
    "aria", "beam", "bloom", "clip", "cohere2_moe", "cohere2_vision", "cohere_asr", "colmodernvbert", "cosmos3_edge",
    "dbrx", "deepseek_v4", "diffusion_gemma", "dory", "dots3_note", "dots3_note_text", "embedding_gemma2", "falcon",
    "falcon_mamba", "flint", "gemma3n", "gemma3n_text", "gpt-sw3", "gpt2", "gptj", "gte", "hrm_text", "kimi_linear",
    "kimi_vl", "llava_onevision", "mamba", "mamba2", "midashenglm", "mimo_v2_flash", "minimax_m3_vl", "modernvbert",
    "moondream3", "moss_transcribe_diarize", "nomic_bert", "openai_privacy_filter", "openvla", "orion", "ovis",
    "paddleocr_vl", "qwen2_audio", "siglip", "stablelm", "step3_text", "step3_vl", "step3p7", "zamba2",
)  # fmt: skip
"""Model types of which vLLM has classes that generate or embed, and none of these is a ``SupportsLoRA``."""

_QUANTISED: Final[Mapping[BaseQuantization, tuple[OnQuantised, ...]]] = {
    "fp8": (
        OnQuantised(
            "computes the pairs of experts from activations that are not quantised; versions from 0.20.0 to 0.22.1 at "
            "least did not, and answered gibberish",
            "vllm/model_executor/layers/fused_moe/modular_kernel.py (original_hidden_states); vllm-project/vllm#42007",
            experts=True,
        ),
        OnQuantised(
            "does not start with --enable-lora where tensor parallelism cuts the blocks of experts and the chosen "
            "backend has to pad them",
            "vllm/model_executor/layers/fused_moe/oracle/fp8.py (pad_tp_shard_to_weight_blocks)",
            experts=True,
        ),
    ),
    "mxfp4": (
        OnQuantised(
            "takes experts' pairs with 16 bit activations alone: leave --moe-backend out, or take one that does not "
            "quantise them, such as marlin or flashinfer_trtllm",
            "vllm/model_executor/layers/fused_moe/oracle/mxfp4.py (_requested_kernel_cls)",
            experts=True,
        ),
    ),
    "bitsandbytes": (
        OnQuantised(
            "has no quantization of that name any more; versions that have it failed with adapters on models with "
            "experts",
            "vllm/model_executor/layers/quantization/__init__.py (QUANTIZATION_METHODS); vllm-project/vllm#29138",
            loads=False,
        ),
    ),
}
"""By the source of 0.33.0; dense modules of FP8 and MXFP4 bases take adapters like any other."""

_VLLM: Final = Engine(
    "vllm",
    "vLLM",
    "0.33.0",
    rank=16,
    rank_source="vllm/config/lora.py (LoRAConfig.max_lora_rank, MaxLoRARanks)",
    slots=(1, 8, 16, 32, 64, 128, 256, 320, 512),
    uniform=True,  # versions before rank_pattern was read take `r` for every module
    takes_limit=True,
    quantised=_QUANTISED,
    rules={
        "image": Rule("it has no such models", "vllm/model_executor/models/registry.py"),
        "model": Rule(
            "its class of that model does not support them",
            "vllm/model_executor/models/registry.py, and the bases of its classes (SupportsLoRA)",
            only_on=frozenset(_WITHOUT_ADAPTERS),
        ),
        "dora": Rule("it refuses them", _IN_PEFT_HELPER),
        "replaced": Rule(
            "it takes heads of classifiers that are one linear module, and no other",
            "vllm/lora/peft_helper.py (_validate_features) and vllm/lora/utils.py (parse_fine_tuned_lora_name)",
            but_named=frozenset({"classifier", "score"}),
        ),
        "biases": Rule("it refuses them", _IN_PEFT_HELPER),
        "tokens": Rule("it does not know their tensors", "vllm/lora/utils.py (parse_fine_tuned_lora_name)"),
        "embeddings": Rule(
            "it loads embed_tokens only, and where its class of the model says so",
            _EMBEDDING_MODULES,
            but_for=frozenset({"embed_tokens"}),
            less_on=dict.fromkeys(_WITHOUT_EMBEDDINGS, frozenset({"embed_tokens"})),
        ),
        "head": Rule(
            "it loads it where its class of the model says so, which this one does not",
            _EMBEDDING_MODULES,
            but_for=frozenset({"lm_head"}),
            less_on=dict.fromkeys((*_WITHOUT_EMBEDDINGS, "cohere", "cohere2"), frozenset({"lm_head"})),
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

_WITHOUT_VOCABULARY: Final = ("gemma3n", "gemma4", "llama4")
"""Model types whose classes in SGLang have no size for what is as wide as the vocabulary."""
_LINEAR_ATTENTION: Final = frozenset({"out_proj", "in_proj_qkvz"})

_SGLANG: Final = Engine(
    "sglang",
    "SGLang",
    "0.5.23",
    uniform=True,  # sglang/srt/lora/mem_pool.py (load_lora_weight_tensor) takes `r` for every module
    takes_limit=True,  # where it is not given, that of the adapters it is started with
    rank_source="sglang/srt/lora/mem_pool.py (can_support) and sglang/srt/arg_groups/fields/lora.py (max_lora_rank)",
    stacks={  # sglang/srt/lora/utils.py (get_normalized_target_modules)
        "q_proj": "qkv_proj",
        "k_proj": "qkv_proj",
        "v_proj": "qkv_proj",
        "gate_proj": "gate_up_proj",
        "up_proj": "gate_up_proj",
        "q_a_proj": "fused_qkv_a_proj_with_mqa",
        "kv_a_proj_with_mqa": "fused_qkv_a_proj_with_mqa",
    },
    together={  # sglang/srt/lora/lora.py (normalize_qkv_proj, normalize_gate_up_proj, normalize_fused_qkv_a_proj)
        "q_proj": ("v_proj",),
        "k_proj": ("q_proj", "v_proj"),
        "v_proj": ("q_proj",),
        "up_proj": ("gate_proj",),
        "q_a_proj": ("kv_a_proj_with_mqa",),  # what stands in for the other has the shape of this one
        "kv_a_proj_with_mqa": ("q_a_proj",),
    },
    rules={
        "image": Rule("it has no such models", "sglang/srt/models"),
        "dora": Rule("it refuses them", "sglang/srt/lora/lora_manager.py (validate_new_adapter)"),
        "replaced": Rule("it leaves them out", _IN_MEM_POOL),
        "biases": Rule("it leaves them out", _IN_MEM_POOL),
        "tokens": Rule("it leaves them out", _IN_MEM_POOL),
        "embeddings": Rule(
            "it loads embed_tokens only, and where its class of the model has a size for it",
            "sglang/srt/lora/lora.py (_process_weight) and get_hidden_dim of sglang/srt/models",
            but_for=frozenset({"embed_tokens"}),
            less_on=dict.fromkeys(_WITHOUT_VOCABULARY, frozenset({"embed_tokens"})),
        ),
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
                    "q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj",
                    "down_proj", "lm_head", "q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "kv_b_proj",
                }
            ),
            more_on={  # whose classes have a size for them: get_hidden_dim of sglang/srt/models
                **dict.fromkeys(("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"), _LINEAR_ATTENTION),
                "nemotron_h": frozenset({"out_proj", "fc1_latent_proj", "fc2_latent_proj"}),
            },
            less_on=dict.fromkeys(_WITHOUT_VOCABULARY, frozenset({"lm_head"})),
        ),
        "parameters": Rule(
            "it takes the names of modules from target_modules only",
            "sglang/srt/lora/mem_pool.py (load_lora_weight_to_buffer, which asks get_target_module_name of utils.py)",
        ),
        "indexer": Rule(
            "it fuses them on CUDA unless SGLANG_DISABLE_DSA_INDEXER_FUSION=1 is set",
            "sglang/srt/lora/lora_manager.py (init_lora_shapes)",
        ),
        "together": Rule("it loads them only beside those that it stacks them with", _IN_LORA),
    },
)  # fmt: skip

_PEFT: Final = Engine("peft", "PEFT", "0.21.2", rules={})

_TRANSFORMERS: Final = Engine(
    "transformers",
    "transformers",
    "5.25.0",
    rules={"image": Rule("it has no such models", "transformers/models")},
)

_NO_LANGUAGE: Final = Rule("it is for image and video models", "registry.images: what a LoRA of these is written as")
_WRITTEN: Final = "registry.tensors.composed.layouts: what is written for it are pairs"
_NOT_READ: Final = Rule("it reads pairs of low rank, and no other change in this form", _WRITTEN)
_PLAIN: Final[Mapping[Part, Rule]] = {
    "language": _NO_LANGUAGE,
    "not_low_rank": _NOT_READ,
    "replaced": _NOT_READ,
    "biases": _NOT_READ,
    "tokens": _NOT_READ,
    "embeddings": Rule("what is written for it are linear modules and convolutions", _WRITTEN),
}

_DIFFUSERS: Final = Engine(
    "diffusers",
    "diffusers",
    "0.42.1",
    rules={
        **_PLAIN,
        "t5": Rule(
            "no pipeline of it loads a LoRA of T5", "diffusers/loaders/lora_pipeline.py (FluxLoraLoaderMixin, SD3)"
        ),
        "encoders": Rule(
            "it loads LoRAs of CLIP's text models alone, beside the denoiser",
            "diffusers/loaders/lora_base.py (_load_lora_into_text_encoder) and _lora_loadable_modules",
        ),
        "denoisers": Rule(
            "it loads one file for each of the two transformers",
            "diffusers/loaders/lora_pipeline.py (WanLoraLoaderMixin: load_into_transformer_2)",
        ),
    },
)
"""Run here."""

_COMFY_LORA: Final = "comfy/lora.py (model_lora_keys_unet, model_lora_keys_clip)"
_DORA_OF_COMFY: Final = Rule(
    "it scales by the norm of the weight before the change, and trainers after it",
    "comfy/weight_adapter/base.py (weight_decompose); Comfy-Org/ComfyUI#15458, #12938",
)
_OF_COMFY: Final[Mapping[Part, Rule]] = {
    **_PLAIN,
    "dora": _DORA_OF_COMFY,
    "denoisers": Rule("each of the two models has a file of its own there", _COMFY_LORA),
    "encoders": Rule("what it calls them is not known here", _COMFY_LORA),
    "unnamed": Rule("what it calls them is not known here", _COMFY_LORA),
}
_COMFYUI: Final = Engine("comfyui", "ComfyUI", "17358c8", rules=_OF_COMFY)
"""Its source of 2026 was read, and not run."""

_FORGE: Final = Engine(
    "forge",
    "Forge",
    "00f1cd3",
    rules={
        "family": Rule(
            "it has no such models",
            "packages_3rdparty/comfyui_lora_collection/lora.py (model_lora_keys_unet)",
            but_named=frozenset({"Stable Diffusion (UNet)", "FLUX.1"}),
        ),
        **_OF_COMFY,
    },
)
"""Its source was read, and not run: its reader of LoRAs is an older one of ComfyUI's."""

_IN_OMNI: Final = "vllm_omni/diffusion/lora/manager.py (_load_adapter, which takes vLLM's peft_helper.py)"
_OMNI: Final = Engine(
    "vllm-omni",
    "vLLM-Omni",
    "09d1b31",
    rank=512,
    rank_source="vllm_omni/diffusion/lora/manager.py (_get_smallest_valid_max_rank)",
    slots=(512,),
    uniform=True,  # its buffers and its scale are by `r` alone
    rules={
        **_PLAIN,
        "dora": Rule("it refuses them", _IN_OMNI),
        "convolutions": Rule("it has layers for linear modules alone", "vllm_omni/diffusion/lora/layers"),
        **dict.fromkeys(
            ("clip", "t5", "encoders"),
            Rule(
                "it puts LoRAs on the denoiser alone",
                "vllm_omni/diffusion/lora/manager.py (_replace_layers_with_lora: default_components)",
            ),
        ),
        "denoisers": Rule(
            "names in a folder are without the component, so that both would take them",
            "vllm_omni/diffusion/lora/manager.py (_get_lora_weights)",
        ),
    },
)
"""Its source was read, and not run. A module that a model of it has under another name than diffusers (``to_out``) is
refused there when it is loaded."""

TEXT_MODELS: Final = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose adapters are written for llama.cpp and mlx-lm."""
TEXT_MODULES: Final = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
"""The modules of their layers that are."""

_IN_TEXT: Final = "registry.tensors.composed.text_models: what is written for it"
_NO_PLACE: Final = Rule("it has no place for them", _IN_TEXT)
_OF_TEXT: Final[Mapping[Part, Rule]] = {
    "image": Rule("it has no such models", _IN_TEXT),
    "language": Rule(
        f"what is written for it are {', '.join(TEXT_MODELS)}", _IN_TEXT, but_on=frozenset(TEXT_MODELS)
    ),
    **dict.fromkeys(
        (
            "dora", "not_low_rank", "replaced", "biases", "tokens", "embeddings", "convolutions", "attention",
            "experts", "conv1d", "indexer",
        ),
        _NO_PLACE,
    ),
    "modules": Rule(
        "what is written for it are the linear modules of layers",
        _IN_TEXT,
        but_for=frozenset(one.rpartition(".")[2] for one in TEXT_MODULES),
    ),
}  # fmt: skip
_LLAMA_CPP: Final = Engine("llama.cpp", "llama.cpp", "0b03ada", rules=_OF_TEXT)
"""The source of its convert_lora_to_gguf.py was read; it gets one rank for all modules (`LAYOUTS`)."""
_MLX: Final = Engine("mlx", "mlx-lm", "0.32.2", rules=_OF_TEXT)
"""Run here."""

_NONE: Final = Rule(
    "it takes no adapters any more, and a Modelfile with ADAPTER is refused; before 0.34.1 it took the file that "
    "`--for llama.cpp` writes",
    "server/create.go (errAdaptersUnsupported); ollama/ollama#14969",
)
_OLLAMA: Final = Engine(
    "ollama",
    "Ollama",
    "0.34.1",
    rules={"image": Rule("it has no such models", _IN_TEXT), **dict.fromkeys(_OF_TEXT, _NONE)},
)
"""Its source was read, and not run: whatever an adapter is, a merged model in GGUF is what it loads."""

ENGINES: Final[Mapping[EngineName, Engine]] = {
    row.name: row
    for row in (
        _VLLM, _SGLANG, _PEFT, _TRANSFORMERS, _DIFFUSERS, _COMFYUI, _FORGE, _OMNI, _LLAMA_CPP, _MLX, _OLLAMA,
    )
}  # fmt: skip

SHOWN_OF: Final[Mapping[EngineName, Literal["text", "image"]]] = {
    **dict.fromkeys(("vllm", "sglang", "peft", "transformers"), "text"),
    **dict.fromkeys(("diffusers", "comfyui", "forge", "vllm-omni"), "image"),
}
"""The engines whose answers are shown with each revision, by the kind of model; others are asked about one by one."""

LAYOUTS: Final[Mapping[EngineName, Layout]] = {
    "diffusers": "diffusers",
    "comfyui": "comfyui",
    "forge": "comfyui",
    "vllm-omni": "vllm-omni",
    "llama.cpp": "gguf",
    "mlx": "mlx",
}
"""Engine -> in whose names and files it gets an adapter; others load PEFT's folder."""


def _digest(row: Engine) -> str:
    return sha256_digest(json.dumps(asdict(row), sort_keys=True, default=sorted).encode())


RULES: Final[Mapping[EngineName, str]] = {name: _digest(row) for name, row in ENGINES.items()}
"""The digest of each engine's rules: a stored answer is valid for these rules alone."""
