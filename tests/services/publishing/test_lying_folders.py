"""200 drawn folders whose truth is known and whose evidence lies: never a wrong parent under a word of proof.

What an adapter was trained on was overwritten, touched, copied, cloned, scaled, renamed, merged in another order or in
memory, or fetched again since. A word that is *proven* has to be right, always. What is *stated* or *assumed* may be
wrong where nothing could show it; and where the truth is there to see, it is found.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry.errors import ConflictError, UsageError
from registry.operations.registry import Registry
from registry.schemas.parents import level_of
from tests.kit.serving import ServedRegistry
from tests.services.publishing.lying_clock import DAY
from tests.services.publishing.lying_folders import HONEST, LIES, TRAINED, Case, Node, World
from tests.services.publishing.parent_house import opened

pytestmark = pytest.mark.usefixtures("real_times")
SLOW, MORE = pytest.mark.slow, pytest.mark.long
WORLDS = 8
OVER_HTTP = (2, 5)
EACH = 25
"""Cases of a world."""
WAYS = ("plain", "searched", "given")
BLIND = {
    "merged in memory", "overwritten, then cloned", "overwritten, then copied", "overwritten by a copy with its times",
    "swapped by renaming", "fetched again, then cloned",
}  # fmt: skip
"""Lies that no file shows for sure: a word that is only stated may be wrong."""
TIMED = set(HONEST) - {"the base model", "copied without times", "cloned"}
"""What holds and has its times: proven, mostly."""
SEARCHED = {"trained on an adapter's folder"}
"""Found by a search only."""
FOUND = 0.95
"""Of what is there to see, how much is proven or stated at least; and how much of what has its times is proven."""


def drawn(seed: int) -> list[str]:
    """The lies of a world, dealt out so that all worlds together go through each five times or more."""
    chance, deck = random.Random(25), list[str]()
    while len(deck) < WORLDS * EACH:
        deck += chance.sample(list(LIES), len(LIES))
    return deck[seed * EACH : (seed + 1) * EACH]


def said(world: World, case: Case, way: str) -> tuple[str | None, str]:
    """The parent that a publish would pin and its exact word; or None and the code of the error."""
    options: dict[str, Any] = {}
    if way == "searched":
        options = {"find_parent": True, "look_in": case.look_in}
    elif way == "given":
        named = [one for one in (case.truth, case.shown) if one is not None and one.path == case.under.path]
        options = {"parent": world.random.choice(named or [case.under]).reference}
    try:
        found = world.registry.preview(case.child, f"{case.under.path}/n{world.count}", **options)
    except (ConflictError, UsageError) as problem:
        return None, problem.code
    return found.parent, found.parent_known_by


def try_world(folder: Path, registry: Registry, seed: int, patch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Try the cases of a world; what came out, by the lie. Raises `AssertionError` at a wrong proof."""
    world, found = World(folder, registry, seed), Counter[tuple[str, str]]()
    for lie in drawn(seed):
        case = world.case(lie)
        for way in WAYS if world.random.random() < 0.3 else WAYS[:2]:
            with world.clock.shown(patch):
                parent, word = said(world, case, way)
            what = outcome(case, parent, word, f"world {seed}, {way}")
            if way != "given" and (way == "searched" or case.lie not in SEARCHED):
                found[lie, what] += 1
    return found


def outcome(case: Case, parent: str | None, word: str, told: str, *, timed: bool = True) -> str:
    """What came of a case; raises `AssertionError` at a wrong proof, and where a word is wrong that need not be."""
    if parent is None:
        return f"refused {word}"
    truth = None if case.truth is None else case.truth.reference
    level = level_of(word)
    told = f"{told}, {case.lie}: {parent} is {word}, and it was {truth} ({case.home})"
    assert parent == truth or level != "proven", told
    if level == "stated" and word != "given" and case.lie not in BLIND and timed:
        assert parent == truth, told
    return f"{'right' if parent == truth else 'wrong'} {level}"


def import_world(folder: Path, registry: Registry, seed: int, patch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """The same of two heaps that are imported, with times and without; what is undecided or refused is not in it."""
    world, found = World(folder, registry, seed), Counter[tuple[str, str]]()
    lies = drawn(seed)
    for kept in (True, False):
        heap = folder / f"heap-{kept}"
        cases = {f"./case-{world.count + 1}/run": world.case(lie, heap) for lie in lies[: EACH // 3]}
        if not kept:
            world.clock.stamp(heap, TRAINED + 90 * DAY)
        with world.clock.shown(patch):
            outcomes = registry.plan_import(heap).apply()
        whole = {
            one.published.revision.reference for one in outcomes if one.published and one.folder.endswith("current")
        }
        for one in outcomes:
            if one.published is not None and one.folder in cases:
                case, revision = cases[one.folder], one.published.revision
                if case.truth is None and revision.parent in whole:  # as the folder is a revision now, by itself
                    case.truth = Node(revision.parent, ())
                where = f"world {seed}, import {'with' if kept else 'without'} times"
                assert kept or level_of(revision.parent_known_by) != "proven", where
                what = outcome(case, revision.parent, revision.parent_known_by, where, timed=kept)
                found[case.lie, what] += 1
    return found


@pytest.mark.long_on("3")
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=MORE if seed > 3 else SLOW) for seed in range(1, WORLDS))]
)
def test_never_a_wrong_proof(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = opened(tmp_path)
    registry = ServedRegistry(local, tmp_path / "client") if seed in OVER_HTTP else local
    with closing(registry):
        found = try_world(tmp_path, registry, seed, monkeypatch)
    assert share(found, set(HONEST), "right proven", "right stated") >= FOUND, found
    assert share(found, TIMED, "right proven") >= FOUND, found


def share(found: Counter[tuple[str, str]], lies: set[str], *wanted: str) -> float:
    """Of the outcomes of these lies, how many are as wanted."""
    every = [(what, count) for (lie, what), count in found.items() if lie in lies]
    return sum(count for what, count in every if what in wanted) / sum(count for _, count in every)


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=MORE) for seed in range(1, WORLDS))])
def test_never_a_wrong_proof_in_an_import(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(opened(tmp_path)) as registry:
        found = import_world(tmp_path, registry, seed, monkeypatch)
    assert sum(count for (_, what), count in found.items() if what in ("right proven", "right stated")) >= 3, found
