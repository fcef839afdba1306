"""Tests in a random order: ``pytest --shuffle`` takes a new seed and names it, ``--shuffle=SEED`` repeats one.

The modules are shuffled, and in each module its tests: what a module shares is then made once, as it is otherwise.

``--third=SEED`` runs the slow tests of a third of the modules that have any: CI's time does not grow with them, and
another commit runs others. By modules too, so that nothing is made for a few of its tests.
"""

from __future__ import annotations

import os
import random
import secrets
from collections import defaultdict
from typing import Final

import pytest

NEW: Final = "new"
VARIABLE: Final = "TESTS_SHUFFLE"


def add_option(parser: pytest.Parser) -> None:
    """``--shuffle[=SEED]`` and ``--third=SEED``."""
    about = "run the modules, and the tests of each, in a random order; SEED repeats one"
    parser.addoption("--shuffle", nargs="?", const=NEW, metavar="SEED", help=about)
    about = "run the slow tests of a third of the modules only; SEED, such as the id of the commit, says of which"
    parser.addoption("--third", metavar="SEED", help=about)


def choose_seed(config: pytest.Config) -> None:
    """Before worker processes start: all of them need the same order, and they have the environment of the first."""
    if config.option.shuffle == NEW:
        config.option.shuffle = os.environ.setdefault(VARIABLE, str(secrets.randbelow(1_000_000)))


def shuffle(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the collected tests in the order of the seed, if there is one."""
    if config.option.shuffle is None:
        return
    order, modules = random.Random(config.option.shuffle), defaultdict(list)
    for item in items:
        modules[item.path].append(item)
    places = list(modules)
    order.shuffle(places)
    for tests in modules.values():
        order.shuffle(tests)
    items[:] = [item for place in places for item in modules[place]]


def thin(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ``--third`` leaves out: the same in every process, and with tests in any order."""
    if config.option.third is None:
        return
    slow = {item.nodeid: item.path for item in items if item.get_closest_marker("slow") is not None}
    modules = sorted({path.relative_to(config.rootpath).as_posix() for path in slow.values()})
    chosen = random.Random(config.option.third).sample(modules, len(modules) * 2 // 3)
    out = {config.rootpath / one for one in chosen}
    left_out = [item for item in items if slow.get(item.nodeid) in out]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if slow.get(item.nodeid) not in out]
