"""Nets that use their modules in ways that a path beside the base could miss, each with what an adapter targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    """An embedding, a body and a head; `body` is what the nets differ in."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(30, 8)
        self.lin = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.body(self.emb(input_ids)))
        return found

    def body(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.tanh(self.lin(x))
        return found


class Reading(nn.Module):
    """A block that multiplies by a weight instead of calling its module."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 8)
        self.called = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.called(functional.linear(x, self.lin.weight, self.lin.bias))
        return found


class ReadInside(Net):
    def __init__(self) -> None:
        super().__init__()
        self.block = Reading()

    def body(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.block(self.lin(x))
        return found


class ReadByTheNet(Net):
    def body(self, x: torch.Tensor) -> torch.Tensor:
        held = self.lin
        return functional.linear(x, held.weight, held.bias)


class TiedHead(Net):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return functional.linear(self.body(self.emb(input_ids)), self.emb.weight)


class _Project(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lins = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for lin in self.lins:
            x = self.product(x, lin)
        return x

    def product(self, x: torch.Tensor, lin: nn.Module) -> torch.Tensor:
        return functional.linear(x, lin.get_parameter("weight"))


class HandedOn(Net):
    def __init__(self) -> None:
        super().__init__()
        self.project = _Project()

    def body(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.project(x)
        return found


class _Outside(nn.Module):
    """Reads a module in a method that its own forward does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.lin(x)
        return found

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.lin.weight


class ReadFromOutside(Net):
    def __init__(self) -> None:
        super().__init__()
        self.block = _Outside()

    def body(self, x: torch.Tensor) -> torch.Tensor:
        return self.block.turned(self.block(x))


class Shared(Net):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.lin

    def body(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.again(torch.tanh(self.lin(x)))
        return found


class OwnLinear(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return torch.tanh(super().forward(input)) * 3


class OwnEmbedding(nn.Embedding):
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return super().forward(input) * math.sqrt(8)


class Subclassed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.emb = OwnEmbedding(30, 8)
        self.lin = OwnLinear(8, 8)


class Caching(nn.Linear):
    """Keeps what it made of its weight."""

    kept: torch.Tensor | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        if self.kept is None:
            self.kept = self.weight * 2
        return functional.linear(input, self.kept)


class Cached(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lin = Caching(8, 8)


class Encoder(Net):
    """`nn.TransformerEncoder` goes past the forward of its modules where it may."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        mask = input_ids == 0
        found: torch.Tensor = self.head(self.encoder(self.emb(input_ids), src_key_padding_mask=mask))
        return found.masked_fill(mask.unsqueeze(-1), 0)


class Convolutions(Net):
    """With groups, with another padding, strided and dilated."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.around = nn.Conv1d(8, 8, 3, padding=1, padding_mode="circular")
        self.same = nn.Conv1d(8, 8, 3, padding="same", dilation=2)
        self.strided = nn.Conv1d(8, 8, 3, stride=2, padding=1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        y = self.strided(self.same(torch.tanh(self.around(torch.tanh(self.grouped(x.transpose(1, 2)))))))
        found: torch.Tensor = y.transpose(1, 2)
        return found


class Checkpointed(Net):
    """Runs its body again in the backward pass."""

    def body(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = checkpoint(super().body, x.requires_grad_(), use_reentrant=False)
        return found


class Turned(Net):
    """Puts positions first."""

    def body(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.tanh(self.lin(x.transpose(0, 1))).transpose(0, 1)
        return found


class Routed(Net):
    """Experts that get the tokens that are sent to them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, 8)
        chosen = flat.sum(-1) > 0
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            mine = chosen == bool(number)
            out[mine] = expert(flat[mine])
        return out.view(x.shape)


class Positions(Net):
    """Positions without a dimension of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.wpe = nn.Embedding(16, 8)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.lin(x + self.wpe(torch.arange(x.shape[1])))
        return found


NETS: Final[Mapping[str, tuple[Callable[[], Any], list[str]]]] = {
    "plain": (Net, ["emb", "lin", "head"]),
    "read inside": (ReadInside, ["block.lin", "block.called", "head"]),
    "handed on": (HandedOn, ["project.lins.1", "emb"]),
    "shared": (Shared, ["lin"]),
    "subclassed": (Subclassed, ["emb", "lin"]),
    "encoder": (Encoder, ["encoder.layers.1.linear1", "encoder.layers.1.self_attn.out_proj", "emb"]),
    "one layer": (Encoder, ["encoder.layers.1.linear2"]),
    "convolutions": (Convolutions, ["around", "same", "strided"]),
}
"""Nets that work."""
