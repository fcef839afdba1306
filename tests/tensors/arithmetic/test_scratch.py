"""Memory of a thread that is used again, and never by two at once."""

from __future__ import annotations

import threading

import torch

from registry.tensors.arithmetic.scratch import scratch


def test_the_same_memory_is_given_again_in_any_shape_that_fits() -> None:
    with scratch(16, 8, torch.float32) as first:
        place = first.data_ptr()
        assert (first.shape, first.dtype) == ((16, 8), torch.float32)
    with scratch(4, 8, torch.float64) as second:
        assert second.data_ptr() == place
        assert (second.shape, second.dtype) == ((4, 8), torch.float64)


def test_what_is_in_use_is_not_given_to_another() -> None:
    with scratch(4, 4, torch.float32) as outer:
        outer.fill_(1)
        with scratch(4, 4, torch.float32) as inner:
            inner.fill_(2)
        with scratch(4, 4, torch.float32) as again:
            again.fill_(3)
        assert bool((outer == 1).all())


def test_each_thread_has_its_own() -> None:
    places: list[int] = []

    def work() -> None:
        with scratch(4, 4, torch.float32) as memory:
            places.append(memory.data_ptr())
            barrier.wait()

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(places)) == 2
