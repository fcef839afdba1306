"""The README's commands, run as they are written, on small real files under the names that the README uses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import registry
from tests.journeys import warm
from tests.kit import Base, add_tokenizer, bert_base, llama_base, write_adapter
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess
from tests.kit.servers_shared import SharedServers
from tests.root import ROOT

STATISTICS = ROOT / "docs" / "statistics.md"
SCRIPT = Path(sys.executable).with_name("registry")


def _blocks(language: str, text: str | None = None) -> list[str]:
    text = (ROOT / "README.md").read_text() if text is None else text
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [text for given, text in found if given == language]


def _block(word: str, language: str = "") -> str:
    found = [block for block in _blocks(language) if word in block]
    assert len(found) == 1, f"one block with {word!r} is expected, there are {len(found)}"
    return found[0]


@pytest.fixture(scope="module")
def forked(own_home: Home, shared_servers: SharedServers) -> Iterator[str]:
    """Lines before commands that are typed: each is forked from a process that has what it imports."""
    with warm.commands(own_home, shared_servers.tables(), {"PATH": os.environ["PATH"]}) as lines:
        yield lines


def _shell(commands: str, folder: Path, before: str = "", **more: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    environment |= {"PATH": f"{SCRIPT.parent}:{os.environ['PATH']}", "XDG_DATA_HOME": str(folder / "data")}
    environment |= {"XDG_CONFIG_HOME": str(folder / "config"), **more}
    program = folder / "typed.sh"
    program.write_text(before + commands)
    run = subprocess.run(
        ["bash", "-eu", str(program)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def _installed(commands: str) -> str:
    """The commands after those that install it: `tests/house` has tests of these."""
    return "".join(line for line in commands.splitlines(keepends=True) if not line.startswith("pip install"))


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """A folder with a base model and two trained adapters, the second one trained on ./support-merged."""
    base: Base = llama_base(tmp_path / "Llama-3.2-1B", dtype="BF16")
    add_tokenizer(base.folder)
    write_adapter(tmp_path / "out/support", base, ["q_proj", "v_proj"], r=4)
    _train_french(tmp_path)
    return tmp_path


def _train_french(folder: Path) -> None:
    """What a training on the fetched folder leaves: it is newer than that."""
    base = llama_base(folder / "as-trained", dtype="BF16")
    trained_on = {"base_model_name_or_path": "./support-merged"}
    write_adapter(folder / "out/french", base, ["q_proj"], r=2, rslora=True, seed=1, config=trained_on)


@pytest.fixture
def after_the_demo(tmp_path: Path) -> Path:
    """A folder with a registry of the demonstration's names; the demonstration itself is tests/demo."""
    base = bert_base(tmp_path / "base")
    with closing(registry.connect(tmp_path / "demo-registry")) as mine:
        mine.add_base("minilm", base.folder)
        for number, path in enumerate(("minilm/support", "minilm/support/shop")):
            folder = write_adapter(tmp_path / f"adapter{number}", base, ["query", "value"], r=4, seed=number)
            mine.publish(folder, path, parent="minilm/support@1" if number else None)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.mark.slow
def test_with_your_own_model(workshop: Path, forked: str) -> None:
    first, second = _block("registry base add llama ./"), _block("--metric acc=0.91")
    out = _shell(_installed(first), workshop, forked)
    _train_french(workshop)
    out += _shell(_installed(second), workshop, forked)
    assert "llama/support@1\n" in out
    assert "llama/support/french@1\n" in out
    assert "the receipt in" in out  # why the parent was pinned
    assert (workshop / "french-lora/adapter_model.safetensors").is_file()
    assert (workshop / "french/model.safetensors").is_file()


@pytest.mark.slow
def test_with_a_team(after_the_demo: Path, start_service: Callable[..., ServiceProcess], forked: str) -> None:
    """Two people, each with folders of their own; only the name of the machine and the port are exchanged."""
    anna = {"XDG_DATA_HOME": str(after_the_demo / "her-data"), "REGISTRY_URL": ""}
    keeper, user = _block("registry token create"), _installed(_block("registry login"))
    *create, serve = keeper.splitlines()
    _shell("\n".join(create), after_the_demo, forked)
    assert serve.split()[:2] == ["registry", "serve"]
    service = start_service({"REGISTRY_URL": str(after_the_demo / "demo-registry")})
    user = user.replace("http://registry.team:8321", service.url)
    secret = (after_the_demo / "anna-token").read_text().strip()
    login, fetch, rest = user.split("\n", 2)
    out = _shell(login, after_the_demo, forked, REGISTRY_TOKEN=secret, **anna) + _shell(
        fetch, after_the_demo, forked, **anna
    )
    trained_on = {"base_model_name_or_path": "./support"}
    base = bert_base(after_the_demo / "as-trained")
    write_adapter(after_the_demo / "out/returns", base, ["query"], r=2, seed=2, config=trained_on)
    out += _shell(rest, after_the_demo, forked, **anna)
    assert "role      writer" in out
    assert "minilm/support/returns@1\n" in out
    assert "the receipt in" in out  # why the parent was pinned
    assert (after_the_demo / "returns-lora/adapter_model.safetensors").is_file()
    assert "anna" in _shell(
        "registry events", after_the_demo, forked, REGISTRY_URL=str(after_the_demo / "demo-registry")
    )


@pytest.mark.slow
def test_with_the_tools_you_have(after_the_demo: Path, start_service: Callable[..., ServiceProcess]) -> None:
    """transformers and the Hub's command, on a path that was never merged to disk."""
    service = start_service({"REGISTRY_URL": str(after_the_demo / "demo-registry")})
    serve, *commands = _block("hf download").splitlines()
    assert serve.startswith("registry serve --url demo-registry 2> serve.log & ")
    text = "\n".join(commands).replace("http://127.0.0.1:8321", service.url)
    out = _shell(text, after_the_demo, HF_HOME=str(after_the_demo / "hub"), HF_HUB_DISABLE_UPDATE_CHECK="1")
    assert int(out.split("\n", 1)[0]) > 1000  # the parameters of the model
    downloaded = Path(out.rpartition("path:")[2].strip())
    assert (downloaded / "model.safetensors").is_file()
    assert not (downloaded / "adapter_config.json").exists()


@pytest.mark.slow
def test_in_python(workshop: Path, forked: str) -> None:
    program = workshop / "program.py"
    program.write_text(_block("import registry", "python").replace("    ...", "    print(name, tuple(tensor.shape))"))
    out = _shell("python program.py", workshop, forked)
    assert "model.layers.0.self_attn.q_proj.weight (16, 16)" in out
    assert (workshop / "support-merged/registry-receipt.json").is_file()


@pytest.mark.slow
def test_what_the_demo_left_and_the_next_five_commands(after_the_demo: Path, forked: str) -> None:
    install, tree = _block("registry tree").splitlines()
    assert install.startswith("make demo ")
    assert "shop" in _shell(tree.replace(".venv/bin/", "", 1), after_the_demo, forked)
    out = _shell(_block("registry show minilm/support/shop"), after_the_demo, forked)
    assert "minilm/support/shop@1" in out
    assert "the path " in out
    assert "loads     yes" in out
    assert (after_the_demo / "change.svg").read_text().startswith("<svg ")
    assert "shop-lora" in out
    environment = f"export REGISTRY_URL='{after_the_demo / 'demo-registry'}'\n"
    siblings = re.findall(r"^registry diff --matrix minilm/support .*\n", STATISTICS.read_text(), re.MULTILINE)[0]
    out = _shell(f"{environment}{siblings}registry tree --behind\n", after_the_demo, forked)
    assert "1  minilm/support/shop@1" in out


def test_first_screen_is_one_job_two_commands_and_a_picture() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    first = text[: text.index("## ")]
    assert [line.split()[0] for line in _blocks("", first)[0].splitlines()] == ["make", ".venv/bin/registry"]
    assert len(re.findall(r"!\[(?!Python|License)", text)) == 1
    assert _blocks("", first)[1:] == []


def test_every_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {name for block in _blocks("") for name in re.findall(r"^make ([a-z-]+)", block, flags=re.MULTILINE)}
    assert named
    assert named <= targets
