from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.kit.shelf import shelf

__all__ = ["shelf"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
