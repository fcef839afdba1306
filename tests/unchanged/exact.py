"""Models and adapters whose merged weights are the same on every machine: each sum and product in them is exact.

Nothing is drawn by a random generator: every number comes from a hash of its name. Weights are plus or minus 1/8,
factors are whole numbers and powers of two, so that no order of summation, no kernel and no fused operation rounds
anything. Magnitudes of DoRA divide by norms: those paths only turn signs, which keeps every norm a power of two.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.kit.floats import Array
from tests.kit.tensor_files import RawTensor, write_model, write_tensors

UNIT: Final = 0.125
ROOT: Final = "base_model.model."
SHAPES: Final[dict[str, tuple[int, ...]]] = {
    "emb.weight": (64, 16),
    "body.fc.weight": (16, 64),
    "body.fc.bias": (16,),
    "body.turned.weight": (16, 64),
    "body.turned.bias": (64,),
    "body.conv.weight": (8, 4, 2, 2),
    "body.experts.up": (2, 16, 16),
    "norm.weight": (16,),
    "head.weight": (16, 16),
}
"""Of `net_base`. ``body.turned`` is stored (in, out), which ``registry.json`` declares."""

DECLARED: Final = {
    "modules": {
        "emb": {"kind": "embedding"},
        "body.turned": {"kind": "linear", "transposed": True},
        "body.experts": {"kind": "experts", "parameters": ["up"]},
    }
}
TURNED: Final = ("emb", "body.turned")  # stored (in, out)


def whole(name: str, shape: Sequence[int], most: int = 1) -> Array:
    """Whole numbers from ``-most`` to ``most``, of a hash of the name."""
    count = math.prod(shape)
    data = b"".join(hashlib.sha256(f"{name}:{number}".encode()).digest() for number in range(-(-count // 32)))
    values = np.frombuffer(data[:count], dtype=np.uint8).astype(np.float64)
    return (values % (2 * most + 1) - most).reshape(shape)


def signs(name: str, shape: Sequence[int]) -> Array:
    """Plus and minus `UNIT`, of a hash of the name."""
    return np.where(whole(name, shape, 127) < 0, -UNIT, UNIT)


def net_base(folder: Path, name: str, *, dtype: str = "F32", shards: int = 1) -> Path:
    """A net that no library knows, with one module of most kinds, a tensor of integers, and files beside it."""
    folder.mkdir(parents=True)
    tensors = {tensor: RawTensor.of(signs(name + tensor, shape), dtype) for tensor, shape in SHAPES.items()}
    tensors["steps"] = RawTensor("I64", (7,), np.arange(7, dtype="<i8").tobytes())
    write_model(folder, tensors, shards)
    _write(folder / "config.json", {"dtype": {"F32": "float32", "BF16": "bfloat16"}[dtype]})
    _write(folder / "registry.json", DECLARED)
    _write(folder / "tokenizer.json", {"version": name})
    (folder / "templates").mkdir()
    (folder / "templates" / "tools.jinja").write_text("{{ tools }}\n")
    return folder


GPT2_WIDTH: Final = 16


def gpt2_base(folder: Path) -> Path:
    """A GPT-2 of one layer, which transformers knows: its target table comes from there, and the head is tied."""
    width = GPT2_WIDTH
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (32, width), "wpe.weight": (64, width)}
    for name, shape in {
        "ln_1": (width,),
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "ln_2": (width,),
        "mlp.c_fc": (width, 4 * width),
        "mlp.c_proj": (4 * width, width),
    }.items():
        shapes |= {f"h.0.{name}.weight": shape, f"h.0.{name}.bias": shape[-1:]}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    tensors = {f"transformer.{name}": RawTensor.of(signs(name, shape), "F32") for name, shape in shapes.items()}
    write_model(folder, tensors)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "dtype": "float32",
        "model_type": "gpt2",
        "n_embd": width,
        "n_head": 4,
        "n_layer": 1,
        "n_positions": 64,
        "tie_word_embeddings": True,
        "vocab_size": 32,
    }
    _write(folder / "config.json", config)
    return folder


@dataclass
class Adapter:
    """An adapter in the making: its configuration and its tensors, in the order of their names."""

    name: str  # what its numbers are hashed from
    r: int = 2
    alpha: int = 4
    config: dict[str, Any] = field(default_factory=dict)
    dtype: str = "F32"
    tensors: dict[str, Array] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)

    @property
    def scaling(self) -> float:
        """A power of two, by the choice of rank and alpha."""
        return self.alpha / (math.sqrt(self.r) if self.config.get("use_rslora") else self.r)

    def pair(self, module: str, out_features: int, in_features: int) -> Adapter:
        """A pair of small whole numbers on a linear module, or an embedding."""
        a = whole(f"{self.name} {module} a", (self.r, in_features))
        b = whole(f"{self.name} {module} b", (out_features, self.r)) * UNIT
        return self._factors(module, a, b)

    def convolution(self, module: str, shape: tuple[int, ...]) -> Adapter:
        """A pair on a convolution."""
        self.targets.append(module)
        kernel = shape[2:]
        self.tensors[f"{module}.lora_A.weight"] = whole(self.name + module, (self.r, shape[1], *kernel))
        b = whole(f"{self.name} {module} b", (shape[0], self.r, *[1] * len(kernel)))
        self.tensors[f"{module}.lora_B.weight"] = b * UNIT
        return self

    def experts(self, module: str, parameter: str, shape: tuple[int, int, int]) -> Adapter:
        """A pair on a parameter of all experts, as PEFT joins them."""
        experts, out_features, in_features = shape
        self.config["target_parameters"] = [f"{module}.{parameter}"]
        self.tensors[f"{module}.lora_A.weight"] = whole(f"{self.name} a", (self.r * experts, in_features))
        self.tensors[f"{module}.lora_B.weight"] = whole(f"{self.name} b", (out_features, self.r * experts)) * UNIT
        return self

    def turn(self, module: str, weights: Array, columns: Sequence[int], magnitude: bool) -> Adapter:
        """A pair that turns the signs of some columns of the oriented ``weights``, which are changed with it.

        With a magnitude, the norms of every other row are doubled: both keep all norms powers of two.
        """
        rank = len(columns)
        a, b = np.zeros((rank, weights.shape[1])), np.zeros((weights.shape[0], rank))
        for number, column in enumerate(columns):
            a[number, column] = 1
            b[:, number] = -2 * weights[:, column] / self.scaling
            weights[:, column] *= -1
        self._factors(module, a, b)
        if magnitude:
            weights[::2] *= 2
            self.tensors[f"{module}.lora_magnitude_vector"] = np.sqrt((weights**2).sum(1))
        return self

    def few(self, module: str, out_features: int, in_features: int) -> Adapter:
        """A pair with the singular values 2**rank down to 2: what truncation keeps of it is known."""
        a, b = np.zeros((self.r, in_features)), np.zeros((out_features, self.r))
        for number in range(self.r):
            a[number, 3 * number] = 1
            b[2 * number, number] = 2.0 ** (self.r - number) / self.scaling
        return self._factors(module, a, b)

    def value(self, parameter: str, shape: tuple[int, ...]) -> Adapter:
        """New values of a parameter, or rows of an embedding."""
        self.tensors[parameter] = whole(self.name + parameter, shape) * UNIT
        return self

    def _factors(self, module: str, a: Array, b: Array) -> Adapter:
        self.targets.append(module)
        tails = ("lora_embedding_A", "lora_embedding_B") if module == "emb" else ("lora_A.weight", "lora_B.weight")
        self.tensors |= {f"{module}.{tails[0]}": a, f"{module}.{tails[1]}": b}
        return self

    def write(self, folder: Path, beside: Mapping[str, str] | None = None) -> Path:
        """The folder that a trainer would leave; ``beside`` are further files."""
        config = {
            "base_model_name_or_path": "somewhere/base",
            "bias": "none",
            "lora_alpha": self.alpha,
            "peft_type": "LORA",
            "peft_version": "0.21.2",
            "r": self.r,
            "target_modules": self.targets,
            **self.config,
        }
        made = {ROOT + name: RawTensor.of(values, self.dtype) for name, values in sorted(self.tensors.items())}
        write_tensors(folder / "adapter_model.safetensors", made)
        _write(folder / "adapter_config.json", config)
        for name, text in (beside or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return folder


def oriented(base: str, module: str) -> Array:
    """The weights of a module of a `net_base` of that name, (out, in)."""
    shape = SHAPES[f"{module}.weight"]
    stored = signs(f"{base}{module}.weight", shape).reshape(shape[0], -1)
    return stored.T.copy() if module in TURNED else stored


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
