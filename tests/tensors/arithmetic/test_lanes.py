"""Lanes compute on one thread each, whatever the caller's setting; results come in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from registry.tensors.arithmetic.lanes import in_order, run_alone


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _threads_at_work(_: object) -> int:
    """How many threads torch takes in this thread once it has worked in it: its default comes with the first work."""
    torch.ones(300, 300) @ torch.ones(300, 300)
    return torch.get_num_threads()


@pytest.mark.parametrize("lanes", [1, 3, 5])  # numbers that no other test has made lanes for
def test_a_lane_is_one_thread(lanes: int) -> None:
    for threads in (2, 4, 1):
        torch.set_num_threads(threads)
        assert set(in_order(_threads_at_work, range(8), lanes=lanes)) == {1}
        assert torch.get_num_threads() == threads
    torch.set_num_threads(2)
    assert run_alone(lambda: _threads_at_work(None)) == 1


def test_results_come_in_order() -> None:
    assert list(in_order(lambda number: number * number, range(100), lanes=3)) == [n * n for n in range(100)]


def test_a_fault_reaches_the_reader() -> None:
    def work(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        return number

    with pytest.raises(ValueError, match="five"):
        list(in_order(work, range(100), lanes=2))
