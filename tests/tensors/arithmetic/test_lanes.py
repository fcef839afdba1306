"""Lanes compute on one thread each, whatever the caller's setting; results come in order."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future

import pytest
import torch

from registry.tensors.arithmetic.threads import WINDOW, begun_in_order, in_order, run_alone


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


@pytest.mark.parametrize(("weight", "most"), [(0, 6), (WINDOW // 4, 4), (WINDOW // 2 + 1, 1), (2 * WINDOW, 1)])
def test_results_that_wait_are_bounded_by_their_number_and_their_bytes(weight: int, most: int) -> None:
    begun: list[Future[int]] = []

    def begin(pool: Executor, number: int) -> Future[int]:
        begun.append(pool.submit(lambda: number))
        return begun[-1]

    for taken, number in enumerate(begun_in_order(begin, range(50), lanes=3, weigh=lambda _: weight), start=1):
        assert number == taken - 1
        assert len(begun) - taken <= most


def test_what_the_reader_does_not_want_any_more_is_given_up() -> None:
    class Promise:
        given_up = 0

        def result(self) -> int:
            return 1

        def cancel(self) -> None:
            Promise.given_up += 1

    made: list[Promise] = []

    def begin(_pool: Executor, _number: int) -> Promise:
        made.append(Promise())
        return made[-1]

    reader = begun_in_order(begin, range(50), lanes=2)
    next(reader)
    reader.close()  # type: ignore[attr-defined]
    assert Promise.given_up == len(made) == 5
