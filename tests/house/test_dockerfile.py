"""The steps of the Dockerfile, run as ordinary commands on what it copies and nothing else.

`/opt/registry`, `/src` and `/data` are folders of the test, and Python is this one and not that of the base image. The
step that makes a user is only read, in `test_compose`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry import __version__
from tests.house.environments import attempt, run
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess
from tests.root import ROOT


@dataclass
class Root:
    """The file system of an image, as a folder."""

    folder: Path
    environ: dict[str, str]

    def at(self, text: str) -> str:
        """A text of the Dockerfile with the folders of this root."""
        return re.sub(r"(?<![\w/.])/(opt/registry|src|data)\b", lambda found: f"{self.folder}/{found[1]}", text)

    def set(self, words: str) -> None:
        """An ENV or ARG of the Dockerfile."""
        for name, value in re.findall(r'(\w+)=("[^"]*"|\S*)', words):
            self.environ[name] = self.at(value.strip('"')).replace("$PATH", self.environ["PATH"])


def stages() -> list[list[tuple[str, str]]]:
    """What each stage does: instructions and their words."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.partition(" ") for line in text.replace("\\\n", "").splitlines() if line]
    found: list[list[tuple[str, str]]] = []
    for instruction, _, words in lines:
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, words.strip()))
    return found


def copied(sources: list[str], folder: Path) -> None:
    """COPY of files and folders of the checkout, without what `.dockerignore` leaves out."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    everywhere = shutil.ignore_patterns(*(line.removeprefix("**/") for line in ignored if line.startswith("**/")))
    for source in sources:
        assert source not in ignored
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder, ignore=everywhere)
        else:
            shutil.copy(ROOT / source, folder)


def build(root: Root) -> None:
    """Take the steps of the first stage."""
    work = root.folder
    for instruction, words in stages()[0]:
        match instruction:
            case "FROM":
                pass
            case "ENV" | "ARG":
                root.set(words)
            case "WORKDIR":
                work = Path(root.at(words))
                work.mkdir(parents=True)
            case "COPY":
                *sources, target = words.split()
                copied(sources, work / target)
            case "RUN":
                run("/bin/sh", "-c", root.at(words), cwd=work, **root.environ)
            case _:
                pytest.fail(f"{instruction} is not known here")


@pytest.mark.image
def test_the_steps_make_a_service_that_is_healthy(tmp_path: Path, own_home: Home) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    root = Root(tmp_path / "root", {"PATH": f"{programs}{os.pathsep}{os.defpath}"})
    root.folder.mkdir()
    build(root)

    last = dict(stages()[1])
    assert last["COPY"] == "--from=build /opt/registry /opt/registry"  # here it lies there already
    root.set(last["ENV"])
    installed = Path(root.at("/opt/registry"))
    shutil.rmtree(root.at("/src"))  # it stays in the other stage
    (entry,) = json.loads(last["ENTRYPOINT"])
    command = shutil.which(entry, path=root.environ["PATH"])
    assert command == str(installed / "bin" / "registry")
    assert run(command, "--version", cwd=tmp_path, **root.environ) == f"adapter-registry {__version__}\n"
    where = run("python", "-c", "import registry; print(registry.__file__)", cwd=tmp_path, **root.environ)
    assert Path(where).is_relative_to(installed)
    assert attempt("python", "-m", "pip", "--version", cwd=tmp_path, **root.environ).returncode != 0

    here = {"0.0.0.0": "127.0.0.1", "8321": "0"}
    words = [here.get(word, word) for word in json.loads(last["CMD"])]
    service = ServiceProcess.started(own_home, {**root.environ, "PYTHONPATH": ""}, command=(command, *words))
    try:
        options, _, check = last["HEALTHCHECK"].partition("CMD")
        assert "--interval" in options
        asked = [word.replace("http://127.0.0.1:8321", service.url) for word in json.loads(check)]
        run(*asked, cwd=tmp_path, **root.environ)
        assert (Path(root.at("/data")) / "adapter-registry" / "registry.db").exists()
        assert service.stop() == 0
    finally:
        if service.running:
            service.kill()
    assert attempt(*asked, cwd=tmp_path, **root.environ).returncode != 0
