"""A plan of an import: what a heap of folders becomes in a registry. Nothing is changed, here or there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.folders.archives import Opened
from registry.folders.heap.walk import walk_heap
from registry.folders.hub.organisation import hub_heap, organisation_of
from registry.progress import Progress
from registry.schemas.publishing import ImportDocument
from registry.services.importing.entries import Writing
from registry.services.importing.reading import Contents, order_of, read_heap
from registry.services.importing.settle import Settling
from registry.services.importing.settled import Measured, Settled, Side, There

_NO_TIMES: Final = (
    "All files here were written in one go, as by a copy or a clone that kept no times. So nothing tells whether a "
    "folder was overwritten after an adapter had been trained on it: parents that a comparison shows are stated "
    "(compared_untimed), not proven. Copy the heap with its times (cp -a, rsync -t) to have them proven."
)
_MOST_ORDERS: Final = 4
"""Other models that are tried as the first base model, where one that no path explains is near another one."""


def plan_import(
    source: str,
    opened: Opened,
    target: Side,
    private: Callable[[], AbstractContextManager[Side]],
    progress: Progress,
) -> ImportDocument:
    """Say what of a heap can come in, where, with which proof, and what can't and why.

    Args:
        source: the folder or archive that is looked through, or ``hf:ORG``.
        opened: unpacks archives, and reads pickles.
        target: the registry that is imported into, which is only read.
        private: opens an empty registry that is thrown away, in which everything is tried.
        progress: of the search.

    Raises:
        NotFoundError: there is no such folder, or no repository.
        UnavailableError: the registry can't be reached.
    """
    progress.begin("Looking through the folders", 0)
    organisation = organisation_of(source)
    heap = walk_heap(Path(source).absolute(), opened) if organisation is None else hub_heap(organisation, progress)
    contents = read_heap(heap, opened, progress)
    there = There.of(target.registry)
    settled = _settle(contents, target, there, private, progress)
    writing = Writing(heap, contents, settled, there)
    return ImportDocument(
        registry=target.registry.url,
        source=source if heap.root is None else str(heap.root),
        notices=(_NO_TIMES,) if contents.around is not None and contents.around.of_one_moment else (),
        questions=writing.questions,
        entries=tuple(writing.entries()),
    )


def _settle(
    contents: Contents,
    target: Side,
    there: There,
    private: Callable[[], AbstractContextManager[Side]],
    progress: Progress,
) -> Settled:
    """Settle by the likeliest order; where that leaves a model near one that was taken for a base, also from there.

    The one that was taken may be made of the other. What explains most is right: every explanation is a proof.
    """
    likely, measured = order_of(contents.models, contents.adapters), Measured()

    def tried(some: Contents, order: list[str], roots: int | None = None) -> Settled:
        with private() as side:
            return Settling(some, side, target, there, measured, progress).run(order, roots)

    best, asked = tried(contents, likely), set[str]()
    for _ in range(_MOST_ORDERS):
        other = next((one for one in _others(contents, there, best) if one.key not in asked), None)
        if other is None:
            break
        asked.add(other.key)
        above = _above(contents, best, other.taken)
        if not other.explains and not _may_be_merged(above, other):
            continue
        if other.explains or other.taken not in tried(*_first(above, other.key), 1).pending:
            best = max(best, tried(*_first(contents, other.key, likely)), key=lambda one: one.quality)
    return best


@dataclass(frozen=True)
class _Other:
    """A model that may be the base model instead of the one that was taken for it."""

    key: str
    taken: str
    explains: bool  # a trainer left its files with the other alone


def _others(contents: Contents, there: There, found: Settled) -> Iterator[_Other]:
    """Models near one that was only taken for a base model: adapters were trained on them, or that one was trained."""
    taken = {name: key for key, name in found.bases.items() if contents.models[key].repo is None}
    named = {one.model for one in contents.adapters}
    merged = any(one.repo is not None and one.place in found.doubts for one in contents.adapters)
    for key in found.pending:
        compared, model = found.compared.get(key), contents.models[key]
        name = "" if compared is None or compared.nearest is None else compared.nearest.partition("/")[0]
        if model.digest is None or name not in taken.keys() - there.bases.values():
            continue
        explains = contents.models[taken[name]].trained and not model.trained
        if explains or merged or key in named:
            yield _Other(key, taken[name], explains)


def _may_be_merged(above: Contents, other: _Other) -> bool:
    """Whether a model may be another one with adapters: it has that one's norms and biases, as merging leaves them.

    A training of the whole model moves nearly all of them. What is of another dtype shows nothing.
    """
    if not all(one.is_of_pairs for one in above.adapters):
        return True
    one, there = above.models[other.taken].vectors, above.models[other.key].vectors
    same = [one[name] == there[name] for name in one if name in there and one[name][0] == there[name][0]]
    return 2 * sum(same) >= len(same)


def _first(contents: Contents, key: str, order: Iterable[str] = ()) -> tuple[Contents, list[str]]:
    """A heap, and an order of its models in which one is the first."""
    return contents, [key, *(one for one in order or contents.models if one != key)]


def _above(contents: Contents, found: Settled, taken: str) -> Contents:
    """What may be above the model that was taken for a base model, if that is none: what nothing has explained."""
    models = {key: contents.models[key] for key in (*found.pending, taken)}
    on_these = models.keys() - {taken}
    adapters = [one for one in contents.adapters if one.model in on_these or one.repo is not None]
    return Contents(models, adapters, contents.spare, around=contents.around)
