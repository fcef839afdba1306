"""Token rows in a composed adapter: each as its last writer left it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from registry.tensors.composed.adapter_tensors import LEAD, AdapterTensor
from registry.tensors.path.programs import Program
from registry.tensors.path.steps import SetRows


def rows_of(program: Program, since: int) -> dict[int, tuple[SetRows, int]]:
    """Token -> where its row is; the last writer wins."""
    found: dict[int, tuple[SetRows, int]] = {}
    for step in program.since(since):
        if isinstance(step, SetRows):
            found.update({row: (step, at) for at, row in enumerate(step.rows)})
    return dict(sorted(found.items()))


def token_tensor(module: str, rows: Mapping[int, tuple[SetRows, int]]) -> AdapterTensor:
    """The tensor of a module's token rows, as PEFT names it."""
    columns = next(iter(rows.values()))[0].entry.shape[1]

    def read(start: int, stop: int) -> torch.Tensor:
        wanted = list(rows.values())[start:stop]
        whole = {step.link: step.read() for step, _ in wanted}
        wide = torch.float64 if any(values.dtype is torch.float64 for values in whole.values()) else torch.float32
        return torch.stack([whole[step.link][at].to(wide) for step, at in wanted])

    return AdapterTensor(f"{LEAD}{module}.token_adapter.trainable_tokens_delta", (len(rows), columns), read)
