"""A random order can be repeated and keeps modules together; delays change when something happens, and not what."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from tests.conftest import pytest_itemcollected
from tests.kit import delays, order
from tests.kit.servers_service import clean_environ

NAMES = [f"{module}::{test}" for module in "abcde" for test in range(8)]
EXCHANGE = """
import socket, threading
one, other = socket.socketpair()
thread = threading.Thread(target=lambda: [one.sendall(bytes([n])) for n in range(50)] and one.close())
thread.start()
print(list(b"".join(iter(lambda: other.recv(9), b""))) == list(range(50)), hasattr(socket.socket.close, "__closure__"))
thread.join()
other.close()
"""


def shuffled(seed: str | None) -> list[str]:
    items: list[Any] = [SimpleNamespace(path=Path(name[0]), name=name) for name in NAMES]
    config: Any = SimpleNamespace(option=SimpleNamespace(shuffle=seed))
    order.shuffle(config, items)
    return [item.name for item in items]


def test_a_seed_means_an_order() -> None:
    assert shuffled(None) == NAMES
    assert shuffled("1") == shuffled("1") != shuffled("2")
    assert sorted(shuffled("1")) == NAMES
    modules = [name[0] for name in shuffled("1")]
    changes = sum(one != next_one for one, next_one in pairwise(modules))
    assert changes == 4


def thinned(seed: str | None, slow: str) -> tuple[list[str], list[str]]:
    """The names that run, and those that are left out; the last four tests of the ``slow`` modules are slow."""
    items: list[Any] = [
        SimpleNamespace(
            path=Path("/tests", name[0]),
            name=name,
            nodeid=name,
            get_closest_marker=lambda _, slow=name[0] in slow and name[-1] > "3": True if slow else None,
        )
        for name in NAMES
    ]
    config: Any = SimpleNamespace(option=SimpleNamespace(third=seed), rootpath=Path("/tests"), hook=mock.Mock())
    order.thin(config, items)
    calls = config.hook.pytest_deselected.call_args_list
    return [item.name for item in items], [item.name for call in calls for item in call.kwargs["items"]]


def test_a_third_leaves_out_slow_tests_alone_and_of_two_thirds_of_their_modules() -> None:
    assert thinned(None, "abcd") == (NAMES, [])
    runs, left_out = thinned("1", "abcd")
    assert sorted(runs + left_out) == NAMES
    assert all(name[-1] > "3" for name in left_out)
    assert len({name[0] for name in left_out}) == 2
    assert len(left_out) == 8
    assert thinned("1", "") == (NAMES, [])


def test_other_commits_run_the_other_slow_tests() -> None:
    assert thinned("1", "abcd") == thinned("1", "abcd")
    run_by_some = {name for seed in map(str, range(20)) for name in thinned(seed, "abcd")[0]}
    assert run_by_some == set(NAMES)


def test_a_new_seed_is_the_same_in_all_processes_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(order.VARIABLE, "")
    monkeypatch.delenv(order.VARIABLE)
    seeds = []
    for _ in range(2):  # the second process has the environment of the first
        config: Any = SimpleNamespace(option=SimpleNamespace(shuffle=order.NEW))
        order.choose_seed(config)
        seeds.append(config.option.shuffle)
    assert seeds[0] == seeds[1] == os.environ[order.VARIABLE]


def test_a_service_has_the_delays_of_its_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(delays.VARIABLE, "1")
    late = subprocess.run(
        [sys.executable, "-c", EXCHANGE], env=clean_environ({}), check=True, capture_output=True, text=True
    )
    assert late.stdout.split() == ["True", "True"], late.stderr
    monkeypatch.delenv(delays.VARIABLE)
    assert str(delays.LATE) not in clean_environ({})["PYTHONPATH"]


@pytest.mark.parametrize(
    ("name", "some", "is_long"),
    [
        ("test[F16-BF16]", ("F16-BF16",), False),
        ("test[F16-F16]", ("F16-BF16", "F16-F16"), False),
        ("test[F16-F32]", ("F16-F16", "BF16"), True),
        ("test[F16-F32]", ("F32",), False),
    ],
)
def test_some_variants_stand_for_the_others(name: str, some: tuple[str, ...], is_long: bool) -> None:
    item = mock.Mock()
    item.name = name
    item.iter_markers.side_effect = lambda kind: [pytest.mark.long_but(*some).mark] if kind == "long_but" else []
    item.get_closest_marker.return_value = None
    pytest_itemcollected(item)
    assert [call.args for call in item.add_marker.call_args_list] == ([("long",)] if is_long else [])
