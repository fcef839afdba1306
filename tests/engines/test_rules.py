"""The rules of engines on adapters that are names and shapes alone.

The reasons of answers that are kept, which have codes alone, in words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast, get_args

import pytest

from registry.engines.checking import check_limit, check_quantised, engine_check, in_short
from registry.engines.parts import BaseFacts
from registry.engines.rules import ENGINES, Part
from registry.errors import InvalidAdapterError, UsageError
from registry.operations.readable import ReadableArtifact
from registry.schemas.artifacts import EngineAnswer
from registry.vllm.resolver import rank_for_vllm

MLA: Final = "model.layers.0.self_attn."
TYPES: Final[list[tuple[str | None, list[str], list[str]]]] = [
    ("deepseek_v3", ["q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "kv_b_proj", "o_proj"], []),
    ("deepseek_v3", ["kv_a_proj_with_mqa", "kv_b_proj"], ["together"]),
    ("deepseek_v3", ["q_a_proj", "q_b_proj"], ["together"]),
    ("deepseek_v2", ["q_proj", "kv_a_proj_with_mqa"], ["together"]),
    ("glm_moe_dsa", ["q_b_proj", "indexer.wq_b", "indexer.weights_proj"], ["indexer"]),
    ("deepseek_v4", ["wq_b"], ["modules"]),
    ("qwen3_5", ["out_proj", "q_proj", "v_proj"], []),
    ("qwen3_5_moe_text", ["out_proj", "in_proj_qkvz"], []),
    ("qwen3_5", ["in_proj_qkv", "in_proj_z"], ["modules"]),
    ("qwen3_next", ["in_proj_qkvz", "in_proj_ba", "out_proj"], ["modules"]),
    ("nemotron_h", ["out_proj", "down_proj", "fc1_latent_proj"], []),
    ("nemotron_h", ["in_proj", "out_proj"], ["modules"]),
    ("nemotron_h", ["up_proj", "down_proj"], ["together"]),
    ("falcon_h1", ["out_proj"], ["modules"]),
    ("gemma3n", ["q_proj", "v_proj", "embed_tokens"], ["embeddings"]),
    ("gemma4", ["o_proj", "lm_head"], ["modules"]),
    ("llama", ["embed_tokens", "lm_head"], []),
    ("bloom", ["word_embeddings"], ["embeddings"]),
    ("gemma3n", ["embed_tokens_per_layer"], ["embeddings"]),
    (None, ["out_proj"], []),  # of a model that is not known, what any has is taken
]
"""Model types, last names of what is adapted, and the reasons."""


@dataclass(frozen=True)
class _Files:
    """A composed adapter by its configuration and header alone."""

    files: dict[str, bytes]

    def file(self, path: str) -> _Bytes:
        return _Bytes(self.files[path])


@dataclass(frozen=True)
class _Bytes:
    content: bytes

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        return self.content[start:stop]


def adapter(shapes: Mapping[str, tuple[int, ...]], **fields: Any) -> _Files:
    """An adapter of rank 2 with tensors of these names and shapes."""
    config = {
        "r": 2, "rank_pattern": {}, "bias": "none", "modules_to_save": None, "target_modules": [],
        "fan_in_fan_out": False, **fields,
    }  # fmt: skip
    header = json.dumps({f"base_model.model.{name}": {"shape": shape} for name, shape in shapes.items()}).encode()
    weights = len(header).to_bytes(8, "little") + header
    return _Files({"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": weights})


def of_names(names: list[str]) -> _Files:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        embeds = "embed" in name
        first, last = (".lora_embedding_A", ".lora_embedding_B") if embeds else (".lora_A.weight", ".lora_B.weight")
        place = name if embeds or name == "lm_head" else f"{MLA}{name}"
        shapes |= {f"{place}{first}": (2, 8), f"{place}{last}": (8, 2)}
    return adapter(shapes, target_modules=names)


@pytest.mark.parametrize(("model_type", "names", "codes"), TYPES)
def test_names_that_a_model_class_has_are_taken(model_type: str | None, names: list[str], codes: list[str]) -> None:
    found = engine_check("a/b@1", of_names(names), "sglang", None, base=BaseFacts(model_type))
    assert [reason.code for reason in found.reasons] == codes
    assert found.would_do == f"registry fetch a/b@1 {'--as merged' if codes else '--for sglang'}"


@pytest.mark.parametrize("engine", ENGINES)
def test_no_sentence_has_two_commas_and_each_has_the_version(engine: Any) -> None:
    tensors = {
        "experts.lora_A.weight": (8, 4), "experts.lora_B.weight": (4, 8), "q.lora_A.weight": (2, 4),
        "q.lora_B.weight": (4, 2), "c.lora_A.weight": (2, 4, 3), "c.lora_B.weight": (4, 2, 1),
    }  # fmt: skip
    fields = {"target_parameters": ["experts.down_proj"], "trainable_token_indices": {"embed_tokens": [1]}}
    facts = BaseFacts("mixtral")
    for turned in (True, False):
        found = engine_check("a/b@1", adapter(tensors, **fields, fan_in_fan_out=turned), engine, 1, base=facts)
        for reason in found.reasons:
            assert ",," not in reason.sentence
            assert f"{ENGINES[found.engine].title} {found.version} " in reason.sentence


def test_a_parameter_of_two_dimensions_is_no_expert() -> None:
    """Its pair is called like that of the module, which vLLM goes by; SGLang takes names from target_modules only."""
    pair = {"m.v_proj.lora_A.weight": (2, 8), "m.v_proj.lora_B.weight": (4, 2)}
    beside = {"m.q_proj.lora_A.weight": (2, 8), "m.q_proj.lora_B.weight": (8, 2)}
    alone = adapter(pair, target_parameters=["m.v_proj.weight"])
    assert engine_check("a/b@1", alone, "vllm", 16).loads
    assert [one.code for one in engine_check("a/b@1", alone, "sglang", None).reasons] == ["parameters", "together"]
    with_q = adapter(pair | beside, target_modules=["m.q_proj"], target_parameters=["m.v_proj.weight"])
    assert engine_check("a/b@1", with_q, "sglang", None).loads  # both are part of qkv_proj
    experts = {"m.experts.lora_A.weight": (8, 8), "m.experts.lora_B.weight": (4, 8)}
    for name in ("weight", "down_proj"):
        fused = adapter(experts, target_parameters=[f"m.experts.{name}"])
        found = engine_check("a/b@1", fused, "vllm", 16, base=BaseFacts("mixtral"))
        assert [reason.code for reason in found.reasons] == ["experts", "half_experts"]


@pytest.mark.parametrize(
    ("saved", "tensors", "loads"),
    [
        ("score", {"score.weight": (3, 8)}, True),
        ("classifier", {"classifier.weight": (3, 8), "classifier.bias": (3,)}, True),
        ("classifier", {"classifier.dense.weight": (8, 8), "classifier.out_proj.weight": (3, 8)}, False),
        ("model.score", {"model.score.weight": (3, 8)}, False),
        ("pre_classifier", {"pre_classifier.weight": (8, 8)}, False),
    ],
)
def test_vllm_takes_heads_that_are_one_module(saved: str, tensors: dict[str, tuple[int, ...]], loads: bool) -> None:
    pair = {"m.q_proj.lora_A.weight": (2, 8), "m.q_proj.lora_B.weight": (8, 2)}
    found = engine_check("a/b@1", adapter(pair | tensors, modules_to_save=[saved]), "vllm", 16)
    assert (found.loads, [one.code for one in found.reasons]) == (loads, [] if loads else ["replaced"])


@pytest.mark.parametrize(
    ("model_type", "codes"), [("llama", []), ("qwen2", ["embeddings", "head"]), ("cohere", ["head"]), (None, [])]
)
def test_vllm_takes_the_vocabulary_where_its_class_says_so(model_type: str | None, codes: list[str]) -> None:
    found = engine_check("a/b@1", of_names(["embed_tokens", "lm_head"]), "vllm", 16, base=BaseFacts(model_type))
    assert [one.code for one in found.reasons] == codes


@pytest.mark.parametrize("model_type", ["bloom", "falcon", "gpt2", "mamba", "stablelm"])
def test_no_adapter_is_loaded_on_a_model_whose_class_takes_none(model_type: str) -> None:
    found = engine_check("a/b@1", of_names(["query_key_value"]), "vllm", 16, base=BaseFacts(model_type))
    (reason,) = found.reasons
    assert (reason.code, reason.modules, found.would_do) == ("model", (), "registry fetch a/b@1 --as merged")
    assert reason.sentence == (
        f"It goes on a model of the type {model_type}, on which vLLM {found.version} loads no adapter: "
        "its class of that model does not support them."
    )
    for other in ("peft", "transformers"):
        assert engine_check("a/b@1", of_names(["query_key_value"]), other, None, base=BaseFacts(model_type)).loads
    for known in ("llama", "gpt_neox", "bert", None):
        assert engine_check("a/b@1", of_names(["query_key_value"]), "vllm", 16, base=BaseFacts(known)).loads


@pytest.mark.parametrize("model_type", ["llama", "gpt2", None])
def test_ollama_takes_no_adapter_at_all(model_type: str | None) -> None:
    found = engine_check("a/b@1", of_names(["q_proj"]), "ollama", None, base=BaseFacts(model_type))
    (reason,) = found.reasons
    assert "ADAPTER is refused" in reason.sentence
    assert found.would_do == "registry fetch a/b@1 --as merged"
    pair = {"m.emb.lora_embedding_A": (2, 8), "m.emb.lora_embedding_B": (8, 2)}
    assert not engine_check("a/b@1", cast(ReadableArtifact, adapter(pair)), "ollama", None).loads


def test_the_version_is_that_of_the_rules_and_another_that_runs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    version = ENGINES["vllm"].version
    with pytest.raises(UsageError, match=f"vLLM {version} can't be started with --max-lora-rank 3"):
        check_limit("vllm", 3)
    pair = {"m.q_proj.lora_A.weight": (2, 8), "m.q_proj.lora_B.weight": (8, 2), "m.q_proj.bias": (8,)}
    for running, told in ((None, False), (version, False), (f"{version}+cpu", False), ("0.17.1", True)):
        monkeypatch.setattr("registry.vllm.resolver.running", lambda running=running: running)
        with pytest.raises(InvalidAdapterError, match=f"vLLM {version} can't load: it refuses them") as refused:
            rank_for_vllm("a/b@1", cast(ReadableArtifact, adapter(pair, bias="all")))
        assert ("vLLM 0.17.1 runs here" in str(refused.value)) == told


EXPERT: Final = "model.layers.0.mlp.experts.3.up_proj"


def _on(quantised: Any, name: str = f"{MLA}q_proj") -> Any:
    shapes = {f"{name}.lora_A.weight": (2, 8), f"{name}.lora_B.weight": (8, 2)}
    return engine_check("x/a@1", cast("ReadableArtifact", adapter(shapes)), "vllm", 16, quantised=quantised)


def test_adapters_of_linear_modules_load_on_quantised_bases_but_bitsandbytes() -> None:
    for quantised in (None, "fp8", "mxfp4"):
        assert (_on(quantised).loads, _on(quantised).notes) == (True, ())
    found = _on("bitsandbytes")
    assert (found.loads, [one.code for one in found.reasons]) == (False, ["bitsandbytes"])
    assert "no quantization of that name" in found.reasons[0].sentence
    assert "#29138" in found.reasons[0].source
    assert found.would_do == "registry fetch x/a@1 --as merged"


def test_adapters_of_experts_have_notes_on_quantised_bases() -> None:
    assert _on(None, EXPERT).notes == ()
    (gibberish, padded), (backend,) = _on("fp8", EXPERT).notes, _on("mxfp4", EXPERT).notes
    assert "gibberish" in gibberish
    assert "#42007" in gibberish
    assert "tensor parallelism" in padded
    assert "16 bit activations" in backend
    assert "notes" not in _on("fp8").model_dump()


def test_what_is_known_of_one_engine_is_not_told_of_another() -> None:
    check_quantised("vllm", "fp8")
    check_quantised("sglang", None)
    with pytest.raises(UsageError, match="--base-quantization fp8 is known of vLLM only, not of SGLang"):
        check_quantised("sglang", "fp8")


def answer(*reasons: str, rank: int | None = 24, limit: int | None = 16) -> EngineAnswer:
    return EngineAnswer(engine="vllm", version="1", loads=not reasons, reasons=reasons, rank=rank, max_lora_rank=limit)


def test_each_code_has_words_once() -> None:
    codes = ("not_composable", *get_args(Part))
    told = in_short(answer(*codes, *codes))
    assert len(told) == len(codes) == len(set(told))
    assert not set(told) & set(codes)
    assert in_short(answer()) == []
    assert in_short(answer("of_a_later_version")) == ["of_a_later_version"]


def test_a_rank_that_is_too_large_is_told_with_the_limit() -> None:
    told = in_short(answer("dora", "rank"))
    assert told == ["its rank is 24, above 16, unless the engine is started with more", "it has DoRA"]
    assert in_short(answer("rank", limit=None)) == ["its rank is above what the engine takes"]
