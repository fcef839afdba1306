"""Settings: one table of the environment variables that the registry reads.

They are read at the composition roots only (the command line, `registry.connect`). A ``REGISTRY_*`` variable that is
not in the table is refused, because a misspelt setting that is silently ignored is worse than none.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.errors import UsageError

PREFIX: Final = "REGISTRY_"
_MAX_AUTHOR: Final = 128
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kMGT]i?B|B)?")
_UNITS: Final = {"B": 1} | {
    prefix + suffix: step**power
    for power, prefix in enumerate("kMGT", start=1)
    for suffix, step in (("B", 1000), ("iB", 1024))
}


@dataclass(frozen=True)
class Setting:
    """One environment variable: what it means, how its text is read and what holds without it."""

    name: str
    meaning: str
    form: str  # what a value looks like, for messages and the reference
    default: str  # in words
    parse: Callable[[str], Any]


@dataclass(frozen=True)
class Settings:
    """The values of all settings, parsed and checked; None means that the variable is not set."""

    url: str | None = None
    author: str | None = None
    cache_dir: Path | None = None
    cache_size: int | None = None
    debug: bool = False


def parse_size(text: str) -> int:
    """Bytes of a size such as ``500MB``, ``20GiB`` or ``1048576``; units of 1000 and, with ``i``, of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(text)
    return int(float(match[1]) * _UNITS[match[2] or "B"])


def _parse_switch(text: str) -> bool:
    if text not in {"0", "1"}:
        raise ValueError(text)
    return text == "1"


def _parse_author(text: str) -> str:
    if len(text) > _MAX_AUTHOR or not text.isprintable():
        raise ValueError(text)
    return text


def _parse_folder(text: str) -> Path:
    return Path(text).expanduser()


SETTINGS: Final[dict[str, Setting]] = {
    "url": Setting(
        name="REGISTRY_URL",
        meaning="Where the registry is. The option --url wins over it.",
        form="a folder",
        default="the user's data folder",
        parse=str,
    ),
    "author": Setting(
        name="REGISTRY_AUTHOR",
        meaning="Who publishes: the author of new revisions and the actor in events.",
        form=f"a printable text of at most {_MAX_AUTHOR} characters",
        default="the name of the user who is logged in",
        parse=_parse_author,
    ),
    "cache_dir": Setting(
        name="REGISTRY_CACHE_DIR",
        meaning="Where fetch puts an artifact when no output folder is given.",
        form="a folder",
        default="the user's cache folder",
        parse=_parse_folder,
    ),
    "cache_size": Setting(
        name="REGISTRY_CACHE_SIZE",
        meaning="How many bytes of fetched artifacts the cache keeps; the least recently used go first.",
        form="a size such as 500MB or 20GiB",
        default="20GiB",
        parse=parse_size,
    ),
    "debug": Setting(
        name="REGISTRY_DEBUG",
        meaning="Show the Python traceback of every error on the command line.",
        form="0 or 1",
        default="0",
        parse=_parse_switch,
    ),
}

# Announced for team deployments: a value must not be ignored until they work.
_LATER: Final = frozenset({"REGISTRY_TOKEN", "REGISTRY_DATABASE_URL", "REGISTRY_STORE_URL"})


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read all settings from environment variables; an empty value counts as not set.

    Raises:
        UsageError: a value is malformed, or a ``REGISTRY_*`` variable is not a setting.
    """
    by_name = {setting.name: field for field, setting in SETTINGS.items()}
    values: dict[str, Any] = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or not environ[name]:
            continue
        if name not in by_name:
            raise _unknown(name, list(by_name))
        setting = SETTINGS[by_name[name]]
        try:
            values[by_name[name]] = setting.parse(environ[name])
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"{name} is {environ[name]!r}, but {setting.form} is expected.") from error
    return Settings(**values)


def _unknown(name: str, known: list[str]) -> UsageError:
    if name in _LATER:
        return UsageError(
            f"{name} is set, but registries over HTTP, PostgreSQL or S3 are not supported yet; unset it.",
            code="not_supported_yet",
        )
    near = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(sorted(known))}."
    return UsageError(f"{name} is not a setting of the registry; {advice}")
