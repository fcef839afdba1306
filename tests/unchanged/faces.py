"""Every name that others rely on, a line each: routes, schemas, commands, settings, errors, tables, files, Python API.

A line is the whole of what it names, so what is changed is a line that is missing and another that is new.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import re
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from unittest import mock

import httpx

import registry
from registry import errors
from registry.settings import SETTINGS
from tests.root import ROOT

PROBLEM: Final = "application/problem+json Problem"
PYTHON: Final = (
    "add_base", "annotate", "artifact", "bases", "close", "copy", "copy_all", "create_token", "delete", "delete_base",
    "delete_tree", "drop_materialisation", "events", "fetch", "fsck", "gc", "log", "materialisations",
    "materialise", "preview", "protect_tag", "publish", "publish_folders", "publish_tree", "rename",
    "rename_base", "resolve", "retable", "retract", "revoke_token", "search", "show", "tag", "tokens", "tree", "untag",
    "url", "verify", "whoami",
)  # fmt: skip
"""The public methods and properties of an open registry."""

Faces = dict[str, list[str]]


def faces(place: Path, url: str) -> Faces:
    """All of them, of the registry in the folder ``place`` that is served at ``url``."""
    with httpx.Client(base_url=url, timeout=120) as client:
        document = client.get("/api/v1/openapi.json").json()
        metrics = client.get("/metrics").text
    found = {
        "routes": _routes(document),
        "schemas": _schemas(document),
        "metrics": (
            found for found in re.findall(r"^# TYPE (\w+ \w+)$", metrics, re.MULTILINE) if "_created " not in found
        ),
        "commands": _commands(),
        "settings": (f"{one.name}: {one.form}; without it {one.default}" for one in SETTINGS.values()),
        "errors": _errors(),
        "python": [*_methods("local", place), *_methods("remote", url)],
        "database": _database(place),
        "files": {_plain(path.relative_to(place).as_posix()) for path in _files(place)},
    }
    return {name: sorted(set(lines)) for name, lines in found.items()}


def _routes(document: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            name = f"{method.upper()} {path}"
            token = "with a token" if "security" in one else "without a token"
            yield f"{name} is {one['operationId']}, {token}, body: {_content(one.get('requestBody', {}))}"
            for parameter in one.get("parameters", ()):
                need = "required" if parameter.get("required") else "optional"
                yield f"{name} takes {parameter['name']} ({parameter['in']}, {need}): {_type(parameter['schema'])}"
            answers = {status: _content(answer) for status, answer in one["responses"].items()}
            refused = sorted(status for status, content in answers.items() if content == PROBLEM)
            yield f"{name} is refused with {' '.join(refused)}"
            yield from (f"{name} answers {status}: {answers[status]}" for status in answers.keys() - set(refused))


def _content(described: Mapping[str, Any]) -> str:
    """Media types and schemas of a body."""
    found = (f"{kind} {_type(of.get('schema', {}))}" for kind, of in described.get("content", {}).items())
    return ", ".join(found) or "none"


def _schemas(document: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in document["components"]["schemas"].items():
        required = schema.get("required", ())
        for key, of in schema.get("properties", {}).items():
            yield f"{name}.{key}: {_type(of)}{', required' if key in required else ''}"
        if "properties" not in schema:
            yield f"{name}: {_type(schema)}"


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in short."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(map(_type, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " | ".join(map(repr, schema.get("enum", [schema.get("const")])))
    kind = str(schema.get("type", "any"))
    inner = schema.get("items" if kind == "array" else "additionalProperties")
    bounds = "".join(
        f" {key}={schema[key]}" for key in ("format", "pattern", "minimum", "maximum", "maxLength") if key in schema
    )
    return kind + (f"[{_type(inner)}]" if isinstance(inner, dict) else "") + bounds


def _commands() -> Iterator[str]:
    """From the help: it lists commands, and options with what they take."""
    rest = ["registry"]
    while rest:
        name = rest.pop()
        text = help_of(name)
        usage, options, below = (_part(text, word) for word in ("Usage: ", "\nOptions:\n", "\nCommands:\n"))
        yield re.sub(r"[{}]", "", " ".join(usage.split()))
        yield from (f"{name}: {option}" for option in re.findall(r"^  (-.*?)(?:  .*)?$", options, re.MULTILINE))
        rest += [f"{name} {word}" for word in re.findall(r"^  ([a-z-]+)", below, re.MULTILINE)]


def _part(text: str, begin: str) -> str:
    """What follows a heading, up to an empty line."""
    return text.partition(begin)[2].partition("\n\n")[0]


def help_of(command: str) -> str:
    """What a command prints with ``--help``."""
    from registry.cli.main import main

    out, threshold = io.StringIO(), gc.get_threshold()
    with (
        mock.patch.object(sys, "argv", [*command.split(), "--help"]),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        main()
    gc.set_threshold(*threshold)
    return out.getvalue()


def _errors() -> Iterator[str]:
    """Codes with their meanings, classes with their codes, and what the page says of exits and statuses.

    `tests.cli.test_docs` shows that the page tells the truth.
    """
    yield from (f"{code}: {meaning}" for code, meaning in errors.CODES.items())
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.RegistryError):
            yield f"{name}({', '.join(base.__name__ for base in kind.__bases__)}) is {kind.default_code}"
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    for name, status, answer in re.findall(r"^\| `(\w+Error)` \| (\d) \| (\d+) \|", page, re.MULTILINE):
        yield f"{name}: exit {status}, HTTP {answer}"
    for code, status in re.findall(r"`(\w+)` (\d+)", page.partition("a status of their own:")[2].partition(".")[0]):
        yield f"{code}: HTTP {status}"
    for code, exits in re.findall(r"^\| `([a-z_]+)` \| ([\d, ]+) \|", page, re.MULTILINE):
        yield f"{code}: exit {exits}"


def _methods(where: str, place: Path | str) -> Iterator[str]:
    """The methods of an open registry, with names and defaults of what they take."""
    with closing(registry.connect(place)) as opened:
        for name in PYTHON:
            method = getattr(opened, name)
            taken = inspect.signature(method).parameters.values() if callable(method) else ()
            yield f"{where}.{name}({', '.join(map(_parameter, taken))})"


def _parameter(one: inspect.Parameter) -> str:
    star = "*" if one.kind is one.KEYWORD_ONLY else ""
    plain = one.default is None or isinstance(one.default, (bool, int, float, str, tuple))
    shown = "" if one.default is one.empty else f"={one.default!r}" if plain else "=..."
    return f"{star}{one.name}{shown}"


def _database(place: Path) -> Iterator[str]:
    (file,) = place.glob("*.db")
    with closing(sqlite3.connect(file)) as connection:
        for kind, sql in connection.execute("SELECT type, sql FROM sqlite_master WHERE sql IS NOT NULL"):
            words = " ".join(sql.split())
            if kind != "table":
                yield words
                continue
            head, _, body = words.partition("(")
            yield from (f"{head.strip()}: {one.strip()}" for one in _columns(body.rpartition(")")[0]))


def _columns(body: str) -> Iterable[str]:
    """The parts of a list that commas part, where no bracket is open."""
    depth, start = 0, 0
    for at, letter in enumerate(body):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            yield body[start:at]
            start = at + 1
    yield body[start:]


def _files(place: Path) -> Iterator[Path]:
    """Without those that SQLite keeps beside a database that is open."""
    return (path for path in place.rglob("*") if path.is_file() and ".db-" not in path.name)


def _plain(path: str) -> str:
    return re.sub(
        r"[0-9a-f]{64}", "DIGEST", re.sub(r"\b[0-9a-f]{2}/", "XX/", re.sub(r"-[0-9a-f]{8}$", "-XXXXXXXX", path))
    )
