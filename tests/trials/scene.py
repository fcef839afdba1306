"""What a trial works on: a registry in a folder or of a team, adapters to publish, and a journal of what was answered.

The journal is what users were told. `Scene.check` holds the registry against it: nothing acknowledged is lost, nothing
deleted comes back, no number is given twice, and every byte is there.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.reference import Reference
from registry.services.local import LocalRegistry
from registry.storage.s3 import S3Driver
from tests.kit import plain_base, write_adapter
from tests.kit.fine_tunes import fine_tuned

NAMES = ("red", "green", "blue")
SHAPES = {"a.weight": (24, 16), "b.weight": (300, 256)}
ADAPTERS = 6
TO_MOVE, MOVED = "net/to-move-", "net/moved-"  # begin paths of adapters that are renamed, before and after
FULL = "full-"  # begins the names of full fine-tunes, of which no adapter is made
GRACE = 0.5  # seconds: collections in a trial find something


@dataclass(frozen=True)
class Team:
    """A database and a bucket; the settings of AWS's clients stand in the environment."""

    database: str
    store: str


@dataclass(frozen=True)
class Scene:
    """A registry under ``root``, or a ``team``'s, with the base model ``net``."""

    root: Path
    adapters: tuple[Path, ...]
    full: Path  # a full fine-tune of the base model
    team: Team | None = None

    @classmethod
    def made(cls, root: Path, team: Team | None = None) -> Scene:
        base = plain_base(root / "base", SHAPES)
        full = fine_tuned(root / "full", base, frozen=()).folder
        with_b = [write_adapter(root / f"adapter-{seed}", base, ["a", "b"], r=2, seed=seed) for seed in range(ADAPTERS)]
        scene = cls(root, tuple(with_b), full, team)
        registry = scene.opened()
        registry.add_base("net", base.folder)
        registry.close()
        return scene

    def opened(self) -> LocalRegistry:
        if self.team is None:
            return LocalRegistry.open(self.root / "registry", cache_folder=self.root / "cache", gc_grace=GRACE)
        store = S3Driver(self.team.store)
        return LocalRegistry.of(self.team.database, store, cache_folder=self.root / "cache", gc_grace=GRACE)

    def note(self, what: str, reference: str) -> None:
        """Append to the journal: one write, so that lines of several processes don't mix."""
        line = json.dumps([what, reference]) + "\n"
        handle = os.open(self.root / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def noted(self, what: str) -> list[str]:
        """References of one kind of line, in order."""
        journal = self.root / "journal"
        lines = journal.read_text().splitlines() if journal.is_file() else []
        return [reference for kind, reference in map(json.loads, lines) if kind == what]

    def check(self) -> None:
        """Hold the registry against the journal."""
        registry = self.opened()
        try:
            live = _live(registry)
            told = set(self.noted("published"))
            ended = set(self.noted("deleting"))
            for reference in sorted(told - ended - live):
                assert now_called(reference) in ended | live, reference
            back = set(self.noted("deleted")) & live - set(self.noted("undoing"))
            assert not back, sorted(back)
            for reference in sorted(live):
                shown = registry.show(reference)
                assert all(link.number is None or link.reference in live for link in shown.lineage), reference
            # An event is written with the change itself: two of the same reference are one number given twice.
            given = Counter(one.subject for one in registry.events(limit=100_000) if one.action == "publish")
            assert max(given.values(), default=1) == 1, given.most_common(3)
            assert {one for one in live if not one.startswith(MOVED)} <= set(given)
            checked = registry.fsck(deep=True)
            assert checked.damage == (), checked.damage
        finally:
            registry.close()


def now_called(reference: str) -> str:
    """Of what was renamed, or below that, the new name."""
    return MOVED + reference.removeprefix(TO_MOVE) if reference.startswith(TO_MOVE) else reference


def _live(registry: LocalRegistry) -> set[str]:
    return {row.reference for adapter in _paths(registry) for row in registry.log(adapter).revisions}


def _paths(registry: LocalRegistry) -> Sequence[str]:
    return sorted({row.path for row in registry.search().revisions})


def some_revision(registry: LocalRegistry, draw: random.Random, *, adapter: bool = False) -> Reference | None:
    """Any revision that is there now; None: none is. An ``adapter`` is no full fine-tune."""
    found = sorted(one for one in _live(registry) if not adapter or f"/{FULL}" not in one)
    return Reference.parse(draw.choice(found)) if found else None
