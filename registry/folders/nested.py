"""Nested folders of adapters: the nesting is the path below the base model, and parents come before their children.

`registry.folders.scan` decides which files belong to which adapter: a folder that it leaves out as another adapter is a
node here; one that it leaves out for any other reason is not entered, and reported as skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from registry.errors import InvalidAdapterError, RegistryError, UsageError
from registry.figures import command
from registry.folders.foreign import no_folder
from registry.folders.local_files import telling_unreadable, unreadable
from registry.folders.lora_files import is_lora_file
from registry.folders.scan import (
    ADAPTER_CONFIG,
    ANOTHER_ADAPTER,
    ONLY_CHECKPOINTS,
    checkpoints_alone,
    folder_reason,
    holds_weights,
    is_publish_folder,
)
from registry.reference import Path as TreePath
from registry.reference import check_adapter_name
from registry.schemas import LeftOut

NO_ADAPTER: Final = "no adapter in it"
_ITSELF: Final = "an adapter itself, but only folders below the given one are published"


@dataclass(frozen=True)
class Node:
    """A folder to publish, and the path that its place in the nesting means."""

    folder: Path
    place: str  # relative to the given folder, ``/``-separated
    path: TreePath | None  # None: its name, or one above it, is no adapter name
    above: str | None  # place of the parent folder
    problem: RegistryError | None = None  # why it can't be published, as far as names and nesting show
    annotations: Mapping[str, str] = field(default_factory=dict)  # of a checkpoint: its step and epoch
    message: str = ""


@dataclass(frozen=True)
class Nesting:
    """The adapters in a nested folder."""

    nodes: tuple[Node, ...]  # parents before their children
    skipped: tuple[LeftOut, ...]  # folders that were not entered


def nested_adapters(folder: Path, base: str, rename: Mapping[str, str]) -> Nesting:
    """All publish folders below ``folder``, with the problems of their names and places.

    Args:
        folder: the top of the nesting.
        base: the base model that the paths begin with.
        rename: adapter names by place of the folder.

    Raises:
        UsageError: ``base`` is not the name of a base model, or ``rename`` can't be applied.
        NotFoundError: the folder does not exist.
        UnavailableError: it can't be read.
        InvalidAdapterError: ``missing_file`` or ``checkpoint_folders``, it contains no adapter.
    """
    root = TreePath.parse(base)
    if not root.is_base:
        raise UsageError(f"publish -r takes a base model, here {root.base}; the nesting gives the rest of the paths.")
    for name in rename.values():
        check_adapter_name(name)
    walk = _Walk(folder, rename)
    with telling_unreadable(folder):
        if not folder.is_dir():
            raise no_folder(folder)
        nodes = list(walk.below(folder, "", root))
    if unknown := sorted(rename.keys() - {node.place for node in nodes}):
        raise UsageError(
            f"--rename names {unknown[0]!r}, which is not an adapter's folder in {folder}: a path below that folder is "
            "expected, such as support/French."
        )
    if not nodes:
        raise _nothing(folder, base)
    return Nesting(tuple(nodes), tuple(sorted(walk.skipped, key=lambda one: one.path)))


def _nothing(folder: Path, base: str) -> RegistryError:
    if is_publish_folder(folder):
        return InvalidAdapterError(
            f"{folder} is one adapter without nested ones; publish it by its path, without -r: registry publish "
            f"{folder} {base}/NAME.",
            code="missing_file",
        )
    if any(is_lora_file(file) for file in sorted(folder.glob("*.safetensors"))):
        run = command("registry", "publish", "-r", folder, f"{base}/NAME")
        plan = command("registry", "import", folder, "--plan", "FILE")
        return InvalidAdapterError(
            f"{folder} holds LoRA files and no nested adapters. Checkpoints of one training become revisions of one "
            f"adapter: {run}. Files of several are planned first: {plan}.",
            code="missing_file",
        )
    return checkpoints_alone(folder) or InvalidAdapterError(
        f"{folder} contains no folder with {ADAPTER_CONFIG}; folders of adapters, nested as their paths, are expected.",
        code="missing_file",
    )


@dataclass
class _Walk:
    top: Path
    rename: Mapping[str, str]
    skipped: list[LeftOut] = field(default_factory=list)
    taken: dict[TreePath, Path] = field(default_factory=dict)

    def below(self, folder: Path, place: str, path: TreePath | None) -> Iterator[Node]:
        """Adapter folders below a folder, parents before children."""
        is_adapter = is_publish_folder(folder)
        if is_adapter and not place:
            self.skipped.append(LeftOut(path=".", reason=_ITSELF))
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir():
                here = f"{place}/{entry.name}" if place else entry.name
                yield from self._one(Path(entry.path), here, path, part=is_adapter and bool(place))

    def _one(self, folder: Path, place: str, above: TreePath | None, *, part: bool) -> Iterator[Node]:
        """A folder and those below it; ``part``: it lies inside an adapter's folder."""
        try:
            reason = folder_reason(folder)
            alone = reason is None and not part and holds_weights(folder)
        except OSError as problem:
            yield self._node(folder, place, above, unreadable(folder, problem))
            return
        if reason == ANOTHER_ADAPTER:
            node = self._node(folder, place, above, None if is_publish_folder(folder) else _group(folder))
            yield node
            yield from self.below(folder, place, node.path)
        elif reason == ONLY_CHECKPOINTS:
            yield self._node(folder, place, above, checkpoints_alone(folder))
        elif alone:
            yield self._node(folder, place, above, _no_adapter(folder))
        elif reason is not None or not part:
            self.skipped.append(LeftOut(path=place, reason=reason or NO_ADAPTER))

    def _node(self, folder: Path, place: str, above: TreePath | None, problem: RegistryError | None) -> Node:
        outer, _, last = place.rpartition("/")
        path = None
        if above is not None:
            try:
                path = TreePath.parse(f"{above}/{check_adapter_name(self.rename.get(place, last))}")
                other = self.taken.setdefault(path, folder)
                if other != folder:
                    path, problem = (
                        None,
                        problem or UsageError(f"{path} is already the path of {other}: rename one of them."),
                    )
            except UsageError as wrong:
                problem = problem or _bad_name(place, last, wrong)
        return Node(folder, place, path, outer or None, problem)


def _group(folder: Path) -> InvalidAdapterError:
    names: list[str] = []
    with suppress(OSError):  # what can't be read is reported where it is entered
        below = (Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
        names = sorted(one.name for one in below if folder_reason(one) == ANOTHER_ADAPTER)
    listed = f" ({', '.join(names)})" if names else ""
    return InvalidAdapterError(
        f"{folder} contains adapters in folders below it{listed} but no {ADAPTER_CONFIG} itself; every folder on "
        "the way down must be one adapter. Move them up, or publish each by its own path, such as "
        f"{command('registry', 'publish', folder / next(iter(names), 'NAME'), 'PATH')}.",
        code="missing_file",
    )


def _no_adapter(folder: Path) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"{folder} contains weights but no {ADAPTER_CONFIG}: it is not an adapter. Publish a full fine-tune with "
        "`registry publish --full`, or add a model of its own with `registry base add`.",
        code="missing_file",
    )


def _bad_name(place: str, name: str, wrong: UsageError) -> UsageError:
    """The error for an invalid name, with a valid one proposed."""
    proposed = re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9_]+", "-", name.lower())).strip("-_") or "NAME"
    proposed = "NAME" if proposed == name else proposed
    return UsageError(f"{wrong} Give it another one: --rename '{place}={proposed}'.", code=wrong.code)
