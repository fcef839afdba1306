"""Nets of one's own in a pool, each with one path."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from registry.errors import UsageError
from registry.pool import AdapterPool
from tests.kit.nets import save_net
from tests.kit.peers import wrap
from tests.kit.shelf import Shelf

IDS = torch.tensor([[3, 1, 4, 1, 5, 0], [9, 2, 6, 5, 3, 5], [8, 9, 7, 9, 0, 0]])


class NetPool:
    """A net, its pool and one path that targets some modules."""

    def __init__(self, shelf: Shelf, make: Callable[[], Any], targets: list[str], **config: Any) -> None:
        torch.manual_seed(3)
        self.model = make().eval()
        self.name = f"net{next(shelf._numbers)}"
        shelf.registry.add_base(self.name, save_net(shelf.folder(), self.model))
        adapter = shelf.folder()
        wrap(adapter, copy.deepcopy(self.model), b_scale=0.5, target_modules=targets, **config)
        self.reference = shelf.path(self.name, [adapter])
        self.pool = AdapterPool(self.model, shelf.registry, base=self.name)

    def merged(self, ids: torch.Tensor = IDS) -> torch.Tensor:
        with self.pool.merged(self.reference):
            found: torch.Tensor = self.model(ids)
        return found

    def refusal(self) -> str:
        with pytest.raises(UsageError) as found, self.pool.use(self.reference):
            self.model(IDS)
        assert found.value.code == "unsupported_model"
        return str(found.value)
