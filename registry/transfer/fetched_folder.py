"""A fetched folder: writing it from any source of bytes, and comparing it with its receipt and its artifact.

Needs neither torch nor a database if bytes are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from registry.errors import IntegrityError, InvalidAdapterError, NotFoundError
from registry.files.header import Header, read_model_header
from registry.files.source import FileSource, read_range
from registry.folders.local_files import telling_unreadable
from registry.folders.output import MakeReceipt, absolute, already_there, fetched, file_is_right, fill, may_fill
from registry.folders.receipts import beside
from registry.folders.staging import FetchCache
from registry.folders.writer import Writable
from registry.progress import Progress
from registry.schemas import Fetched, Fidelity, OutputFile, TensorMismatch, Verified
from registry.schemas.artifacts import BesideFile, is_full
from registry.schemas.receipt import Receipt
from registry.transfer.receipt_check import Ours, wrong_fields


def _nothing() -> None:
    """The default `FetchSource.check`: none is needed."""


@dataclass(frozen=True)
class FetchSource:
    """Where the files of a fetch come from."""

    rendering: str
    size: int  # bytes of all files
    receipt: MakeReceipt  # for files that are written now, or were before
    open: Callable[[Path], AbstractContextManager[Writable]]  # given the target folder
    check: Callable[[], None] = _nothing  # called after the last byte was written; raises if the bytes are not right
    words: str = "Writing"  # label of the progress bar
    notices: tuple[str, ...] = ()  # in addition to those of the artifact
    lasting: tuple[str, ...] = ()  # the same, also if nothing had to be written
    resumable: bool = False
    measure: Callable[[], None] | None = None  # if all rows are to be measured: measures those that were not made


def write_artifact(
    source: FetchSource, cache: FetchCache, out: Path | None, *, force: bool, progress: Progress
) -> Fetched:
    """Write an artifact into ``out``, or else the cache's folder for its rendering, unless that holds it already.

    Raises:
        ConflictError: ``folder_taken``, the folder holds something else.
        UnavailableError, NotAllowedError: the file system refused; nothing is left behind.
        What opening or checking the source raises.
    """
    answer = _written(source, cache, out, force=force, progress=progress)
    if source.measure is None or is_full(answer.fidelity):
        return answer
    source.measure()  # the folder had these files already, and the receipt reports less than was requested
    return fetched_before(source, cache, out, progress) or answer


def _written(source: FetchSource, cache: FetchCache, out: Path | None, *, force: bool, progress: Progress) -> Fetched:
    there = fetched_before(source, cache, out, progress)
    if there is not None:
        return there
    place = place_of(source.rendering, cache, out)
    replace = may_fill(place, force=force or out is None)

    def make_receipt(files: tuple[OutputFile, ...]) -> Receipt:
        source.check()
        return source.receipt(files)

    with source.open(place) as files:
        told = _Told(progress, source.words)
        receipt = fill(place, files, make_receipt, replace=replace, progress=told, resumable=source.resumable)
    if out is None:
        cache.shrink(keep=place)
    answer = fetched(receipt, place, fresh=True)
    return answer.model_copy(update={"notices": (*answer.notices, *source.notices, *source.lasting)})


def place_of(rendering: str, cache: FetchCache, out: Path | None) -> Path:
    """The folder of a fetch: ``out``, or else the cache's for the rendering."""
    return cache.place(rendering) if out is None else absolute(out)


def fetched_before(source: FetchSource, cache: FetchCache, out: Path | None, progress: Progress) -> Fetched | None:
    """The answer of `write_artifact` if the folder holds the artifact already; else None, and nothing was done."""
    place = place_of(source.rendering, cache, out)
    there = already_there(place, source.rendering, source.size, source.receipt, progress)
    if there is None:
        return None
    if out is None:
        cache.used(place)
    return there.model_copy(update={"notices": (*there.notices, *source.lasting)})


class _Told:
    """Progress under the source's label."""

    def __init__(self, progress: Progress, words: str) -> None:
        self._progress = progress
        self._words = words

    def begin(self, what: str, total: int) -> None:
        del what
        self._progress.begin(self._words, total)

    def advance(self, amount: int) -> None:
        self._progress.advance(amount)


class Expected(Protocol):
    """A file of the registry's artifact."""

    @property
    def path(self) -> str:
        """Its name, ``/``-separated."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def header(self) -> Header | None:
        """Its tensors, if it is a safetensors file."""

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """The bytes ``start`` to ``stop`` in order."""


class Comparison(Protocol):
    """Whether two renderings of a tensor agree; see `registry.tensors.artifacts.numerics`."""

    @property
    def close(self) -> bool:
        """The verdict."""

    def add(self, ours: memoryview, theirs: bytearray) -> None:
        """Compare the same range of both."""


FOREIGN: Final = "not of this artifact, and programs that load the folder read it"

Compare = Callable[[str], Comparison]
"""Begins the comparison of two tensors of a dtype."""


def check_base(receipt: Receipt, base: str, digest: str) -> None:
    """Check that the registry's base model has the receipt's base weights; raises `NotFoundError`."""
    if digest != receipt.plan.base:
        raise NotFoundError(f"The registry's {base} has other weights than the receipt's base {receipt.plan.base}.")


def check_plan(folder: Path, receipt: Receipt, plan_digest: str) -> None:
    """Check that the registry's plan is the receipt's; raises `IntegrityError` (``verify_failed``)."""
    if plan_digest != receipt.plan_digest:
        raise IntegrityError(
            f"The receipt in {folder} gives the plan {receipt.plan_digest}, but the registry's plan for "
            f"{receipt.reference} is {plan_digest}: the base's files differ, or the receipt was changed.",
            code="verify_failed",
        )


def verified(
    folder: Path,
    receipt: Receipt,
    files: Mapping[str, Expected],
    ours: Ours,
    compare: Compare | None,
    fidelity: Callable[[], Fidelity | None],
    progress: Progress,
) -> Verified:
    """Compare a fetched folder with its receipt and with the registry's artifact for the receipt's plan.

    Args:
        folder: that was fetched.
        receipt: in it.
        files: of the registry's artifact.
        ours: the registry's description of it. Another format writes another README.md, which is held against the
            receipt only.
        compare: for tensors of another arithmetic or format; None: every byte has to be equal.
        fidelity: what the registry measured of the rows that the receipt's figures are of, once all files were read.
        progress: counts bytes.
    """
    own = frozenset(ours.files)
    expected = ours.listed(receipt)
    files = {path: file for path, file in files.items() if path in expected}
    progress.begin("Verifying", 2 * sum(file.size for file in files.values()))
    mismatches = [
        *_against_receipt(folder, receipt, own, progress),
        *_against_artifact(folder, files, compare, progress),
    ]
    with telling_unreadable(folder):
        there = beside(folder, own)
    wrong = (
        *_without_repeats(mismatches),
        *wrong_fields(receipt, ours, fidelity()),
        *(TensorMismatch(file=name, tensor=None, reason=FOREIGN) for name in there.loaded),
    )
    return Verified(
        folder=str(folder),
        reference=ours.plan.reference,
        kind=receipt.kind,
        equal=not wrong,
        exact=compare is None,
        not_exact=None if compare is None else ours.not_exact(receipt),
        files=len(receipt.files),
        mismatches=wrong,
        beside=tuple(BesideFile(path=name, loaded=name in there.loaded) for name in there.names),
    )


def _against_receipt(
    folder: Path, receipt: Receipt, own: Collection[str], progress: Progress
) -> Iterator[TensorMismatch]:
    """Files that differ from the receipt; others that it lists than the artifact's ``own`` are not checked."""
    for file in receipt.files:
        if file.path in own and not file_is_right(folder, file, progress):
            there = (folder / file.path).is_file()
            reason = "not the bytes that were fetched" if there else "the file is missing"
            yield TensorMismatch(file=file.path, tensor=None, reason=reason)


def _against_artifact(
    folder: Path, files: Mapping[str, Expected], compare: Compare | None, progress: Progress
) -> Iterator[TensorMismatch]:
    """Files and tensors that differ from the registry's artifact."""
    for file in files.values():
        try:
            with FileSource(folder / file.path) as source:
                if compare is None or file.header is None:
                    yield from _compare_bytes(file, source, progress)
                else:
                    yield from _compare_tensors(file, file.header, source, compare, progress)
        except FileNotFoundError:
            yield TensorMismatch(file=file.path, tensor=None, reason="the file is missing")


def _compare_bytes(file: Expected, source: FileSource, progress: Progress) -> Iterator[TensorMismatch]:
    if source.size != file.size:
        yield TensorMismatch(file=file.path, tensor=None, reason=f"{source.size} bytes instead of {file.size}")
        return
    at = 0
    seen: set[str | None] = set()
    for chunk in file.chunks():
        found = read_range(source, at, at + len(chunk))
        if found != chunk:
            for tensor in _tensors_that_differ(file.header, at, chunk, found):
                if tensor not in seen:
                    seen.add(tensor)
                    reason = "differs from what the registry computes"
                    yield TensorMismatch(file=file.path, tensor=tensor, reason=reason)
        at += len(chunk)
        progress.advance(len(chunk))


def _tensors_that_differ(header: Header | None, at: int, chunk: memoryview, found: bytearray) -> Iterator[str | None]:
    """Names of the tensors in which a chunk differs; None for the header or a file that has none."""
    if header is None:
        yield None
        return
    end = at + len(chunk)
    if at < header.size and chunk[: header.size - at] != found[: header.size - at]:
        yield None
    for entry in header.entries.values():
        first, last = max(entry.start, at) - at, min(entry.stop, end) - at
        if first < last and chunk[first:last] != found[first:last]:
            yield entry.name


def _compare_tensors(
    file: Expected, expected: Header, source: FileSource, compare: Compare, progress: Progress
) -> Iterator[TensorMismatch]:
    """Compare tensor by tensor, within the rounding of another arithmetic."""
    try:
        header = read_model_header(source, file.path, error=InvalidAdapterError)
    except InvalidAdapterError as problem:
        yield TensorMismatch(file=file.path, tensor=None, reason=str(problem))
        return
    for entry in expected.entries.values():
        found = header.entries.get(entry.name)
        if found is None or (found.dtype, found.shape) != (entry.dtype, entry.shape):
            yield TensorMismatch(file=file.path, tensor=entry.name, reason="missing, or of another dtype or shape")
            continue
        comparison = compare(entry.dtype)
        at = found.start
        for chunk in file.chunks(entry.start, entry.stop):
            comparison.add(chunk, read_range(source, at, at + len(chunk)))
            at += len(chunk)
            progress.advance(len(chunk))
        if not comparison.close:
            reason = "differs by more than rounding on another machine explains"
            yield TensorMismatch(file=file.path, tensor=entry.name, reason=reason)


def _without_repeats(mismatches: Iterable[TensorMismatch]) -> tuple[TensorMismatch, ...]:
    """Drop duplicates, and mismatches of a whole file if some of its tensors are listed."""
    listed = list(mismatches)
    named = {mismatch.file for mismatch in listed if mismatch.tensor is not None}
    kept: dict[tuple[str, str | None], TensorMismatch] = {}
    for mismatch in listed:
        if mismatch.tensor is not None or mismatch.file not in named:
            kept.setdefault((mismatch.file, mismatch.tensor), mismatch)
    return tuple(kept.values())
