"""An adapter that is to be published, wherever its files are, before it is checked."""

from __future__ import annotations

from dataclasses import dataclass

from registry.files.source import ByteSource
from registry.operations.publication import Labels
from registry.reference import Path as TreePath
from registry.schemas import DerivedFrom, FolderCompared, LeftOut
from registry.schemas.around import NoticeCode
from registry.schemas.transfer import GivenReceipt, Origin


@dataclass(frozen=True)
class Said:
    """What the publisher, and the folder that the adapter was trained on, say about the parent."""

    parent: str | None = None
    receipt: GivenReceipt | None = None
    skip_check: bool = False
    nested: bool = False
    compared: FolderCompared | None = None


@dataclass(frozen=True)
class Draft:
    """An adapter to publish; only the header of its weights is read here."""

    path: TreePath
    said: Said
    labels: Labels
    config: bytes
    weights: ByteSource
    left_out: tuple[LeftOut, ...] = ()
    origin: Origin | None = None
    source: str | None = None  # the Hub repository that it was taken from
    derived_from: DerivedFrom | None = None  # by the receipt in its folder
    quantised: str | None = None  # the evidence in its folder that it was trained on quantised weights
    strict: tuple[NoticeCode, ...] = ()  # notices that refuse it
    rebased: bool = False  # the files of a published revision, put on another parent
