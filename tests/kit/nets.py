"""`conv_base`, `attention_base` and `declared_base` as torch nets: PEFT wraps them, transformers knows none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests.kit.tensor_files import RawTensor, read_model, write_model


class ConvNet(nn.Module):
    """Every convolution at work: three chains over the same numbers, and an embedding."""

    def __init__(self, *, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c1 = nn.Conv1d(4, 6, 3, padding=1)
        self.c1p = nn.Conv1d(6, 6, 1, groups=groups)
        self.c2 = nn.Conv2d(1, 5, 3, padding=dilation, dilation=dilation)
        self.c2p = nn.Conv2d(5, 6, 1)
        self.c2r = nn.Conv2d(6, 4, (1, 3), padding=(0, 1))
        self.c3 = nn.Conv3d(1, 3, 3, padding=1)
        self.c3p = nn.Conv3d(3, 5, 1)
        self.emb = nn.Embedding(30, 4)
        self.head = nn.Linear(3, 5)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)  # (batch, time, 4)
        one = self.c1p(torch.tanh(self.c1(x.transpose(1, 2)))).mean((1, 2))
        two = self.c2r(self.c2p(torch.tanh(self.c2(x.unsqueeze(1))))).mean((1, 2, 3))
        cube = x.reshape(x.shape[0], 1, -1, 2, 2)
        three = self.c3(cube)
        four = self.c3p(torch.tanh(three)).mean((1, 2, 3, 4))
        found: torch.Tensor = self.head(torch.tanh(three).mean((2, 3, 4))) + (one + two + four).unsqueeze(1)
        return found


class AttentionNet(nn.Module):
    """Two blocks of ``nn.MultiheadAttention`` and linear modules."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.emb = nn.Embedding(30, hidden)
        self.blocks = nn.ModuleList(_Block(hidden) for _ in range(2))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        for block in self.blocks:
            x = block(x)
        found: torch.Tensor = x
        return found


class _Block(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(hidden, 2, batch_first=True)
        self.linear = nn.Linear(hidden, 12)
        self.back = nn.Linear(12, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(x, x, x, need_weights=False)[0]
        found: torch.Tensor = x + self.back(torch.tanh(self.linear(x)))
        return found


class DeclaredNet(nn.Module):
    """A transposed linear module, a plain one, and three parameters of experts, stored (experts, in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _Body()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = nn.functional.one_hot(input_ids, 12).to(next(self.parameters()).dtype)
        found: torch.Tensor = self.body(x)
        return found


class _Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turned = Conv1D(12, 12)
        self.straight = nn.Linear(12, 12, bias=False)
        self.experts = _Experts()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.experts(torch.tanh(self.straight(self.turned(x))))
        return found


class _Experts(nn.Module):
    is_transposed = True

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(3, 12, 20))
        self.mid = nn.Parameter(torch.zeros(3, 20, 20))
        self.down = nn.Parameter(torch.zeros(3, 20, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up, mid, down = self.up, self.mid, self.down
        each = [torch.tanh(torch.tanh(x @ up[one]) @ mid[one]) @ down[one] * (one + 1) for one in range(3)]
        return torch.stack(each).sum(0)


def load_net(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    """The net whose weights lie in the folder."""
    weights = {name: torch.from_numpy(raw.values).to(dtype) for name, raw in read_model(folder).items()}
    kinds = {"c1.weight": ConvNet, "body.turned.weight": DeclaredNet, "emb.weight": AttentionNet}
    net: nn.Module = next(kind for name, kind in kinds.items() if name in weights)(**options)
    net.load_state_dict(weights)
    return net.to(dtype).eval()


def save_net(folder: Path, net: nn.Module) -> Path:
    """A base model folder without a config."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder, {name: RawTensor.of(one.double().numpy(), "F32") for name, one in net.state_dict().items()})
    return folder
