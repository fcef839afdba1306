"""The page Use it: its lines are taken from the page as it is sent, and run by somebody who has nothing but a token.

vLLM runs them where ``VLLM_PYTHON`` names a Python that has it; elsewhere a stand-in does, and they are compared with
docs/vllm.md.
"""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
import torch

from registry.services.local import LocalRegistry
from tests.clients.conftest import NewMachine
from tests.clients.machines import HERE, Machine
from tests.clients.tree import Tree
from tests.kit import llama_base
from tests.kit.pages import PEOPLE
from tests.kit.peers import peft_load
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.serving import served
from tests.kit.shim import Shim
from tests.kit.tokenizer_files import add_working_tokenizer
from tests.root import ROOT
from tests.vllm.real import METADATA, PYTHON, START

REFERENCE = "llama/support/french"
Steps = list[tuple[str, str]]
SHOW = '\nimport torch\nprint("LOGITS", model(torch.arange(1, 9)[None]).logits.flatten().tolist())\n'


def steps_of(page: str) -> Mapping[str, Steps]:
    """The lines of each tool, with their language, as a reader copies them."""
    found = {}
    for name, section in re.findall(r'<section id="([\w-]+)">(.*?)</section>', page, flags=re.DOTALL):
        steps = re.findall(r'<div data-language="(\w+)">.*?<code>(.*?)</code>', section, flags=re.DOTALL)
        found[name] = [(language, html.unescape(text)) for language, text in steps]
    return found


def script(steps: Steps, more: str = "") -> str:
    """Steps as one shell script."""
    written = []
    for language, text in steps:
        written.append(text if language == "shell" else f"python - <<'PROGRAM'\n{text}{more}\nPROGRAM")
    return "\n".join(written) + "\n"


@pytest.fixture
def user(machine: NewMachine) -> Machine:
    """Somebody who has the command `registry`, and a token in the variable that the page names."""
    one = machine("hf")
    assert one.token is not None
    (one.folder / "bin").mkdir()
    (one.folder / "bin/registry").symlink_to(Path(sys.executable).with_name("registry"))
    one.settings = {
        "PATH": f"{one.folder / 'bin'}:{one.environ['PATH']}",
        "PYTHONPATH": f"{HERE / 'guard'}:{ROOT}",
        "REGISTRY_TOKEN": one.token,
        "XDG_CONFIG_HOME": str(one.folder / "config"),
        "XDG_DATA_HOME": str(one.folder / "data"),
    }
    one.token = None
    return one


@pytest.fixture
def lines(tree: Tree, wire: Shim, user: Machine) -> Mapping[str, Steps]:
    """The lines of the page, for the address that this user reaches the service by."""
    token = {"Authorization": f"Bearer {user.settings['REGISTRY_TOKEN']}"}
    page = httpx.get(f"{tree.service.url}/use/{REFERENCE}@1", headers=PEOPLE | token, timeout=60)
    assert page.status_code == 200, page.text
    assert user.settings["REGISTRY_TOKEN"] not in page.text
    return steps_of(page.text.replace(tree.service.url, wire.url))


def composed(tree: Tree) -> dict[str, bytes]:
    with tree.registry.artifact(f"{REFERENCE}@1", kind="lora") as artifact:
        return {name: file.read() for name, file in artifact.files.items()}


def test_every_tool_is_on_the_page(lines: Mapping[str, Steps]) -> None:
    assert list(lines) == ["cli", "python", "peft", "transformers", "llama", "mlx", "vllm", "curl"]
    assert all(steps for steps in lines.values())


@pytest.mark.slow
def test_llama_cpp_and_mlx(tree: Tree, user: Machine, lines: Mapping[str, Steps]) -> None:
    """The files are there that the last line of each names; that line is not run: neither of the two is installed."""
    for tool, file in (("llama", "adapter.gguf"), ("mlx", "adapters.safetensors")):
        *fetch, (_, last) = lines[tool]
        user.shell("rm -rf french llama\n" + script(fetch))
        assert (user.folder / "french" / file).is_file()
        assert "./french" in last
        assert (user.folder / "llama/config.json").is_file() == (tool == "mlx")


def test_curl(tree: Tree, user: Machine, lines: Mapping[str, Steps]) -> None:
    user.shell(script(lines["curl"]))
    expected = composed(tree)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (user.folder / name).read_bytes() == expected[name]


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["cli", "python"])
def test_ours(tree: Tree, user: Machine, lines: Mapping[str, Steps], tool: str) -> None:
    said = user.shell(script(lines[tool]))
    for name, content in composed(tree).items():
        assert (user.folder / "french" / name).read_bytes() == content
    if tool == "python":
        assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight (8, 16)" in said


@pytest.mark.slow
@pytest.mark.long_on("transformers")  # tests/clients/test_page has it, too
@pytest.mark.parametrize("tool", ["peft", "transformers"])
def test_peers(tree: Tree, user: Machine, lines: Mapping[str, Steps], tool: str) -> None:
    said = user.shell(script(lines[tool], more=SHOW))
    found = torch.tensor([float(one) for one in said.partition("LOGITS [")[2].partition("]")[0].split(",")])
    with torch.no_grad():
        model = peft_load(tree.bases["llama"].folder, tree.links["llama"][:2])
        expected = model(torch.arange(1, 9)[None]).logits.flatten()
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_vllm(tree: Tree, user: Machine, lines: Mapping[str, Steps]) -> None:
    """The base model is fetched, and what follows is the command of docs/vllm.md."""
    stand_in = user.folder / "bin/vllm"
    stand_in.write_text('#!/bin/sh\nenv | grep -E "^(REGISTRY|VLLM)_[A-Z_]*=" > vllm.txt\necho "$@" >> vllm.txt\n')
    stand_in.chmod(0o755)
    serve, ask = lines["vllm"]
    user.shell(script([serve]))
    assert (user.folder / "llama/model.safetensors").read_bytes() == (
        tree.bases["llama"].folder / "model.safetensors"
    ).read_bytes()
    told = (user.folder / "vllm.txt").read_text()
    assert "REGISTRY_VLLM_BASE=llama\n" in told
    page = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
    arguments = shlex.split(told.splitlines()[-1])
    assert arguments[:2] == ["serve", "./llama"]
    for word in (*re.findall(r"^((?:REGISTRY_URL|REGISTRY_VLLM|VLLM)[A-Z_]*)=", told, flags=re.MULTILINE), *arguments):
        assert word in page or word in {"./llama", "8"}, word
    assert '"model": "llama/support/french@1"' in ask[1]
    assert "curl http://localhost:8000/v1/completions -H 'Content-Type: application/json'" in page


IN_VLLM = """#!/bin/sh
export PYTHONPATH={metadata}:{root} VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_NO_USAGE_STATS=1
exec {python} -m vllm.entrypoints.cli.main "$@" --enforce-eager --dtype float32 --max-model-len 64 --port {port}
"""


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON names no Python with vLLM; a stand-in ran the lines instead")
def test_vllm_itself(tmp_path: Path) -> None:
    base = llama_base(tmp_path / "base", hidden=128, heads=4, mlp=192, vocab=256, scale=0.05)
    add_working_tokenizer(base.folder)
    with closing(LocalRegistry.open(tmp_path / "registry")) as registry, served(registry) as address:
        registry.add_base("llama", base.folder)
        links = write_recipes(tmp_path / "links", base, [Recipe(("q_proj",), r=4), Recipe(("up_proj",), r=3, seed=1)])
        for folder, path in zip(links, ("llama/support", REFERENCE), strict=True):
            registry.publish(folder, path, parent=None if path == "llama/support" else "llama/support@1")
        page = httpx.get(f"{address}/use/{REFERENCE}@1", headers=PEOPLE, timeout=60).text
        (_, serve), (_, ask) = steps_of(page)["vllm"]
        with vllm_running(tmp_path, serve) as port:
            found = subprocess.check_output(["sh", "-c", ask.replace("localhost:8000", f"127.0.0.1:{port}")])
    assert re.fullmatch(r"llama/support/french#1-[0-9a-f]{32}", json.loads(found)["model"])


@contextmanager
def vllm_running(folder: Path, lines: str) -> Iterator[int]:
    """The lines, run by a user whose command `vllm` is vLLM on a CPU, at a port of its own."""
    installed = folder / "metadata" / "adapter_registry-0.dist-info"
    installed.mkdir(parents=True)
    for name, text in METADATA.items():
        (installed / name).write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "bin").mkdir()
    (folder / "bin/registry").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m registry "$@"\n')
    (folder / "bin/vllm").write_text(IN_VLLM.format(metadata=installed.parent, root=ROOT, python=PYTHON, port=port))
    for command in ("registry", "vllm"):
        (folder / "bin" / command).chmod(0o755)
    environ = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    with (folder / "vllm.log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-eu", "-c", lines], cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START
        while process.poll() is None and time.monotonic() < deadline and not is_healthy(port):
            time.sleep(1)
        assert is_healthy(port), (folder / "vllm.log").read_text()[-4000:]
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False
