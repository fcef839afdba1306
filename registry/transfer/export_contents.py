"""The files of an export, made of those of an artifact: which go out, and what is changed in them.

Weights go out as they are. Configurations lose the places that they name, which are of this machine or of the views.
An export without names must hold no name of its path: they may be those of customers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from registry.errors import ConflictError
from registry.folders.base_files import is_definition, is_template, is_tokenizer
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, README
from registry.schemas import ArtifactKind, LeftOut
from registry.schemas.artifacts import KINDS
from registry.schemas.labels import ExportCard
from registry.transfer.model_files import CONFIG

_BEFORE = r"(?:(?<![a-z0-9])|(?<=\\[bfnrt])|(?<=\\u[0-9a-f]{4}))"
"""A word begins after what is no letter; JSON and templates write some of that with letters, such as ``\\n``."""
_LONG = 3
"""A name of so many letters is searched inside words, too; a shorter one would be in every other word."""


@dataclass(frozen=True)
class Hidden:
    """The names of some paths. False: nothing is hidden."""

    names: frozenset[str] = frozenset()  # of the base model and of adapters
    adapters: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()  # two names or more, as paths and repo ids have them

    @classmethod
    def of(cls, paths: Iterable[str]) -> Hidden:
        """Those of some paths, ``BASE/name/name``, and of what is above them."""
        split = [path.split("/") for path in paths]
        whole = set()
        for parts in split:
            for start in range(len(parts)):
                for end in range(start + 2, len(parts) + 1):
                    first, *rest = parts[start:end]
                    whole |= {"/".join((first, *rest)), f"{first}/{'.'.join(rest)}", ".".join((first, *rest))}
        adapters = frozenset(part for parts in split for part in parts[1:])
        return cls(adapters | {parts[0] for parts in split}, adapters, frozenset(whole))

    def __bool__(self) -> bool:
        return bool(self.names)

    def in_text(self, text: str) -> bool:
        """Whether a short text that somebody wrote, such as the name of a metric, holds a name."""
        found = text.lower()
        return any(name in found if len(name) >= _LONG else _is_word(name, found) for name in self.names)

    def path_in(self, text: str) -> str | None:
        """A path, or a part of one, that a text holds."""
        found = text.lower().replace("\\/", "/")  # as some programs write JSON
        return next((one for one in sorted(self.whole) if one in found and _is_word(one, found)), None)

    def word_in(self, text: str) -> str | None:
        """The name of an adapter that a text holds as a word."""
        found = text.lower()
        return next((one for one in sorted(self.adapters) if one in found and _is_word(one, found)), None)


def _is_word(name: str, text: str) -> bool:
    return re.search(rf"{_BEFORE}{re.escape(name)}(?![a-z0-9])", text) is not None


_PLACES: Final = ("_name_or_path", "name_or_path", "tokenizer_file", "special_tokens_map_file")
"""Fields in which transformers stores the folder that a model or a tokenizer was loaded from."""
_WITH_PLACES: Final = frozenset({CONFIG, "tokenizer_config.json"})
_USUAL: Final = frozenset(("format", name) for name in ("pt", "tf", "flax", "np", "mlx"))
"""Values that every program that writes weights puts into their metadata; an adapter may well be called ``pt``."""
_MOST_DOCUMENT: Final = 256 << 20
_MOST_HEADER: Final = 100 << 20
_LENGTH: Final = 8
_BY_USERS = "its content may name anything: only PEFT's files and the tokenizer go out without --with-names"


class Readable(Protocol):
    """A file of an artifact, or of a folder with one."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``start`` to ``stop``."""


@dataclass(frozen=True)
class Contents:
    """What goes out: files as they are (None), or the bytes that are written in their place."""

    files: Mapping[str, bytes | None]
    left_out: tuple[LeftOut, ...]
    notices: tuple[str, ...]


def contents_of(files: Mapping[str, Readable], kind: ArtifactKind, card: ExportCard, hidden: Hidden) -> Contents:
    """The contents of an export, README.md included, without the receipt.

    Raises:
        ConflictError: ``names_inside``, a file holds a path that is hidden.
    """
    taken: dict[str, bytes | None] = {}
    left_out: list[LeftOut] = []
    notices: list[str] = []
    for path, file in sorted(files.items()):
        if path == README:
            continue
        if (reason := _reason(path, kind, hidden)) is not None:
            left_out.append(LeftOut(path=path, reason=reason))
            continue
        taken[path] = _changed(path, file, card)
        if hidden:
            notices += _check(path, file, taken[path], hidden)
    text = card.text.encode("utf-8")
    return Contents({README: text, **taken}, tuple(left_out), tuple(notices))


def _reason(path: str, kind: ArtifactKind, hidden: Hidden) -> str | None:
    """Why a file is left out; None if it goes out."""
    if not hidden or (KINDS[kind].is_model and not is_template(path)):
        return None
    if "/" in path and hidden.word_in(path) is not None:
        return "its name holds a name of the path"
    return None if path in {ADAPTER_CONFIG, ADAPTER_WEIGHTS} or is_tokenizer(path) else _BY_USERS


def _changed(path: str, file: Readable, card: ExportCard) -> bytes | None:
    if path == ADAPTER_CONFIG:
        return _edited(file, lambda document: _loaded_on(document, card.loads_on))
    if path in _WITH_PLACES:
        return _edited(file, _without_places)
    return None


def _edited(file: Readable, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes | None:
    """A document with other fields; None: nothing is changed, or it is no document that programs read."""
    try:
        document = json.loads(file.read(0, None))
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    edited = edit(document)
    return None if edited == document else _json(edited)


def _json(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # half a surrogate pair, which UTF-8 has not, as JSON escapes it


def _loaded_on(document: dict[str, Any], name: str | None) -> dict[str, Any]:
    """An adapter's configuration that names this model: what it was trained on by, others don't have."""
    if document.get("base_model_name_or_path") == name:
        return document
    return {**document, "base_model_name_or_path": name, "revision": None}


def _without_places(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in _PLACES}


def _check(path: str, file: Readable, changed: bytes | None, hidden: Hidden) -> Iterator[str]:
    """Search a file for names; returns notices.

    Raises:
        ConflictError: ``names_inside``.
    """
    weights = path.endswith(".safetensors")
    text = _metadata(file) if weights else _text(file, changed)
    found = hidden.path_in(text) or (hidden.word_in(text) if weights else None)
    if found is not None:
        where = f"The metadata of {path}" if weights else path
        raise ConflictError(
            f"{where} holds {found!r}, a name of the path, which stays in the registry: publish the adapter without "
            "it, export it in another form (--as lora), or let all names go out with --with-names.",
            code="names_inside",
        )
    if not weights and not is_definition(path) and (word := hidden.word_in(text)) is not None:
        yield f"{path} has the word {word!r}, which is also a name of the path: read it before others do."


def _text(file: Readable, changed: bytes | None) -> str:
    data = file.read(0, min(file.size, _MOST_DOCUMENT)) if changed is None else changed
    return data.decode("utf-8", "replace")


def _metadata(file: Readable) -> str:
    """The metadata of a safetensors file, as JSON."""
    length = int.from_bytes(file.read(0, _LENGTH), "little")
    header = json.loads(file.read(_LENGTH, _LENGTH + min(length, _MOST_HEADER)))
    words = header.get("__metadata__", {})
    kept = {key: value for key, value in words.items() if (key, value) not in _USUAL}
    return json.dumps(kept, ensure_ascii=False)
