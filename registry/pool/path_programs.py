"""What a path makes of the tensors of a running model, without computing any of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from registry.digest import BlobRef
from registry.errors import IntegrityError, UsageError
from registry.operations.transfer import ClosableSource
from registry.pool.checked_base import OpenBase, PoolRegistry
from registry.pool.layout import Layout, Place
from registry.tensors.lineage.bound import bound_links, check_ties_known
from registry.tensors.lineage.inputs import Inputs
from registry.tensors.lineage.paths import LoadedPath
from registry.tensors.lineage.received_bundles import Bundles, check_bundle, path_of
from registry.tensors.path.programs import PathPrograms, Program, path_programs

Key = tuple[tuple[str, str], ...]
"""What was done to a place: the kind of each step, and the digest of the revision that takes it. A revision's digest
pins its ancestors, so that equal keys are equal values."""

BASE: Key = ()


@dataclass(frozen=True)
class Wanted:
    """A path, as changes of places; `close` releases its files."""

    reference: str | None  # None: the base model alone
    programs: Mapping[Place, tuple[Key, Program]] = field(default_factory=dict)  # what is not as in the base
    apart: frozenset[str] = frozenset()  # names that share a tensor in the base, and here have one of their own
    opened: ExitStack = field(default_factory=ExitStack)

    def key(self, place: Place) -> Key:
        """What the path does to a place."""
        return self.programs[place][0] if place in self.programs else BASE

    def close(self) -> None:
        """Release the files of its adapters."""
        self.opened.close()


@dataclass(frozen=True)
class _Blobs:
    """Blobs of a path: those of the base model are open already."""

    base: OpenBase
    links: Bundles

    def open_blob(self, blob: BlobRef) -> ClosableSource:
        of_base = self.base.path.base
        mine = {one.digest for one in (*of_base.files, of_base.index, of_base.table)}
        return (self.base.blobs if blob.digest in mine else self.links).open_blob(blob)


@dataclass(frozen=True)
class AskedPath:
    """What a reference names now, and nothing read of it yet."""

    pinned: str  # PATH@N, or the base model's name
    digest: str  # of the revision, which pins all that it stands on; or of the base model
    is_base: bool

    @property
    def reference(self) -> str | None:
        """The revision, ``PATH@N``; None: the base model alone."""
        return None if self.is_base else self.pinned


def asked(registry: PoolRegistry, ref: str, base: OpenBase) -> AskedPath:
    """What a reference names, a tag being resolved now.

    Raises:
        NotFoundError, RetractedError: it names nothing that may be used.
        IntegrityError: ``wrong_base``: it belongs to another base model.
    """
    found = registry.resolve(ref)
    if any(link.retracted for link in found.lineage):
        registry.bundle(ref)  # refuses it, with who retracted it and why
    if found.base_digest != base.path.base.digest:
        raise IntegrityError(
            f"{found.reference} belongs to the base model {found.base}, and the model in the pool is {base.name}; "
            "load that base model, and make a pool of it.",
            code="wrong_base",
        )
    return AskedPath(found.reference, found.digest, is_base=len(found.lineage) == 1)


def wanted(registry: PoolRegistry, named: AskedPath, base: OpenBase, layout: Layout) -> Wanted:
    """What a path means for a running model.

    Raises:
        RetractedError: it has been retracted meanwhile.
        InvalidAdapterError: a link is invalid by the rules of this version, or parts a tie that can't be parted.
        UsageError: ``unsupported_model``: the model lacks a head that the path has.
    """
    bundle = registry.bundle(named.pinned)
    path = path_of(bundle)
    with ExitStack() as opened:
        links = opened.enter_context(closing(Bundles(registry.open_blob)))
        links.take(bundle)
        blobs = _Blobs(base, links)
        check_bundle(bundle, path, blobs)
        inputs = Inputs(blobs, path, opened)
        programs = path_programs(bound_links(inputs, path.links), inputs.table)
        check_ties_known(programs, inputs.table, path)
        changes, apart = dict(_changes(programs, path, layout)), frozenset(_apart(programs, layout))
        return Wanted(named.reference, changes, apart, opened.pop_all())


def _changes(programs: PathPrograms, path: LoadedPath, layout: Layout) -> Iterator[tuple[Place, tuple[Key, Program]]]:
    placed = set()
    for tensor in layout.values():
        for place in tensor.places:
            program = programs.programs.get(place.slot)
            if program is not None and (program.origin is None) == (place.origin is None):
                placed.add(place.slot)
                key = tuple((type(step).__name__, path.links[step.link].digest) for step in program.steps)
                if key:
                    yield place, (key, program)
    for slot, program in programs.programs.items():
        if program.origin is None and slot not in placed:
            held = layout.get(slot.tensor)
            other = "does not have" if held is None else f"has in the shape {list(held.get().shape)}"
            shape = list(programs.new[slot.tensor].shape)
            raise UsageError(
                f"{path.reference} brings {slot.tensor!r} of shape {shape}, which the model {other}: load the model "
                "with the class and the number of labels that the adapter was trained with.",
                code="unsupported_model",
            )


def _apart(programs: PathPrograms, layout: Layout) -> Iterator[str]:
    for tensor in layout.values():
        if tensor.module in programs.untied and tensor.name != tensor.first:
            yield tensor.name
