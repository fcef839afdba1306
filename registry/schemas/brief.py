"""A schema as Python shows it: the fields that say something, each in a few words, on one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from pydantic import BaseModel

from registry.digest import is_digest
from registry.figures import counted, moment, short_digest

_MOST: Final = 240  # characters
_ITEMS: Final = 3  # of a list, if they are texts
_TEXT: Final = 60  # characters


def brief(model: BaseModel) -> str:
    """``Tagged(path='llama/support', tag='prod', ...)``, without what is empty, a default, or not to be shown."""
    words: list[str] = []
    room = _MOST - len(type(model).__name__)
    for name, text in _fields(model):
        room -= len(name) + len(text)
        if room < 0 and words:
            words.append("...")
            break
        words.append(f"{name}={text}")
    return f"{type(model).__name__}({', '.join(words)})"


def _fields(model: BaseModel) -> Iterator[tuple[str, str]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        empty = value is None or (isinstance(value, (str, Sequence, Mapping)) and not value)
        if field.repr and not empty and not (not field.is_required() and value == field.default):
            yield name, _in_words(value)


def _in_words(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, datetime):
        return f"'{moment(value)} UTC'"
    if isinstance(value, Mapping):
        return f"({counted(len(value), 'entry', 'entries')})" if len(value) > _ITEMS else repr(dict(value))
    if isinstance(value, Sequence):
        return _list(value)
    return repr(value)


def _text(value: str) -> str:
    if is_digest(value):
        return f"'sha256:{short_digest(value)}...'"
    return repr(value if len(value) <= _TEXT else f"{value[:_TEXT]}...")


def _list(value: Sequence[object]) -> str:
    texts = [_text(item) for item in value if isinstance(item, str)]
    if len(value) > _ITEMS or len(texts) < len(value):
        return f"({counted(len(value), 'item')})"
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"
