"""Completion in a shell: what the scripts ask for, against a real registry, and bash itself."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.cli import completion
from registry.cli.program import answer_shell
from tests.cli.conftest import Run
from tests.cli.first_week import FirstWeek, make_first_week

Complete = Callable[..., list[str]]


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> FirstWeek:
    return make_first_week(tmp_path_factory.mktemp("week"))


@pytest.fixture
def environ(week: FirstWeek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of a shell whose registry is the one of the week, with a cache of its own."""
    for name in [name for name in os.environ if name.startswith("REGISTRY_")]:
        monkeypatch.delenv(name)
    settings = {"REGISTRY_URL": str(week.registry), "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(completion, "_WAIT", 120.0)  # of this process: a busy machine answers too
    return settings


@pytest.fixture
def bash(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Complete:
    """Asks for what may follow these words, as bash has split them; the last is the one that is completed."""

    def ask(*words: str) -> list[str]:
        monkeypatch.setenv("_REGISTRY_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(("registry", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        assert answer_shell() == 0
        said = capsys.readouterr()
        assert said.err == ""
        return said.out.split()

    return ask


def test_commands_and_options(bash: Complete) -> None:
    assert bash("ver") == ["verify"]
    assert bash("base", "ret") == ["retable"]
    assert "--rank" in bash("fetch", "tiny/support", "--ra")


def test_paths_go_on_by_the_level(bash: Complete) -> None:
    level = ["tiny/bad", "tiny/help", "tiny/support"]
    assert bash("show", "") == ["tiny", *level]  # one base model alone: what is under it, too
    assert bash("show", "tiny/") == level
    assert bash("show", "tiny/su") == ["tiny/support", "tiny/support/french"]
    assert bash("show", "tiny/he") == ["tiny/help"]
    assert bash("log", "other") == []


def test_a_reference_goes_on_after_its_at_sign(bash: Complete) -> None:
    """Bash begins a word at ``@`` but replaces from the ``@`` on, whatever its own last word is."""
    assert bash("show", "tiny/support", "@") == ["@prod", "@2", "@1"]
    assert bash("show", "tiny/support", "@", "p") == ["@prod"]
    assert bash("show", "tiny/support", "@p") == ["@prod"]
    assert bash("fetch", "--since", "tiny/support", "@", "p") == ["@prod"]


def test_tags_are_those_of_the_adapter_on_the_line(bash: Complete) -> None:
    assert bash("tag", "tiny/support", "@", "1", "") == ["prod"]
    assert bash("untag", "tiny/support", "") == ["prod"]
    assert bash("untag", "tiny/other", "") == []


def test_names_of_base_models(bash: Complete) -> None:
    assert bash("base", "retable", "") == ["tiny"]
    assert bash("search", "--base", "t") == ["tiny"]


def test_the_registry_of_the_command_line_is_asked(bash: Complete, tmp_path: Path) -> None:
    assert bash("--url", str(tmp_path / "none"), "show", "t") == []
    assert bash("show", "--url", str(tmp_path / "none"), "t") == []


def test_an_answer_is_used_again_for_a_moment(bash: Complete, week: FirstWeek, tmp_path: Path) -> None:
    assert bash("show", "tiny/b") == ["tiny/bad"]
    files = list((tmp_path / "cache" / "adapter-registry" / "completion").iterdir())
    assert [json.loads(file.read_text()) for file in files] == [
        ["tiny", "tiny/bad", "tiny/help", "tiny/support", "tiny/support/french"]
    ]
    files[0].write_text(json.dumps(["tiny/kept"]))
    assert bash("show", "tiny/") == ["tiny/kept"]
    os.utime(files[0], (0, 0))
    assert bash("show", "tiny/b") == ["tiny/bad"]


@pytest.mark.parametrize("kept", ["", "{}", "[1]", "\x00"])
def test_a_spoilt_answer_is_asked_for_again(bash: Complete, tmp_path: Path, kept: str) -> None:
    bash("show", "t")
    for file in (tmp_path / "cache" / "adapter-registry" / "completion").iterdir():
        file.write_text(kept)
    assert bash("show", "tiny/b") == ["tiny/bad"]


def test_a_service_that_does_not_answer_is_waited_for_no_longer(
    bash: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.cli.completion._WAIT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert bash("--url", f"http://127.0.0.1:{silent.getsockname()[1]}", "show", "t") == []


def test_what_zsh_and_fish_are_told(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "registry show tiny/support@p")
    monkeypatch.setenv("_REGISTRY_COMPLETE", "complete_zsh")
    assert answer_shell() == 0
    assert '"tiny/support@prod"' in capsys.readouterr().out
    monkeypatch.setenv("_REGISTRY_COMPLETE", "complete_fish")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    assert answer_shell() == 0
    assert capsys.readouterr().out.split() == ["tiny/support@prod"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_is_installed_for_the_shell_that_is_named(
    shell: str, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, since the shell is found by looking at its parents."""
    program = "import sys; from registry.cli.main import main; sys.argv[0] = 'adapter-registry'; main()"
    home = {**os.environ, **environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-c", program, "--install-completion", shell]
    done = subprocess.run(command, env=home, capture_output=True, text=True, timeout=120, check=True)
    assert "completion installed in" in done.stdout
    scripts = [file for file in tmp_path.rglob("*adapter-registry*") if file.is_file()]
    assert len(scripts) == 1
    assert "_ADAPTER_REGISTRY_COMPLETE" in scripts[0].read_text()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed here")
def test_bash_runs_its_script(environ: dict[str, str], bash: Complete, tmp_path: Path) -> None:
    """On a busy machine its process may not come to an answer in time, and gives the one of a moment ago."""
    surroundings = {**os.environ, **environ}
    assert bash("show", "tiny/support", "@", "p") == ["@prod"]
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "registry"
    command.write_text(f"#!{sys.executable}\nfrom registry.cli.main import main\nmain()\n")
    command.chmod(0o755)
    script = """
    PATH=$1:$PATH
    eval "$(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 registry --show-completion bash)"
    COMP_WORDS=(registry show tiny/support @ p) COMP_CWORD=4
    _registry_completion registry
    printf '[%s]' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(folder)],
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("[@prod]", "")


def test_an_unknown_question_is_answered_with_a_failure(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_REGISTRY_COMPLETE", "complete_csh")
    assert answer_shell() == 1
    assert capsys.readouterr().out == ""


def test_the_other_spelling_is_the_same_command(run: Run) -> None:
    assert run("materialize", "--help") == run("materialise", "--help")
