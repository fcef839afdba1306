"""Tiny base models written by hand: no transformers, a few milliseconds each.

Names, shapes and configs are those that transformers writes (tests/kit's own tests load them with it).
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.kit.floats import Array
from tests.kit.layouts import Layout, layout_of
from tests.kit.merged_tensor import MergedTensor
from tests.kit.reference import GPT2_CONV1D
from tests.kit.simulate import Simulated, simulate
from tests.kit.tensor_files import RawTensor, read_tensors, write_model, write_tensors

Kind = Literal["linear", "conv1d", "embedding", "conv", "attention"]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Module:
    """A module that an adapter can target."""

    name: str  # runtime path, as adapters name it
    tensor: str  # its weight in the files
    kind: Kind
    shape: tuple[int, ...]  # as stored

    @property
    def oriented(self) -> tuple[int, int]:
        """(out, in); of a convolution (out, in * kernel)."""
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        return (columns, rows) if self.kind in ("conv1d", "embedding") else (rows, columns)


@dataclass(frozen=True)
class Base:
    """A base model folder and what its modules are called."""

    folder: Path
    modules: Mapping[str, Module]
    architecture: str | None

    @cached_property
    def layout(self) -> Layout:
        """What the parameters of the running model are in the files."""
        return layout_of(self.folder)

    def simulate(self, adapters: Sequence[Path]) -> Simulated:
        """The merged model in float64, and whether a tie was undone (see `tests.kit.simulate`)."""
        return simulate(self.folder, adapters, self.layout)

    def reference(self, adapters: Sequence[Path]) -> dict[str, MergedTensor]:
        """The merged model in float64."""
        return self.simulate(adapters).tensors

    def named(self, *names: str) -> list[Module]:
        """Modules whose full name or leaf is one of the names (none given: all)."""
        return [m for m in self.modules.values() if not names or m.name in names or m.name.rpartition(".")[2] in names]


def draw(name: str, shape: tuple[int, ...], seed: int, scale: float) -> Array:
    """Normal values that depend on the name and the seed only."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return generator.standard_normal(shape) * scale


def write_base(
    folder: Path, config: Mapping[str, Any], shapes: Shapes, dtype: str, seed: int, shards: int, scale: float
) -> None:
    """Write tensors of these shapes, drawn from the seed, and the config."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, shape in shapes.items():
        values = draw(name, shape, seed, scale)
        is_norm = "norm" in name.lower() or ".ln_" in f".{name}"
        tensors[name] = RawTensor.of(values + 1.0 if is_norm and name.endswith("weight") else values, dtype)
    write_model(folder, tensors, shards)
    spelt = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]
    (folder / "config.json").write_text(json.dumps({**config, "dtype": spelt}, indent=2) + "\n")


def plain_base(
    folder: Path,
    shapes: Shapes | None = None,
    *,
    dtype: str = "F32",
    seed: int = 0,
    shards: int = 1,
    scale: float = 0.1,
    named: bool = False,
) -> Base:
    """A net that no library knows: every 2-D tensor ``NAME.weight`` is a Linear (out, in) named ``NAME``.

    Its config says nothing, or with ``named`` an architecture that no library knows (which costs seconds to find out).
    """
    if shapes is None:
        shapes = {"body.one.weight": (12, 8), "body.one.bias": (12,), "body.two.weight": (8, 12), "head.weight": (5, 8)}
    config = {"model_type": "plain-net", "architectures": ["PlainNet"]} if named else {}
    write_base(folder, config, shapes, dtype, seed, shards, scale)
    names = [name for name, shape in shapes.items() if len(shape) == 2 and name.endswith(".weight")]
    modules = {
        name.removesuffix(".weight"): Module(name.removesuffix(".weight"), name, "linear", _pair(shapes[name]))
        for name in names
    }
    return Base(folder, modules, None)


def llama_base(
    folder: Path,
    *,
    dtype: str = "F32",
    seed: int = 0,
    shards: int = 1,
    scale: float = 0.1,
    layers: int = 2,
    hidden: int = 16,
    mlp: int = 24,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 40,
    tied: bool = False,
) -> Base:
    """A `LlamaForCausalLM`; tied: no ``lm_head.weight`` in the file."""
    head = hidden // heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for number in range(layers):
        lead = f"model.layers.{number}."
        shapes |= {
            f"{lead}input_layernorm.weight": (hidden,),
            f"{lead}mlp.down_proj.weight": (hidden, mlp),
            f"{lead}mlp.gate_proj.weight": (mlp, hidden),
            f"{lead}mlp.up_proj.weight": (mlp, hidden),
            f"{lead}post_attention_layernorm.weight": (hidden,),
            f"{lead}self_attn.k_proj.weight": (kv_heads * head, hidden),
            f"{lead}self_attn.o_proj.weight": (hidden, hidden),
            f"{lead}self_attn.q_proj.weight": (hidden, hidden),
            f"{lead}self_attn.v_proj.weight": (kv_heads * head, hidden),
        }
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": head,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "max_position_embeddings": 64,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": tied,
        "vocab_size": vocab,
    }
    write_base(folder, config, shapes, dtype, seed, shards, scale)
    return Base(folder, _modules(shapes, {"embed_tokens": "embedding"}, ""), "LlamaForCausalLM")


def gpt2_base(
    folder: Path,
    *,
    dtype: str = "F32",
    seed: int = 0,
    shards: int = 1,
    scale: float = 0.1,
    layers: int = 2,
    hidden: int = 16,
    vocab: int = 40,
    hub_names: bool = False,
) -> Base:
    """A `GPT2LMHeadModel` (Conv1D, tied ``wte``); ``hub_names``: files without ``transformer.``, as the Hub's gpt2."""
    lead = "" if hub_names else "transformer."
    shapes: dict[str, tuple[int, ...]] = {f"{lead}wte.weight": (vocab, hidden), f"{lead}wpe.weight": (64, hidden)}
    for number in range(layers):
        for name, shape in {
            "ln_1.weight": (hidden,),
            "ln_1.bias": (hidden,),
            "attn.c_attn.weight": (hidden, 3 * hidden),
            "attn.c_attn.bias": (3 * hidden,),
            "attn.c_proj.weight": (hidden, hidden),
            "attn.c_proj.bias": (hidden,),
            "ln_2.weight": (hidden,),
            "ln_2.bias": (hidden,),
            "mlp.c_fc.weight": (hidden, 4 * hidden),
            "mlp.c_fc.bias": (4 * hidden,),
            "mlp.c_proj.weight": (4 * hidden, hidden),
            "mlp.c_proj.bias": (hidden,),
        }.items():
            shapes[f"{lead}h.{number}.{name}"] = shape
    shapes |= {f"{lead}ln_f.weight": (hidden,), f"{lead}ln_f.bias": (hidden,)}
    config = {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_embd": hidden,
        "n_head": 4,
        "n_layer": layers,
        "n_positions": 64,
        "tie_word_embeddings": True,
        "vocab_size": vocab,
    }
    write_base(folder, config, shapes, dtype, seed, shards, scale)
    kinds: dict[str, Kind] = {"wte": "embedding", "wpe": "embedding"}
    for leaf in GPT2_CONV1D:
        kinds[leaf] = "conv1d"
    return Base(folder, _modules(shapes, kinds, "transformer." if hub_names else ""), "GPT2LMHeadModel")


def bert_base(
    folder: Path,
    *,
    dtype: str = "F32",
    seed: int = 0,
    shards: int = 1,
    scale: float = 0.1,
    layers: int = 2,
    hidden: int = 16,
    vocab: int = 40,
) -> Base:
    """A headless `BertModel`."""
    lead = "embeddings."
    shapes: dict[str, tuple[int, ...]] = {
        f"{lead}word_embeddings.weight": (vocab, hidden),
        f"{lead}position_embeddings.weight": (64, hidden),
        f"{lead}token_type_embeddings.weight": (2, hidden),
        f"{lead}LayerNorm.weight": (hidden,),
        f"{lead}LayerNorm.bias": (hidden,),
    }
    for number in range(layers):
        lead = f"encoder.layer.{number}."
        for name, out_features, in_features in (
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", 2 * hidden, hidden),
            ("output.dense", hidden, 2 * hidden),
        ):
            shapes |= {f"{lead}{name}.weight": (out_features, in_features), f"{lead}{name}.bias": (out_features,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{lead}{name}.weight": (hidden,), f"{lead}{name}.bias": (hidden,)}
    shapes |= {"pooler.dense.weight": (hidden, hidden), "pooler.dense.bias": (hidden,)}
    config = {
        "architectures": ["BertModel"],
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 64,
        "model_type": "bert",
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": vocab,
    }
    write_base(folder, config, shapes, dtype, seed, shards, scale)
    names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    return Base(folder, _modules(shapes, dict.fromkeys(names, "embedding"), ""), "BertModel")


def add_tokenizer(folder: Path, text: str = "one") -> None:
    """Files beside the weights, as a tokenizer leaves them, nested ones too; ``text`` tells two sets apart."""
    (folder / "tokenizer.json").write_text(json.dumps({"version": text}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64, "note": text}))
    (folder / "chat_template.jinja").write_text(f"{{# {text} #}}{{{{ messages }}}}\n")
    (folder / "additional_chat_templates").mkdir(exist_ok=True)
    (folder / "additional_chat_templates" / "tools.jinja").write_text(f"{{# {text} #}}\n")


def add_integers(base: Base, name: str = "steps") -> None:
    """One more tensor, of integers, in a single-file base: it must come out as it is."""
    path = base.folder / "model.safetensors"
    data = np.arange(7, dtype="<i8").tobytes()
    write_tensors(path, read_tensors(path) | {name: RawTensor("I64", (7,), data)})


def _pair(shape: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = shape
    return rows, columns


def _modules(shapes: Shapes, kinds: Mapping[str, Kind], runtime_lead: str) -> dict[str, Module]:
    found = {}
    for tensor, shape in shapes.items():
        if len(shape) == 2:
            stem = tensor.removesuffix(".weight")
            name = runtime_lead + stem if stem != "lm_head" else stem
            found[name] = Module(name, tensor, kinds.get(stem.rpartition(".")[2], "linear"), _pair(shape))
    return found
