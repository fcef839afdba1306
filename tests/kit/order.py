"""Tests in a random order: ``pytest --shuffle`` takes a new seed and names it, ``--shuffle=SEED`` repeats one.

The modules are shuffled, and in each module its tests: what a module shares is then made once, as it is otherwise.
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
    """``--shuffle[=SEED]``."""
    about = "run the modules, and the tests of each, in a random order; SEED repeats one"
    parser.addoption("--shuffle", nargs="?", const=NEW, metavar="SEED", help=about)


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
