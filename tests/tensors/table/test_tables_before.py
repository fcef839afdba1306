"""A table that says nothing new keeps its bytes: those of small models, against what they were before.

The digests were printed by this file's ``table_of`` with the code of commit f73a5e7, before tables told of ties beside
those of weights (``ties``) and of heads that only the files keep apart (``apart``). They name the version of
transformers that made them, so another one has nothing to compare with.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

import pytest

from registry.tensors.table import architecture_child
from registry.tensors.table.built import table_from_facts
from registry.tensors.table.targets import TargetTable

TRANSFORMERS: Final = "5.24.0"
_IDS: Final = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DECODER: Final = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 40, **_IDS,
}  # fmt: skip
_ENCODER: Final = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40,
    "max_position_embeddings": 32,
}  # fmt: skip
_PAIR: Final = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 40,
    "max_position_embeddings": 32,
}  # fmt: skip
_GPT2: Final = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 32, **_IDS}
_T5: Final = {
    "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "vocab_size": 40,
}  # fmt: skip

CONFIGS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "llama": ("LlamaForCausalLM", _DECODER | {"tie_word_embeddings": False}),
    "llama tied": ("LlamaForCausalLM", _DECODER | {"tie_word_embeddings": True}),
    "llama headless": ("LlamaModel", _DECODER),
    "qwen2 tied": ("Qwen2ForCausalLM", _DECODER | {"tie_word_embeddings": True}),
    "gemma": ("GemmaForCausalLM", _DECODER),
    "mixtral": ("MixtralForCausalLM", _DECODER | {"num_local_experts": 2}),
    "gpt2": ("GPT2LMHeadModel", _GPT2),
    "opt": ("OPTForCausalLM", _DECODER | {"ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 32}),
    "bert headless": ("BertModel", _ENCODER),
    "bert untied": ("BertForMaskedLM", _ENCODER | {"tie_word_embeddings": False}),
    "electra": ("ElectraForMaskedLM", _ENCODER | {"embedding_size": 8}),
    "modernbert": ("ModernBertForMaskedLM", _ENCODER | _IDS | {"cls_token_id": 1, "sep_token_id": 2}),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "vocab_size": 40},
    ),
    "t5": ("T5ForConditionalGeneration", _T5),
    "t5 encoder": ("T5EncoderModel", _T5),
    "bart": ("BartForConditionalGeneration", _PAIR),
    "whisper": ("WhisperForConditionalGeneration", _PAIR | _IDS | {"max_target_positions": 32, "num_mel_bins": 8}),
    "vit": ("ViTForImageClassification", _ENCODER | {"image_size": 16, "patch_size": 8}),
    "mamba": ("MambaForCausalLM", _DECODER | {"state_size": 4}),
}
DIGESTS: Final[Mapping[str, str]] = {
    "llama": "sha256:d495e75bd021378e36447a2beb797588eef18d129d3803c1ec0933113fb6a322",
    "llama tied": "sha256:ec11c1af9536e329718817b91ecc4c8feffc7fd8ed7541c42308fa8d03b5bbd8",
    "llama headless": "sha256:6f62ac2ce6b8c5885169175d1a2971e2163c0aa5f06d4b71dddcc6deac20622d",
    "qwen2 tied": "sha256:68f1004a80557fee49ba6abd1832c63204b3ca3e7cd104f769d4f47dc2e6deae",
    "gemma": "sha256:9d8c1184dbdf7cad6225e08212e5cf1f55199d983038d02f7040adaa2b27fc3b",
    "mixtral": "sha256:94857a02cda2a8a80a4fcfc987d5aee5b5bae78684514ac0ffb93f2a1417d6ad",
    "gpt2": "sha256:bd5e911895fa13b8c37ad0207f5da6eaade5966f92c5fd8fb9b6f662111ee843",
    "opt": "sha256:6f96f42ced4a1ff5fd427d1a419f68105ab31fcb52aa3ffe7f87bee1b0821525",
    "bert headless": "sha256:05d204e6ee497eb1f54d1d69babde44eb485576a0224c3afd220ff487568c0b7",
    "bert untied": "sha256:bc14e09133a5b330b674ec59d16d17b268a318f62316cce676da0396f066609e",
    "electra": "sha256:0b4af648433bc042ed6900d87cd7c039bca322a6fc3ac6417bc2df0506f449e1",
    "modernbert": "sha256:23b55388a7269f0ebfaa41970e882f1f0444ba703cd7214d84fa2c8a3ce4ae89",
    "distilbert": "sha256:a50295dac1fee92b2e8bcde8f658519b2904381846651564089d16ec826b1476",
    "t5": "sha256:8e3cb6721c18c7581e8215cde1592054bb8ddc4ba04ce3089cd75bc6f40d8592",
    "t5 encoder": "sha256:792aa2323a576b0fe6b9606b0e499956a7cc3f91d4507a30895d27dbbeacc2dc",
    "bart": "sha256:b319f5fa3edb351e962f15112dae3aedb0fa409487b7fe6e82a4a074c7fafc9a",
    "whisper": "sha256:09c67f42effa5b40cc61a6cabeaaebe50e764230248fba49278ca9b151132af0",
    "vit": "sha256:6530cebd1d4702bf8c7ae9ca9ce3e085b9650b18740cf927438e18ca7d22579a",
    "mamba": "sha256:732e7ac1b3bfa315be3487e29d5d8999439aa71935a7e733a0f775cf21ff61a5",
}


def table_of(architecture: str, given: Mapping[str, Any]) -> TargetTable:
    """The table of a model of that class, whose files hold what transformers would save."""
    import torch
    import transformers

    cls = getattr(transformers, architecture)
    config = cls.config_class(**given)
    with torch.device("meta"):
        model = cls(config)
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    for name in model.all_tied_weights_keys:
        shapes.pop(name, None)
    document = config.to_dict() | {"architectures": [architecture]}
    facts = architecture_child.answer({"config": document, "tensors": shapes})
    assert facts["status"] == "built", facts
    return table_from_facts(facts, {name: ("F32", tuple(shape)) for name, shape in shapes.items()})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_table_that_says_nothing_new_is_the_same(name: str) -> None:
    if importlib.import_module("transformers").__version__ != TRANSFORMERS:
        pytest.skip(f"the digests are those of transformers {TRANSFORMERS}")
    table = table_of(*CONFIGS[name])
    assert table.digest == DIGESTS[name]
    assert not {"ties", "apart"} & table.to_document().keys()
