"""What lies beside a LoRA file: documents of other programs about it, and pictures that were made with it.

They are found by the file's name: ``NAME.civitai.info``, ``NAME.preview.png``. A document is read and not kept. A
picture is kept as it is: it is recognised by its first bytes and never decoded, and there are bounds on how many and
how large they are. Needs no torch.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.files.source import FileSource
from registry.folders.local_files import read_start, telling_unreadable
from registry.images.about import MOST_DOCUMENT, About, about_lora, read_document
from registry.images.hashes import AUTOV3, AUTOV3_DIGITS, tensors_hash
from registry.images.pictures import START, picture_kind
from registry.schemas import LeftOut

MOST_PICTURES: Final = 16
MOST_PICTURE: Final = 16 << 20
"""Bytes of one."""
_DOCUMENTS: Final = (".json", ".civitai.info", ".metadata.json", ".cm-info.json")
"""What A1111, downloaders from Civitai and managers of models append to the name; the user's own words first."""
_PICTURE: Final = re.compile(r"(\.preview)?(\.\d{1,3})?\.(png|jpg|jpeg|webp)", re.IGNORECASE)


@dataclass(frozen=True)
class LoraFacts:
    """What is known of a LoRA file besides its tensors."""

    about: About
    autov3: str  # in hex digits
    left_out: tuple[LeftOut, ...] = ()  # of what lies beside it

    def annotations(self) -> dict[str, str]:
        """As annotations of a revision."""
        return {**self.about.annotations(), AUTOV3: self.autov3[:AUTOV3_DIGITS]}


def lora_facts(file: Path, name: str, folder: Path) -> LoraFacts:
    """What is known of a LoRA file.

    Args:
        file: its bytes.
        name: what it is called; in a cache of the Hub, the bytes have another name.
        folder: where what is said of it lies.

    Raises:
        InvalidAdapterError: it is damaged.
        UnavailableError: something can't be read.
    """
    stem = _stem(name)
    with telling_unreadable(file), FileSource(file) as source:
        metadata = read_header(source, what=str(file), error=InvalidAdapterError).metadata
        autov3 = tensors_hash(source)
    documents = []
    for ending in _DOCUMENTS:
        place = folder / f"{stem}{ending}"
        with telling_unreadable(place):
            if place.is_file() and not place.is_symlink() and place.stat().st_size <= MOST_DOCUMENT:
                documents.append(read_document(place.read_bytes()))
    return LoraFacts(about_lora(metadata, documents), autov3)


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".safetensors")


def is_beside(name: str, file: str) -> bool:
    """Whether a file of that name is a document about a LoRA file, or a picture of it, by the names alone."""
    stem = _stem(file)
    ending = name[len(stem) :] if name.startswith(stem) else ""
    return ending in _DOCUMENTS or _PICTURE.fullmatch(ending) is not None


def pictures_beside(file: Path) -> tuple[dict[str, Path], tuple[LeftOut, ...]]:
    """The pictures beside a LoRA file by what they are called in a revision, ``previews/1.png``; and those not taken.

    Raises:
        UnavailableError: one can't be read.
    """
    found: dict[str, Path] = {}
    left: list[LeftOut] = []
    folder, stem = file.parent, _stem(file.name)
    with telling_unreadable(folder):
        names = [one.name for one in os.scandir(folder) if one.name.startswith(stem) and one.is_file()]
    for name in sorted(names):
        place = folder / name
        if place.is_symlink() or _PICTURE.fullmatch(name[len(stem) :]) is None:
            continue
        kind = picture_kind(read_start(place, START))
        why = _why_not(place, kind, len(found))
        if why is None:
            found[f"previews/{len(found) + 1}.{kind}"] = place
        else:
            left.append(LeftOut(path=name.encode("utf-8", "backslashreplace").decode(), reason=why))
    return found, tuple(left)


def _why_not(place: Path, kind: str | None, taken: int) -> str | None:
    """Why a picture is not taken; None: it is."""
    with telling_unreadable(place):
        size = place.stat().st_size
    if kind is None:
        return "no picture: it begins like no PNG, JPEG or WebP"
    if size > MOST_PICTURE:
        return f"a picture of more than {MOST_PICTURE >> 20} MiB"
    return f"one of more than {MOST_PICTURES} pictures" if taken >= MOST_PICTURES else None
