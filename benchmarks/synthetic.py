"""Models and adapters of a real one's shape with random weights, written once and kept between runs.

The large shape is that of TinyLlama 1.1 B (grouped-query attention, untied output embedding), the encoder's that of
MiniLM; the tiny ones are for tests. Deltas have about 1 % of the weights' norm, as trained ones do.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

WEIGHT_STD = 0.02
RELATIVE_DELTA = 0.01
_DECODER_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ENCODER_TARGETS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")


@dataclass(frozen=True)
class Shape:
    """The sizes that decide a Llama's tensors."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    shards: int


@dataclass(frozen=True)
class Encoder:
    """The sizes that decide the tensors of a BERT without a head."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocab: int


LARGE = Shape(hidden=2048, intermediate=5632, layers=22, heads=32, kv_heads=4, vocab=32000, shards=3)
TINY = Shape(hidden=64, intermediate=160, layers=2, heads=4, kv_heads=2, vocab=256, shards=3)
MINILM = Encoder(hidden=384, intermediate=1536, layers=6, heads=12, vocab=30522)
TINY_ENCODER = Encoder(hidden=64, intermediate=160, layers=2, heads=4, vocab=256)


def linear_modules(shape: Shape | Encoder) -> Iterator[tuple[str, int, int]]:
    """Every linear module of the layers: name, out features, in features."""
    yield from _of_encoder(shape) if isinstance(shape, Encoder) else _of_decoder(shape)


def _of_encoder(shape: Encoder) -> Iterator[tuple[str, int, int]]:
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            yield f"{at}.attention.{name}", shape.hidden, shape.hidden
        yield f"{at}.intermediate.dense", shape.intermediate, shape.hidden
        yield f"{at}.output.dense", shape.hidden, shape.intermediate


def _of_decoder(shape: Shape) -> Iterator[tuple[str, int, int]]:
    kv = shape.hidden // shape.heads * shape.kv_heads
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        yield f"{at}.self_attn.q_proj", shape.hidden, shape.hidden
        yield f"{at}.self_attn.k_proj", kv, shape.hidden
        yield f"{at}.self_attn.v_proj", kv, shape.hidden
        yield f"{at}.self_attn.o_proj", shape.hidden, shape.hidden
        yield f"{at}.mlp.gate_proj", shape.intermediate, shape.hidden
        yield f"{at}.mlp.up_proj", shape.intermediate, shape.hidden
        yield f"{at}.mlp.down_proj", shape.hidden, shape.intermediate


def _tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, shape.hidden)}
    for name, rows, columns in linear_modules(shape):
        tensors[f"{name}.weight"] = (rows, columns)
    for layer in range(shape.layers):
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = (shape.hidden,)
        tensors[f"model.layers.{layer}.post_attention_layernorm.weight"] = (shape.hidden,)
    return {**tensors, "model.norm.weight": (shape.hidden,), "lm_head.weight": (shape.vocab, shape.hidden)}


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
    }


def _shards(shape: Shape) -> list[list[str]]:
    """Tensor names by shard, in order, of about the same size."""
    tensors = _tensors(shape)
    total = sum(math.prod(dims) for dims in tensors.values())
    shards: list[list[str]] = [[] for _ in range(shape.shards)]
    before = 0
    for name, dims in tensors.items():
        shards[min(shape.shards - 1, before * shape.shards // total)].append(name)
        before += math.prod(dims)
    return shards


def _write_base(folder: Path, shape: Shape | Encoder) -> None:
    if isinstance(shape, Encoder):
        _write_encoder(folder, shape)
    else:
        _write_decoder(folder, shape)


def _write_encoder(folder: Path, shape: Encoder) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        vocab_size=shape.vocab,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)


def _write_decoder(folder: Path, shape: Shape) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = _tensors(shape)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(_shards(shape), start=1):
        file = f"model-{number:05d}-of-{shape.shards:05d}.safetensors"
        shard = {
            name: torch.ones(tensors[name], dtype=torch.bfloat16)
            if len(tensors[name]) == 1
            else (torch.randn(tensors[name], generator=generator) * WEIGHT_STD).to(torch.bfloat16)
            for name in names
        }
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    size = 2 * sum(math.prod(dims) for dims in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(_config(shape), indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))


def _write_adapter(folder: Path, shape: Shape | Encoder, rank: int, seed: int, *, dora: bool) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)
    scaling = 2.0
    std_b = WEIGHT_STD * RELATIVE_DELTA / (scaling * math.sqrt(rank) * WEIGHT_STD)
    tensors: dict[str, torch.Tensor] = {}
    for name, rows, columns in linear_modules(shape):
        prefix = f"base_model.model.{name}"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) * WEIGHT_STD
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * std_b
        if dora:
            spread = 1 + RELATIVE_DELTA * torch.randn(rows, generator=generator)
            tensors[f"{prefix}.lora_magnitude_vector"] = WEIGHT_STD * math.sqrt(columns) * spread
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    encoder = isinstance(shape, Encoder)
    config = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION" if encoder else "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank * scaling,
        "target_modules": [*(_ENCODER_TARGETS if encoder else _DECODER_TARGETS)],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_dora": dora,
        "inference_mode": True,
        "base_model_name_or_path": f"synthetic/{'bert' if encoder else 'llama'}",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))


def _once(folder: Path) -> Path | None:
    """The folder to fill before it gets its name, or None when it is there already."""
    if folder.is_dir():
        return None
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _key(shape: Shape | Encoder) -> str:
    return hashlib.sha256(json.dumps(asdict(shape), sort_keys=True).encode()).hexdigest()[:8]


def base_model(cache: Path, shape: Shape | Encoder) -> Path:
    """The base model's folder under ``cache``, written on the first call."""
    folder = cache / f"base-{_key(shape)}"
    if (partial := _once(folder)) is not None:
        _write_base(partial, shape)
        partial.rename(folder)
    return folder


def adapter(cache: Path, shape: Shape | Encoder, *, seed: int, rank: int = 16, dora: bool = False) -> Path:
    """A PEFT adapter of fp32 pairs on all linear modules, written on the first call."""
    folder = cache / f"adapter-{_key(shape)}-r{rank}-{seed:02d}{'-dora' if dora else ''}"
    if (partial := _once(folder)) is not None:
        _write_adapter(partial, shape, rank, seed, dora=dora)
        partial.rename(folder)
    return folder
