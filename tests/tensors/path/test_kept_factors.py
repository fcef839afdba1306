"""Factors of a path between blocks: of one file, or in the memory of a service."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from registry.errors import UnavailableError
from registry.memory import MemoryCache
from registry.tensors.path.slot_values import Factors, KeptFactors, RecentFactors, SharedFactors


class Maker:
    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Factors:
        self.made += 1
        return torch.full((8, 2), float(self.made)), torch.zeros(2, 8)  # 128 bytes


SIZE = 128


@pytest.mark.parametrize("kept", [RecentFactors(), SharedFactors(MemoryCache(10 * SIZE), "plan")])
def test_factors_in_use_are_made_once(kept: KeptFactors) -> None:
    makers = {key: Maker() for key in "abc"}
    for _ in range(5):
        for key, maker in makers.items():
            kept.get(key, maker)
    assert [maker.made for maker in makers.values()] == [1, 1, 1]


def test_plans_do_not_mix_and_openings_of_one_plan_share() -> None:
    memory, maker, other = MemoryCache(10 * SIZE), Maker(), Maker()
    first = SharedFactors(memory, "plan").get("a", maker)
    assert SharedFactors(memory, "plan").get("a", maker) is first
    assert SharedFactors(memory, "another").get("a", other) is not first
    assert (maker.made, other.made) == (1, 1)
    assert memory.use()["factors"].bytes == 2 * SIZE


def test_factors_that_the_memory_does_not_keep_are_not_made_for_each_block() -> None:
    memory, maker = MemoryCache(SIZE), Maker()  # half of it is for factors
    shared = SharedFactors(memory, "plan")
    for _ in range(10):
        shared.get("a", maker)
    assert maker.made == 2
    assert memory.use()["factors"].bytes == 0


def test_whose_own_blobs_are_sound_does_not_fail_with_another() -> None:
    memory, begun, both = MemoryCache(10 * SIZE), threading.Event(), threading.Event()
    failed: list[UnavailableError] = []

    def fail() -> Factors:
        begun.set()
        both.wait(120)
        raise UnavailableError("The blobs were closed.")

    def first() -> None:
        try:
            SharedFactors(memory, "plan").get("a", fail)
        except UnavailableError as error:
            failed.append(error)

    def watch() -> None:
        while memory.use()["factors"].hits == 0:
            time.sleep(0.001)
        both.set()

    threads = [threading.Thread(target=first), threading.Thread(target=watch)]
    threads[0].start()
    assert begun.wait(120)
    threads[1].start()
    made = (torch.zeros(1), torch.zeros(1))
    assert SharedFactors(memory, "plan").get("a", lambda: made) is made
    for thread in threads:
        thread.join()
    assert len(failed) == 1
