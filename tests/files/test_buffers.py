"""Memory that is used again once nobody holds any of it, and never by two at once."""

from __future__ import annotations

import ctypes
import threading

import pytest
import torch

from registry.files import source
from registry.files.source import buffer
from registry.tensors.arithmetic.kernel import scratch

SIZE = 3 << 16  # rounded up to 256 KiB


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for kept in source._free.values():
        kept.clear()


def _place(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 16, (1 << 16) + 1, SIZE, 1 << 23, (1 << 23) + 1])
def test_it_has_the_size_asked_for(size: int) -> None:
    view = buffer(size)
    assert (len(view), view.format, view.readonly) == (size, "B", False)
    view[:] = bytes(size)


def test_memory_comes_again_when_the_last_part_of_it_is_gone() -> None:
    whole = buffer(SIZE)
    place = _place(whole)
    part = torch.frombuffer(whole[64:], dtype=torch.uint8).view(torch.float32).numpy().data
    del whole
    other = buffer(SIZE)
    assert _place(other) != place
    del part
    assert _place(buffer(SIZE - 1)) == place


def test_no_two_have_the_same_memory() -> None:
    for _ in range(3):
        held = [buffer(SIZE) for _ in range(10)]
        assert len({_place(view) for view in held}) == 10
        del held


def test_what_many_let_go_is_not_all_kept() -> None:
    most = source._KEPT >> 20
    held = [buffer(1 << 20) for _ in range(most + 5)]
    del held
    assert len(source._free[20]) == most


def test_it_may_be_let_go_by_another_thread() -> None:
    held = [buffer(SIZE)]
    place = _place(held[0])
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert _place(buffer(SIZE)) == place


def test_tensors_in_it() -> None:
    first = scratch((300, 400), torch.float32)
    assert (first.shape, first.dtype) == ((300, 400), torch.float32)
    place = first.data_ptr()
    row = first[5]
    del first
    assert scratch((300, 400), torch.float32).data_ptr() != place
    del row
    assert scratch((150, 400), torch.float64).data_ptr() == place
    assert scratch((0, 4), torch.float32).shape == (0, 4)
