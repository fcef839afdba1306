"""Completion in a shell: the names of base models, adapters and tags in the registry in use.

A shell waits for the answer, so it comes within a bounded time, from a recent cache file if one exists, and
where anything goes wrong nothing is completed and nothing is printed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from registry.operations.registry import Registry
    from registry.schemas import TreeNode

VARIABLES: Final = ("_REGISTRY_COMPLETE", "_ADAPTER_REGISTRY_COMPLETE")
"""Set by the shell's script, for either name of the command, when it asks for completions."""

_WAIT: Final = 2.0
_FRESH: Final = 20.0
_STALE: Final = 600.0
"""Seconds: for an answer; how long one is used again; and how long it stands in for one that does not come."""
_REVISIONS: Final = 1000
"""Newest revisions of an adapter, whose tags are completed."""
_NUMBERS: Final = 10
"""Newest numbers that are completed."""


def complete(command: Any, environ: Mapping[str, str]) -> int:
    """Answer the shell's question that is in the environment, on stdout; returns the exit code.

    Args:
        command: the command tree, which knows the commands and their options.
        environ: has one of `VARIABLES`, and what the shell's script adds.
    """
    variable = next(name for name in VARIABLES if name in environ)
    prefix = _joined_words() if environ[variable] == "complete_bash" else ""
    answer, ended = io.StringIO(), 0
    try:
        with redirect_stdout(answer), redirect_stderr(io.StringIO()):
            command.main(args=[], prog_name="registry", complete_var=variable)
    except SystemExit as end:
        ended = end.code if isinstance(end.code, int) else 1
    for line in answer.getvalue().splitlines():
        typer.echo(line.removeprefix(prefix))
    return ended


def _joined_words() -> str:
    """Join what bash split at ``@``, in the environment; returns what bash has already of the last word.

    A reference is one word here. Of ``PATH@pr`` bash replaces ``@pr``, though its own last word is ``pr``.
    """
    given = os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1]
    words: list[str] = []
    for word in given:
        if words and (word.startswith("@") or words[-1].endswith("@")):
            words[-1] += word
        else:
            words.append(word)
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(words), str(len(words) - 1)
    return words[-1].rpartition("@")[0]


def bases(context: typer.Context, incomplete: str) -> list[str]:
    """Names of base models."""
    del incomplete
    return [path for path in _paths(context) if "/" not in path]


def paths(context: typer.Context, incomplete: str) -> list[str]:
    """Paths of base models and adapters, down to the next level."""
    return _next_level(_paths(context), incomplete)


def references(context: typer.Context, incomplete: str) -> list[str]:
    """Paths and, after an ``@``, the tags and newest numbers of the path."""
    path, found, _ = incomplete.partition("@")
    if not found:
        return paths(context, incomplete)
    return [f"{path}@{name}" for name in _names(context, path)]


def tags(context: typer.Context, incomplete: str) -> list[str]:
    """Tags of the adapter that the command line names."""
    del incomplete
    said = context.params.get("ref") or context.params.get("path") or ""
    return [name for name in _names(context, str(said).partition("@")[0]) if not name.isdigit()]


def _next_level(known: Iterable[str], incomplete: str) -> list[str]:
    """What goes on with ``incomplete`` up to its next name, and a name further where only one does.

    With one alone the shell would end the word, though it may go on.
    """
    matching = [path for path in known if path.startswith(incomplete)]
    depth = incomplete.count("/")
    level = [path for path in matching if path.count("/") == depth]
    return level if len(level) != 1 else [path for path in matching if path.count("/") <= depth + 1]


def _paths(context: typer.Context) -> list[str]:
    def read(registry: Registry) -> list[str]:
        return [path for root in registry.tree().roots for path in _under(root)]

    return _cached(context, "paths", read)


def _under(node: TreeNode) -> Iterable[str]:
    yield node.path
    for child in node.children:
        yield from _under(child)


def _names(context: typer.Context, path: str) -> list[str]:
    def read(registry: Registry) -> list[str]:
        revisions = registry.log(path, limit=_REVISIONS).revisions
        numbers = [str(one.number) for one in revisions[:_NUMBERS]]
        return [*sorted({tag for one in revisions for tag in one.tags}), *numbers]

    return _cached(context, f"names of {path}", read)


def _cached(context: typer.Context, what: str, read: Callable[[Registry], list[str]]) -> list[str]:
    """What the registry of this command line answers, in a bounded time; empty if it does not."""
    import platformdirs

    url = context.params.get("url") or context.find_root().params.get("url")
    place = [
        str(url),
        *(os.environ.get(name, "") for name in ("REGISTRY_URL", "REGISTRY_DATABASE_URL")),
        str(Path.cwd()),
    ]
    key = hashlib.sha256(json.dumps([place, os.environ.get("REGISTRY_TOKEN"), what]).encode()).hexdigest()
    file = platformdirs.user_cache_path("adapter-registry", appauthor=False) / "completion" / f"{key}.json"
    age, kept = _kept(file)
    if age <= _FRESH:
        return kept
    found: list[list[str]] = []

    def ask() -> None:
        from registry.app import open_registry

        try:
            with closing(open_registry(url, create=False)) as registry:
                found.append(read(registry))
        except Exception:  # noqa: BLE001 - a shell can show no error; the command itself will
            return

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_WAIT)
    if not found:
        return kept if age <= _STALE else []
    _keep(file, found[0])
    return found[0]


def _kept(file: Path) -> tuple[float, list[str]]:
    """How old the answer in ``file`` is, in seconds, and the answer."""
    try:
        age = time.time() - file.stat().st_mtime
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return float("inf"), []
    if not isinstance(kept, list) or not all(isinstance(name, str) for name in kept):
        return float("inf"), []
    return max(age, 0.0), kept


def _keep(file: Path, names: list[str]) -> None:
    """Keep an answer, readable by this user alone, and drop those that are too old to be used."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for other in file.parent.iterdir():
            if time.time() - other.stat().st_mtime > _STALE:
                other.unlink(missing_ok=True)
        made = file.with_suffix(f".{os.getpid()}")
        made.write_text(json.dumps(names), encoding="utf-8")
        made.replace(file)
    except OSError:  # without a cache the registry is queried each time
        return
