"""What a publish is asked for, checked as far as its words alone can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path as FilePath

from registry.errors import UsageError
from registry.reference import Path, check_tag
from registry.schemas.around import NOTICE_CODES, NoticeCode
from registry.schemas.texts import check_annotations, check_metrics, check_text


@dataclass(frozen=True)
class Labels:
    """What is said about a revision: not part of its digest, and free to change later."""

    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def checked(
        cls, message: str, metrics: Mapping[str, float], tags: Iterable[str], annotations: Mapping[str, str]
    ) -> Labels:
        """Labels that can be kept; raises `UsageError` naming what can't."""
        return cls(
            check_text("The message", message),
            check_metrics(metrics),
            tuple(check_tag(tag) for tag in tags),
            check_annotations(annotations),
        )


@dataclass(frozen=True)
class Publication:
    """An adapter's folder, or its repository of a Hub, and the path whose next revision it is to be."""

    folder: str | PathLike[str]
    path: Path
    labels: Labels
    parent: str | None
    receipt: FilePath | None
    skip_parent_check: bool
    strict: tuple[NoticeCode, ...] = ()  # notices that refuse it


def strict_codes(strict: bool | Iterable[str]) -> tuple[NoticeCode, ...]:
    """The codes of notices that refuse a publish; True: all.

    Raises:
        UsageError: there is no such code.
    """
    if isinstance(strict, bool):
        return NOTICE_CODES if strict else ()
    given = (strict,) if isinstance(strict, str) else tuple(strict)
    unknown = [code for code in given if code not in NOTICE_CODES]
    if unknown:
        raise UsageError(
            f"There is no notice {unknown[0]!r} that a publish could be strict about. There are: "
            f"{', '.join(NOTICE_CODES)}."
        )
    return tuple(code for code in NOTICE_CODES if code in given)
