"""Factors of experts that an older PEFT wrote with in and out features taken for each other.

PEFT 0.17 and 0.18 read every parameter of three dimensions as (experts, in, out), PEFT 0.19.0 those that are not, and
only from 0.19.1 on is it right (huggingface/peft #3165). The adapter works all the same: with A (experts * rank, out)
and B (in, rank * experts) the change of one expert is (B_e A_e) transposed, that is the product of A_e transposed and
B_e transposed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from registry.files.source import ByteSource
from registry.tensors.factors.matrices import Stored, read_rows, read_whole


@dataclass(frozen=True)
class TurnedExpertA(Stored):
    """A of one expert, (rank, in_features), from the tensor lora_B (in_features, rank * experts)."""

    expert: int
    experts: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.entry.shape[1] // self.experts, self.entry.shape[0]

    def read(self, source: ByteSource, start: int, stop: int) -> torch.Tensor:
        whole = read_whole(source, self.entry)
        return whole[:, self.expert :: self.experts].T[start:stop].contiguous()


@dataclass(frozen=True)
class TurnedExpertB(Stored):
    """B of some output features of one expert, (features, rank), from the tensor lora_A (experts * rank, out)."""

    expert: int
    rank: int
    out: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.out[1] - self.out[0], self.rank

    def read(self, source: ByteSource, start: int, stop: int) -> torch.Tensor:
        first = self.expert * self.rank
        rows = read_rows(source, self.entry, first, first + self.rank)
        return rows[:, self.out[0] + start : self.out[0] + stop].T.contiguous()
