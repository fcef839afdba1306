"""What a caller gives in Python, checked in process and by a client alike; a refusal is about one argument.

Times may be given as a duration before now, a date, or a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from registry.errors import NotFoundError, UsageError
from registry.figures import command
from registry.schemas import ArtifactKind, Schema
from registry.schemas.labels import ExportCard
from registry.settings import parse_duration


def start_of(given: str | datetime | timedelta) -> datetime:
    """The time in UTC that is meant by ``24h``, ``2026-03-04``, ``2026-03-04T05:06``, or a time or duration of Python.

    What has no zone is UTC, as all times that the registry shows.

    Raises:
        UsageError: it is none of these, or lies outside the years 1 to 9999.
    """
    try:
        if isinstance(given, timedelta):
            return datetime.now(UTC) - given
        found = given if isinstance(given, datetime) else _read(given)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"The time {str(given)!r} is malformed: 24h, 7d, a date such as 2026-03-04, or a time such as "
            "2026-03-04T05:06 is expected."
        ) from None


def _read(text: str) -> datetime:
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError:
        return datetime.fromisoformat(text.strip())


S = TypeVar("S", bound=Schema)


def asked(schema: type[S], given: Mapping[str, object] | None = None, /, **more: object) -> S:
    """The schema of these arguments: all of ``more``, and of ``given``, a method's ``locals()``, every other field.

    So a long signature is written once, by the method: if it lacks a field, that is a `KeyError`.

    Raises:
        UsageError: naming the first that has another type or value.
    """
    if given is not None:
        more = {name: given[name] for name in schema.model_fields if name not in more} | more
    try:
        return schema.model_validate(more, strict=True)  # True is no rank, and "3" none either
    except ValidationError as problem:
        first = problem.errors()[0]
        name = str(first["loc"][0])
        raise UsageError(f"{name} is {more[name]!r}: {first['msg'].lower()}.") from None


_DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}


def dtype_name(given: object) -> object:
    """``"bf16"`` for ``"bfloat16"`` and for torch's ``torch.bfloat16``, and so on; anything else unchanged."""
    return _DTYPES.get(str(given).removeprefix("torch."), given)


def check_limit(limit: int | None) -> int | None:
    """How many items of a list are wanted; None: all. Raises `UsageError` if it is less than one."""
    if limit is not None and limit < 1:
        raise UsageError(f"The limit is {limit}: 1 or more is expected.")
    return limit


def check_undo_alone(**options: bool) -> None:
    """Refuse options that say how to delete if a deletion is undone; raises `UsageError`, naming the first."""
    wrong = next((name for name, given in options.items() if given), None)
    if wrong is not None:
        raise UsageError(f"--undo restores what was deleted; leave out --{wrong.replace('_', '-')}.")


def check_order(
    folder: str | os.PathLike[str], name: str, check: Callable[[str], object], usage: str, first: str
) -> None:
    """Refuse a folder and a name that are interchanged; one that is merely wrong is left to its own check.

    Args:
        folder: the folder, or repository of a Hub, that is to be added or published.
        name: what it is to be called.
        check: raises `UsageError` for what can't be a name.
        usage: the command, with ``{folder}`` and ``{name}``.
        first: what comes first in it.

    Raises:
        UsageError, NotFoundError: with the code that ``name``, or else ``folder``, would get by itself.
    """
    if _is_source(folder) or not _is_source(name):
        return
    from registry.folders.hub.repository import names_a_hub

    given = os.fspath(folder)
    what = "a repository of a Hub" if names_a_hub(name) else "one"
    right = command(*(word.format(folder=name, name=given) for word in usage.split()))
    message = f"There is no folder {given!r}, but {name!r} is {what}: {first} comes first, as in {right}."
    if (wrong := _refused(check, name)) is not None:
        raise UsageError(message, code=wrong.code)
    if _refused(check, given) is None:
        raise NotFoundError(message, code="missing_file")


def _is_source(place: str | os.PathLike[str]) -> bool:
    from registry.folders.hub.repository import names_a_hub

    try:
        return names_a_hub(place) or Path(place).is_dir()
    except OSError:  # what can't be looked at is not known to be one
        return False


def _refused(check: Callable[[str], object], name: str) -> UsageError | None:
    try:
        check(name)
    except UsageError as wrong:
        return wrong
    return None


@dataclass(frozen=True)
class Export:
    """A revision that is to be written as a repository for a Hub."""

    target: str  # a folder, or hf:ORG/REPO
    kind: ArtifactKind
    card: ExportCard
    paths: tuple[str, ...]  # of the lineage, root first, and what these are called besides
    public: bool
    with_names: bool
    dry_run: bool
