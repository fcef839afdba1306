"""The front matter of a card: YAML between two lines ``---`` at its beginning, as the Hub reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from registry.errors import UsageError
from registry.schemas.form import is_plain

MOST: Final = 64 << 10  # characters of front matter that are read
_DEPTH: Final = 32
_FENCE: Final = "---"
_SCALARS: Final = ("null", "bool", "int", "float", "str")
_Node = yaml.Node

Metadata = dict[str, Any]
"""Front matter as a JSON object."""


class _Malformed(Exception):  # noqa: N818 - it becomes a sentence, or nothing
    """What is wrong, and in which line of the card."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


class _Loader(yaml.SafeLoader):
    """YAML of plain values. An alias is refused: a few lines of them stand for gigabytes."""

    def compose_node(self, parent: _Node | None, index: Any) -> _Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*) is not supported", self.get_mark())
        return super().compose_node(parent, index)


def split(card: str) -> tuple[Metadata, str]:
    """The metadata of a card and the rest of it; none if its front matter is malformed."""
    try:
        found, rest = _divided(card)
        return _parsed(found), rest
    except _Malformed:
        return {}, card


def check(card: str) -> Metadata:
    """The metadata of a card.

    Raises:
        UsageError: its front matter is malformed; names the line.
    """
    try:
        return _parsed(_divided(card)[0])
    except _Malformed as problem:
        raise UsageError(
            f"The front matter of the card is malformed in line {problem.line}: {problem}. YAML such as "
            "'license: mit' is expected there, between two lines '---'."
        ) from problem


def _divided(card: str) -> tuple[str, str]:
    """The YAML of the front matter, empty if it has none, and the text after it."""
    text = card.removeprefix("\ufeff").replace("\r\n", "\n")
    if text.partition("\n")[0].rstrip() != _FENCE:
        return "", text
    lines = text.split("\n")
    end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() == _FENCE), None)
    if end is None:
        raise _Malformed(1, "it begins with '---', and no other line ends it")
    found = "\n".join(lines[1:end])
    if len(found) > MOST:
        raise _Malformed(1, f"it has {len(found)} characters, and at most {MOST} are expected")
    return found, "\n".join(lines[end + 1 :]).lstrip("\n")


def _parsed(text: str) -> Metadata:
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return {} if node is None else _mapping(loader, node)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        raise _Malformed(2 if mark is None else mark.line + 2, problem.problem or "it is no YAML") from problem
    except yaml.reader.ReaderError as problem:
        line = text[: problem.position].count("\n") + 2
        raise _Malformed(line, "it contains a character that YAML does not allow") from problem
    except RecursionError as problem:
        raise _Malformed(2, "it is nested too deeply") from problem
    finally:
        if loader is not None:
            loader.dispose()


def _mapping(loader: _Loader, node: _Node) -> Metadata:
    if not isinstance(node, yaml.MappingNode):
        raise _Malformed(node.start_mark.line + 2, "names with values are expected, as in 'license: mit'")
    found: Metadata = _value(loader, node, 0)
    return found


def _value(loader: _Loader, node: _Node, depth: int) -> Any:
    """A value as JSON has it: dates and the like stay the text that they are."""
    line = node.start_mark.line + 2
    if depth > _DEPTH:
        raise _Malformed(line, "it is nested too deeply")
    if isinstance(node, yaml.MappingNode):
        found = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Malformed(line, "a name is expected before ':'")
            found[_text(key.value, line)] = _value(loader, value, depth + 1)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, one, depth + 1) for one in node.value]
    kind = node.tag.rpartition(":")[2]
    if kind not in _SCALARS:
        return _text(node.value, line)
    try:
        value = loader.construct_object(node)
    except ValueError as problem:
        raise _Malformed(line, f"{node.value[:32]!r} is no number") from problem
    if isinstance(value, float) and not math.isfinite(value):
        raise _Malformed(line, "a finite number is expected")
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise _Malformed(line, "a number of at most 63 bits is expected")
    return _text(value, line) if isinstance(value, str) else value


def _text(value: str, line: int) -> str:
    if not is_plain(value):
        raise _Malformed(line, "it contains a NUL or an invalid character")
    return value


def texts(value: object) -> tuple[str, ...]:
    """A field of metadata that may be one text or several."""
    found = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(one for one in found if isinstance(one, str) and one))


def written(fields: Mapping[str, Any]) -> str:
    """Front matter of some fields in their order, between its fences; those that are None are left out.

    Every text in it is quoted: what a publisher wrote can't add a field, nor end the front matter.
    """
    lines = [line for key, value in fields.items() if value is not None for line in _field(key, value)]
    return "\n".join((_FENCE, *lines, _FENCE))


def _field(key: str, value: object) -> Iterator[str]:
    nested = isinstance(value, dict | list)
    yield f"{key}:" if nested else f"{key}: {_scalar(value)}"
    if isinstance(value, dict):
        yield from ("  " + line for name, one in value.items() for line in _field(name, one))
    elif isinstance(value, list):
        for one in value:
            if isinstance(one, dict):
                lines = [line for name, inner in one.items() for line in _field(name, inner)]
                yield from (("- " if at == 0 else "  ") + line for at, line in enumerate(lines))
            else:
                yield f"- {_scalar(one)}"


def _scalar(value: object) -> str:
    return json.dumps(value) if isinstance(value, int | float) else quoted(str(value))


def quoted(text: str) -> str:
    """A text as YAML in double quotes, which nothing in it can end."""
    found = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(one if one.isprintable() and one != "\ufeff" else f"\\U{ord(one):08x}" for one in found) + '"'
