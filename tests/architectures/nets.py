"""Nets of the kinds that PEFT's own tests adapt: few modules in a row, of every kind that takes a pair.

transformers knows none of them, so a registry is told nothing but names and shapes, as of any net of one's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

Step = tuple[str, nn.Module, tuple[int, ...]]
"""A module's path, the module, and the shape of what it takes, without the batch."""


class Net(nn.Module):
    """Modules one after another: each takes what the one before makes, in the shape that it asks for."""

    def __init__(self, *steps: Step, words: bool = False) -> None:
        super().__init__()
        self.shapes = {name: shape for name, _, shape in steps}
        self.words = words
        for name, module, _ in steps:
            *above, leaf = name.split(".")
            inside: nn.Module = self
            for part in above:
                if not hasattr(inside, part):
                    inside.add_module(part, nn.Module())
                inside = inside.get_submodule(part)
            inside.add_module(leaf, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: numbers of any shape that the first module takes in pieces; with ``words`` whole numbers."""
        for name, shape in self.shapes.items():
            given = (x if name == next(iter(self.shapes)) else torch.tanh(x)).reshape(-1, *shape)
            module = self.get_submodule(name)
            made = module(given, given, given) if name.endswith("mha") else module(given)
            x = made[0] if isinstance(made, tuple) else made
        return x


class ByParameter(nn.Module):
    """A linear module that is none for PEFT: its weight, (in, out), is adapted by the parameter's name."""

    def __init__(self, inputs: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, out))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in) to (batch, out)."""
        return x @ self.weight + self.bias


@dataclass(frozen=True)
class NetClass:
    """Makes and loads one net, by the calls that a class of transformers has for its models."""

    name: str
    make: Callable[[], Net]
    turned: tuple[str, ...] = ()  # modules that registry.json declares to be stored (in, out)

    def save(self, folder: Path) -> Path:
        """Write a folder with weights, all from one seed, and no configuration of transformers."""
        torch.manual_seed(11)
        net = self.make()
        with torch.no_grad():
            for one in net.parameters():
                one.copy_(torch.randn_like(one) * 0.3)
        folder.mkdir(parents=True)
        save_file(net.state_dict(), folder / "model.safetensors", {"format": "pt"})
        if self.turned:
            modules = {one: {"kind": "linear", "transposed": True} for one in self.turned}
            (folder / "registry.json").write_text(json.dumps({"modules": modules}))
        return folder

    def from_pretrained(self, folder: Path, **_: Any) -> tuple[Net, dict[str, list[str]]]:
        """The net with a folder's weights, and which names were missing or unknown."""
        net = self.make()
        missing, unexpected = net.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        return net, {"missing_keys": missing, "unexpected_keys": unexpected, "mismatched_keys": []}


def _mlp(*, bias: bool = True) -> Net:
    return Net(("lin0", nn.Linear(10, 20, bias=bias), (10,)), ("lin1", nn.Linear(20, 2, bias=bias), (20,)))


def _words(embedding: str = "emb") -> Net:
    steps = (embedding, nn.Embedding(100, 5), ()), ("conv1d", Conv1D(1, 5), (5,)), ("lin0", nn.Linear(10, 2), (10,))
    return Net(*steps, words=True)


def _blocks() -> Net:
    lines = [f"body.layers.{block}.lin{line}" for block in range(3) for line in range(2)]
    return Net(*((name, nn.Linear(10, 10), (10,)) for name in lines), ("head", nn.Linear(10, 2), (10,)))


def _convolved(name: str, convolution: nn.Module, shape: tuple[int, ...], out: int) -> Net:
    return Net((name, convolution, shape), ("lin0", nn.Linear(out, 2), (out,)))


NETS: Final[Mapping[str, NetClass]] = {
    one.name: one
    for one in (
        NetClass("mlp", _mlp),
        NetClass("mlp-no-bias", lambda: _mlp(bias=False)),
        NetClass("mlp-norm", lambda: Net(
            ("layernorm0", nn.LayerNorm(10), (10,)), ("lin0", nn.Linear(10, 20), (10,)),
            ("layernorm1", nn.LayerNorm(20), (20,)), ("lin1", nn.Linear(20, 2), (20,)),
        )),
        NetClass("mlp-gru", lambda: Net(
            ("lin0", nn.Linear(10, 20), (10,)), ("gru", nn.GRU(20, 20, batch_first=True), (1, 20)),
            ("fc", nn.Linear(20, 2), (20,)),
        )),
        NetClass("blocks", _blocks),
        NetClass("words", _words, ("conv1d",)),
        NetClass("words-undeclared", _words),
        NetClass("words-embed_tokens", lambda: _words("embed_tokens"), ("conv1d",)),
        NetClass("conv1d", lambda: _convolved("conv1d", nn.Conv1d(1, 1, 2), (1, 10), 9)),
        NetClass("conv1d-wide", lambda: _convolved("conv1d", nn.Conv1d(16, 12, 2), (16, 10), 108)),
        NetClass("conv1d-point", lambda: _convolved("conv1d", nn.Conv1d(3, 10, 1), (3, 10), 100)),
        NetClass("conv1d-groups", lambda: _convolved("conv1d", nn.Conv1d(8, 8, 3, groups=2), (8, 10), 64)),
        NetClass("conv2d", lambda: _convolved("conv2d", nn.Conv2d(5, 10, 3), (5, 3, 3), 10)),
        NetClass("conv2d-no-bias", lambda: _convolved("conv2d", nn.Conv2d(5, 10, 3, bias=False), (5, 3, 3), 10)),
        NetClass("conv2d-point", lambda: _convolved("conv2d", nn.Conv2d(1, 10, 1), (1, 3, 3), 90)),
        NetClass("conv2d-groups", lambda: _convolved("conv2d", nn.Conv2d(16, 16, 3, groups=8), (16, 3, 3), 16)),
        NetClass("conv2d-two-groups", lambda: _convolved("conv2d", nn.Conv2d(16, 32, 3, groups=2), (16, 3, 3), 32)),
        NetClass("conv3d", lambda: _convolved("conv3d", nn.Conv3d(5, 10, 3), (5, 3, 3, 3), 10)),
        NetClass("conv3d-flat", lambda: _convolved("conv3d", nn.Conv3d(4, 6, (1, 1, 3)), (4, 2, 2, 5), 72)),
        NetClass("mha", lambda: Net(("mha", nn.MultiheadAttention(10, 2), (10,)), ("lin0", nn.Linear(10, 2), (10,)))),
        NetClass("parameters", lambda: Net(("lin0", ByParameter(10, 20), (10,)), ("lin1", ByParameter(20, 2), (20,)))),
    )
}  # fmt: skip
"""By name."""


def output(model: Any) -> torch.Tensor:
    """What a net makes of fixed numbers, or a model of transformers of fixed words or a picture."""
    base = model
    while hasattr(base, "base_model") and not isinstance(base, Net) and base.base_model is not base:  # as PEFT wraps it
        inner = base.base_model
        if not hasattr(inner, "model") or not hasattr(inner, "peft_config"):
            break
        base = inner.model
    with torch.no_grad():
        made: torch.Tensor = base.eval()(_numbers(base)) if isinstance(base, Net) else _spoken(base.eval())
    return made


def _numbers(net: Net) -> torch.Tensor:
    if net.words:
        return torch.arange(20) * 7 % 100
    return torch.linspace(-1, 1, 4 * math.prod(next(iter(net.shapes.values()))))


def _spoken(model: Any) -> torch.Tensor:
    words = torch.tensor([[5, 9, 2, 6, 3, 1, 4, 8]])
    if model.main_input_name == "pixel_values":
        given = {"pixel_values": torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)}
    elif model.config.is_encoder_decoder:
        given = {"input_ids": words, "decoder_input_ids": words.flip(1)}
    else:
        given = {"input_ids": words}
    found = model(**given)
    made: torch.Tensor = found.logits if hasattr(found, "logits") else found.last_hidden_state
    return made
