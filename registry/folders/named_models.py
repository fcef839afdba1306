"""A picture on this machine, and the models that it names: what is asked about them, and what the answers say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from registry.errors import UsageError
from registry.folders.local_files import read_start, telling_unreadable
from registry.images.hashes import NamedModel, named_models
from registry.images.pictures import MOST_PICTURE, START, picture_kind, texts_of
from registry.schemas.parents import HashFound, NamedInPicture

LEAST_DIGITS: Final = 10
"""Of a hash that begins the sha256 of a file, or of its tensors."""


def models_in_picture(file: Path) -> tuple[NamedModel, ...] | None:
    """The models that a picture names; None: the path is that of no picture.

    Raises:
        UsageError: it is too large to be read.
        UnavailableError: it can't be read.
    """
    with telling_unreadable(file):
        if not file.is_file() or picture_kind(read_start(file, START)) is None:
            return None
        if file.stat().st_size > MOST_PICTURE:
            raise UsageError(
                f"{file} is a picture of more than {MOST_PICTURE >> 20} MiB, which is not read: save it smaller, with "
                "its metadata."
            )
    return named_models(texts_of(read_start(file, MOST_PICTURE)))


def asked_hashes(named: Iterable[NamedModel]) -> tuple[str, ...]:
    """The hashes to ask a registry about."""
    return tuple(dict.fromkeys(one.hash for one in named if one.hash is not None and len(one.hash) >= LEAST_DIGITS))


def as_named(named: Iterable[NamedModel], found: Iterable[HashFound]) -> tuple[NamedInPicture, ...]:
    """What a picture names with the answers about the hashes."""
    answers = {one.hash: one for one in found}
    return tuple(
        NamedInPicture(
            kind=one.kind,
            name=one.name,
            hash=one.hash,
            references=() if answer is None else answer.references,
            retracted=() if answer is None else answer.retracted,
            reason=_why_nothing(one, answer),
        )
        for one in named
        for answer in (answers.get(one.hash or ""),)
    )


def _why_nothing(one: NamedModel, answer: HashFound | None) -> str | None:
    if one.hash is None:
        return "it is named without a hash, which proves nothing"
    if len(one.hash) < LEAST_DIGITS:
        return "a hash of 8 digits is of an older kind, which is made of a part of the file and is not looked up here"
    if answer is None or not (answer.references or answer.retracted):
        return "no file here has this hash"
    return None
