"""What users do, at random. What a race may refuse is refused by a `RegistryError` of one of the listed codes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final

from registry.errors import RegistryError
from registry.services.local import LocalRegistry
from tests.trials.scene import NAMES, Scene, some_revision

LOST_RACES: Final = frozenset({"not_found", "has_children", "tagged", "parent_ambiguous", "parent_deleted"})
"""Codes of what another process did first: the revision is gone, or has children, a tag, or no parent."""

Action = Callable[[Scene, LocalRegistry, random.Random], None]


def publish(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    folder, name = draw.choice(scene.adapters), draw.choice(NAMES)
    above = some_revision(registry, draw)
    if above is None or len(above.path.names) > 2 or draw.random() < 0.4:
        path, parent = f"net/{name}", None
    else:
        path, parent = f"{above.path}/{name}", str(above)
    answer = registry.publish(folder, path, parent=parent, message=f"m{draw.random()}")
    scene.note("published", answer.revision.reference)


def tag(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    found = some_revision(registry, draw)
    if found is not None:
        registry.tag(str(found), "prod")


def untag(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    found = some_revision(registry, draw)
    if found is not None:
        registry.untag(str(found.path), "prod")


def delete(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    found = some_revision(registry, draw)
    if found is not None:
        scene.note("deleting", str(found))
        registry.delete(str(found), with_tags=draw.random() < 0.5)
        scene.note("deleted", str(found))


def undo(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    """Give back one that was deleted, which may be collected by now."""
    deleted = scene.noted("deleted")
    if deleted:
        reference = draw.choice(deleted[-5:])
        scene.note("undoing", reference)
        registry.delete(reference, undo=True)


def collect(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    registry.gc()


def materialise(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    found = some_revision(registry, draw)
    if found is not None:
        registry.materialise(str(found), kind=draw.choice(("merged", "lora")))


def fetch(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    """Into one of few folders, so that a killed one is met again."""
    found = some_revision(registry, draw)
    if found is not None:
        out = scene.root / "out" / draw.choice(NAMES)
        registry.fetch(str(found), out, kind=draw.choice(("merged", "lora", "published")), force=True)


ACTIONS: Final[Mapping[Action, int]] = {
    publish: 8,
    tag: 2,
    untag: 1,
    delete: 3,
    undo: 2,
    collect: 2,
    materialise: 1,
    fetch: 3,
}
"""With how often each is drawn."""


def act(scene: Scene, draw: random.Random) -> str:
    """One random action, as a process of its own would do it; what was done."""
    action = draw.choices(list(ACTIONS), list(ACTIONS.values()))[0]
    registry = scene.opened()
    try:
        action(scene, registry, draw)
    except RegistryError as error:
        if error.code not in LOST_RACES:
            raise
    finally:
        registry.close()
    return action.__name__
