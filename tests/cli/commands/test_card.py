"""`registry card`: printed, replaced by a file, and edited in a real editor, also by two people at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from registry.services.local import LocalRegistry
from tests.cli.conftest import Ended, Run
from tests.kit import plain_base, write_adapter


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``net/a`` with a README.md, and ``net/b`` without."""
    place = tmp_path / "registry"
    base = plain_base(tmp_path / "base")
    opened = LocalRegistry.open(place, create=True)
    opened.add_base("net", base.folder)
    for number, path in enumerate(("net/a", "net/b")):
        folder = write_adapter(tmp_path / f"adapter{number}", base, list(base.modules)[:1], r=2, seed=number)
        if number == 0:
            (folder / "README.md").write_text("# One\n")
        opened.publish(folder, path)
    opened.close()
    monkeypatch.setenv("REGISTRY_AUTHOR", "ada")
    return place


@pytest.fixture
def at(run: Run, registry: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs commands on that registry."""

    def call(*args: str) -> Ended:
        monkeypatch.setenv("REGISTRY_URL", str(registry))
        return run(*args)

    return call


def editor(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor that is a script; ``$1`` is the file."""
    program = folder / "editor"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(program))


def test_it_is_printed_replaced_and_removed(at: Run, tmp_path: Path) -> None:
    assert at("card", "net/a").out == "# One\n"
    file = tmp_path / "card.md"
    file.write_text("---\nlicense: mit\n---\n# Two\n")
    done = at("card", "net/a", "--file", str(file))
    assert (done.code, done.out, done.err) == (0, "", "The card of net/a is changed.\n")
    assert at("card", "net/a").out == file.read_text()
    told = json.loads(at("card", "net/a", "--json").out)
    assert (told["metadata"], told["state"]["source"]) == ({"license": "mit"}, "edited")
    assert re.search(r"card +edited .* UTC by ", at("show", "net/a").out)
    assert at("card", "net/a@1").out == "# One\n"
    assert at("card", "net/a", "--remove").err == "The card of net/a is the published README.md again.\n"
    assert re.search(r"card +README.md of net/a@1", at("show", "net/a").out)


def test_it_is_edited(at: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor(tmp_path, 'echo more >> "$1"', monkeypatch)
    assert at("card", "net/a", "--edit").code == 0
    assert at("card", "net/a").out == "# One\nmore\n"
    assert at("card", "net/b", "--edit").code == 0
    assert at("card", "net/b").out == "more\n"
    editor(tmp_path, "true", monkeypatch)
    assert at("card", "net/a", "--edit").err == "Nothing was changed.\n"
    editor(tmp_path, "exit 3", monkeypatch)
    failed = at("card", "net/a", "--edit")
    assert failed.code == 2
    assert "ended with exit code 3" in failed.err
    assert "kept in" not in failed.err
    monkeypatch.setenv("VISUAL", "no-such-editor")
    assert "can't be run" in at("card", "net/a", "--edit").err


def test_an_edit_never_overwrites_another(
    at: Run, registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the editor is open, somebody else changes the card."""
    other = f"registry --url {registry} card net/a --file -"
    script = f'printf mine > "$1"; echo theirs | PATH="{Path(__import__("sys").executable).parent}:$PATH" {other}'
    editor(tmp_path, script, monkeypatch)
    lost = at("card", "net/a", "--edit")
    assert lost.code == 5
    assert at("card", "net/a").out == "theirs\n"
    kept = Path(re.search(r"Your text is kept in (\S+)\.\n", lost.err)[1])  # type: ignore[index]
    assert kept.read_text() == "mine"
    kept.unlink()
