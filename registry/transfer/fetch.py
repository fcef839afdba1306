"""Writing a fetched artifact into its folder, from any source of bytes. Needs neither torch nor a database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from registry.folders.cache import FetchCache
from registry.folders.output import MakeReceipt, absolute, already_there, fetched, fill, may_fill
from registry.folders.writer import Writable
from registry.progress import Progress
from registry.schemas import Fetched, OutputFile
from registry.schemas.artifacts import is_full
from registry.schemas.receipt import Receipt


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
    lasting: tuple[str, ...] = ()  # the same, also where nothing had to be written
    resumable: bool = False
    measure: Callable[[], None] | None = None  # where all rows are to be measured: does so with what was not made


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
    source.measure()  # the folder had these files already, and the receipt says less than was asked for
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
    """The answer of `write_artifact` where the folder holds the artifact already; else None, and nothing was done."""
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
