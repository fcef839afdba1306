"""The other orders in which the links of a path may have been merged: equal in real numbers, with other roundings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Final

from registry.tensors.path.programs import PathPrograms, Program
from registry.tensors.path.steps import Add

_ALL: Final = 4  # links of which all orders are tried; of more, only those next to the path's own, and its reverse


@dataclass(frozen=True)
class Order:
    """One order of the links of a path."""

    links: tuple[int, ...]  # their numbers, as they were merged
    programs: PathPrograms


def other_orders(programs: PathPrograms, links: int) -> Iterator[Order]:
    """The other orders of a path of so many links that may give other bits; none where its links don't only add."""
    if any(not isinstance(step, Add) for program in programs.programs.values() for step in program.steps):
        return
    seen = [programs.programs]
    for order in _orders(links):
        turned = {slot: _turned(program, order) for slot, program in programs.programs.items()}
        if turned not in seen:
            seen.append(turned)
            followers = {slot: _turned(program, order) for slot, program in programs.followers.items()}
            yield Order(order, replace(programs, programs=turned, followers=followers))


def _turned(program: Program, order: Sequence[int]) -> Program:
    if len(program.steps) < 2:
        return program
    return replace(program, steps=tuple(sorted(program.steps, key=lambda step: order.index(step.link))))


def _orders(links: int) -> Iterator[tuple[int, ...]]:
    own = tuple(range(links))
    if links <= _ALL:
        yield from (order for order in permutations(own) if order != own)
        return
    for at in range(links - 1):
        yield (*own[:at], at + 1, at, *own[at + 2 :])
    yield own[::-1]
