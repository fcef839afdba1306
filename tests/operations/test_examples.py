"""Every public name of the Python API has a docstring, methods an example in it, and each example does what it says.

The examples run in process and over HTTP: they are calls that people copy.

The first part of docs/python.md is one program that runs.
"""

from __future__ import annotations

import doctest
import pydoc
import re
from pathlib import Path

import pytest

import registry as package
from registry.client.remote import RemoteRegistry
from registry.operations.registry import Registry
from registry.services.local import LocalRegistry
from tests.house.python_page import BEGIN, PAGE
from tests.operations.documented import NEEDS_NO_EXAMPLE, documented, methods, with_examples

ALL = dict(documented())
EXAMPLES = with_examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_does_what_it_says(name: str, team: Registry) -> None:
    names = {"team": team, "registry": package}
    example = doctest.DocTestParser().get_doctest(EXAMPLES[name], names, name, None, 0)
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=told.append)
    assert not told, "".join(told)


def test_everything_has_a_docstring_and_every_method_an_example() -> None:
    assert [name for name, text in ALL.items() if not text] == []
    free = tuple(f"{kind.__name__}." for kind in NEEDS_NO_EXAMPLE)
    assert [name for name in ALL if name not in EXAMPLES and not name.startswith(free)] == []


@pytest.mark.parametrize("kind", [LocalRegistry, RemoteRegistry])
def test_help_on_an_open_registry_says_what_the_class_says(kind: type[Registry]) -> None:
    told = {name: pydoc.plain(pydoc.render_doc(getattr(kind, name))) for name in methods(Registry)}
    hidden = [name for name, text in told.items() if "Example:" not in text]
    assert hidden == [], "overridden without a docstring: override the method below it, whose name begins with _"


def test_the_page_runs_as_it_is_written(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REGISTRY_CACHE_DIR", str(workshop / "cache"))
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 10
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    told = capsys.readouterr().out
    assert "llama/support@1" in told
    assert "  support@1 [prod], rank 4, acc=0.88" in told
    assert "not_found " in told
