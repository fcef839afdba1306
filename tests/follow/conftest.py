"""A registry with two revisions of some adapters, and a follower into a folder that remembers its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from registry.errors import RegistryError
from registry.folders.receipts import read_receipt
from registry.follow.folder import FolderSink
from registry.follow.rounds import Follower
from registry.follow.sinks import Sink
from registry.operations.registry import Registry
from registry.schemas.followed import Step
from registry.services.local import LocalRegistry
from tests.kit import Base, plain_base, write_adapter

PATHS = ("net/top", "net/top/one", "net/other")


@dataclass
class Following:
    """A follower and what it told; ``clock`` is its time. It follows into the folder ``room``, or into a sink."""

    registry: Registry
    room: Path
    names: tuple[str, ...] = ("net/*@prod",)
    options: dict[str, Any] = field(default_factory=dict)
    clock: float = 1e9
    steps: list[Step] = field(default_factory=list)
    into: Sink | None = None

    def __post_init__(self) -> None:
        self.sink = self.into or FolderSink(str(self.room))
        self.follower = Follower(
            self.registry, self.names, self.sink, self.steps.append, now=lambda: self.clock, **self.options
        )

    def round(self) -> list[str]:
        """What one round told, as ``switched net/top@prod``; it was alone in the folder."""
        self.steps.clear()
        with self.sink.opened():
            self.problems: list[RegistryError] = self.follower.round()
        return [f"{step.does} {step.name or step.reference or step.code}" for step in self.steps]

    def leads(self) -> dict[str, str]:
        """Each name with the revision whose receipt the folder has that it leads to."""
        links = {place.name: place for place in self.room.iterdir() if not place.name.startswith(".")}
        return {name: read_receipt(place).reference for name, place in links.items()}


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return plain_base(tmp_path / "base", {"a.weight": (24, 16)})


@pytest.fixture
def registry(base: Base, tmp_path: Path) -> Iterator[LocalRegistry]:
    """Two revisions of each path, of which ``prod`` names the first one."""
    made = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")
    made.add_base("net", base.folder)
    for seed, path in enumerate(PATHS):
        above = path.rpartition("/")[0]
        for turn in range(2):
            folder = write_adapter(tmp_path / f"{seed}-{turn}", base, ["a"], r=2, seed=2 * seed + turn)
            made.publish(folder, path, parent=above if above == "net" else f"{above}@1")
        made.tag(f"{path}@1", "prod")
    yield made
    made.close()


@pytest.fixture
def following(registry: LocalRegistry, tmp_path: Path) -> Following:
    return Following(registry, tmp_path / "served")
