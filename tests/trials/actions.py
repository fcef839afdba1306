"""What users do, at random. What a race may refuse is refused by a `RegistryError` of one of the listed codes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path as FilePath
from typing import Final

from registry.digest import sha256_digest
from registry.errors import RegistryError, UsageError
from registry.files.source import FileSource
from registry.folders.scan import ADAPTER_WEIGHTS
from registry.progress import SILENT
from registry.reference import Path
from registry.services.intake.uploads import upload
from registry.services.local import LocalRegistry
from registry.services.pushing.parts import Large, Sent, Spooled
from registry.services.pushing.push import Push, take_push
from registry.services.pushing.repo import PAIR
from tests.trials.scene import FULL, MOVED, NAMES, TO_MOVE, Scene, some_revision

LOST_RACES: Final = frozenset(
    {
        "not_found",
        "has_children",
        "tagged",
        "parent_ambiguous",
        "parent_deleted",
        "lineage_mismatch",
        "upload_incomplete",
        "busy",
        "renamed",
    }
)
"""Codes of what another process did first: the revision or the upload is gone, or has children, a tag, or no parent.

Or it holds a lock for too long, on a busy machine.
"""

Action = Callable[[Scene, LocalRegistry, random.Random], None]


def publish(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    folder, name = draw.choice(scene.adapters), draw.choice(NAMES)
    above = some_revision(registry, draw, adapter=True)
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
    found = some_revision(registry, draw, adapter=True)
    if found is not None:
        registry.materialise(str(found), kind=draw.choice(("merged", "lora")))


def fetch(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    """Into one of few folders, so that a killed one is met again."""
    found = some_revision(registry, draw, adapter=True)
    if found is not None:
        out = scene.root / "out" / draw.choice(NAMES)
        registry.fetch(str(found), out, kind=draw.choice(("merged", "lora", "published")), force=True)


def rename(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    """A new adapter, which gets another name: the old one goes on naming it."""
    name = f"{draw.randrange(1 << 40):x}"
    answer = registry.publish(draw.choice(scene.adapters), TO_MOVE + name, message=name)
    scene.note("published", answer.revision.reference)
    registry.rename(TO_MOVE + name, MOVED.rpartition("/")[2] + name)


def rebase(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    """Put a revision on another revision of its parent, where there is one."""
    found = some_revision(registry, draw, adapter=True)
    if found is None or len(found.path.names) < 3:
        return
    above = registry.log(str(found.path).rpartition("/")[0]).revisions
    try:
        answer = registry.rebase(str(found), draw.choice(above).reference, message=f"m{draw.random()}")
    except UsageError as error:
        if "already" not in str(error):  # it is drawn for the parent that it has
            raise
        return
    if answer.revision is not None:
        scene.note("published", answer.revision.reference)


def combine(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    one, other = (some_revision(registry, draw, adapter=True) for _ in range(2))
    if one is not None and other is not None and one != other:
        weights = {str(one): draw.random(), str(other): draw.random()}
        try:
            answer = registry.combine(weights, f"net/sum-{draw.choice(NAMES)}", over="net")
        except UsageError as error:
            if "give it once" not in str(error):  # the same adapter, drawn twice
                raise
            return
        if answer.revision is not None:
            scene.note("published", answer.revision.reference)


def retain(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    """A rule for an adapter, and a run of it: what it may delete is noted before."""
    found = some_revision(registry, draw)
    if found is None:
        return
    path = str(found.path)
    registry.set_retention(path, keep_last=draw.randrange(1, 4))
    for one in registry.log(path).revisions[1:]:  # the newest stays
        scene.note("deleting", one.reference)
    for reference in registry.run_retention(path).revisions:
        scene.note("deleted", reference)


def publish_full(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    """A full fine-tune, kept exactly."""
    answer = registry.publish(scene.full, f"net/{FULL}{draw.choice(NAMES)}", full=True, message=f"m{draw.random()}")
    scene.note("published", answer.revision.reference)


def densely(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    found = some_revision(registry, draw, adapter=True)
    if found is not None:
        registry.dense_stats(str(found))


def push(scene: Scene, registry: LocalRegistry, draw: random.Random) -> None:
    """As the Hub's clients do: weights by LFS or within the commit, both files in one commit or in two."""
    folder, deployment = draw.choice(scene.adapters), registry.deployment
    files: dict[str, Sent] = {name: _spooled(folder / name) for name in PAIR}
    if draw.random() < 0.5:
        weights = folder / ADAPTER_WEIGHTS
        with closing(FileSource(weights)) as source:
            sent = files[ADAPTER_WEIGHTS]
            upload(deployment, sent.digest, source, SILENT)
            files[ADAPTER_WEIGHTS] = Large(sent.digest, sent.size)
    names = sorted(PAIR, reverse=draw.random() < 0.5)
    path = Path.parse(f"net/pushed-{draw.choice(NAMES)}-{draw.randrange(1 << 40):x}")
    for together in [names] if draw.random() < 0.5 else [names[:1], names[1:]]:
        said = Push(path, f"m{draw.random()}", None, {name: files[name] for name in together})
        try:
            taken = take_push(deployment, said)
        except UsageError as error:
            if "were not uploaded" not in str(error):  # the store has lost them, or another push has taken them
                raise
            return
        if taken.published is not None:
            scene.note("published", taken.published.revision.reference)


def _spooled(file: FilePath) -> Spooled:
    data = file.read_bytes()
    return Spooled(file, len(data), sha256_digest(data))


ACTIONS: Final[Mapping[Action, int]] = {
    publish: 8,
    tag: 2,
    untag: 1,
    delete: 3,
    undo: 2,
    collect: 2,
    materialise: 1,
    fetch: 3,
    rename: 1,
    rebase: 2,
    combine: 2,
    retain: 2,
    publish_full: 1,
    densely: 1,
    push: 3,
}
"""With how often each is drawn."""


def act(scene: Scene, draw: random.Random, refused: frozenset[str] = LOST_RACES) -> str:
    """One random action, as a process of its own would do it; what was done. Codes that are ``refused`` may be."""
    action = draw.choices(list(ACTIONS), list(ACTIONS.values()))[0]
    registry = scene.opened()
    try:
        action(scene, registry, draw)
    except RegistryError as error:
        if error.code not in refused:
            raise
    finally:
        registry.close()
    return action.__name__
