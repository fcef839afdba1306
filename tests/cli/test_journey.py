"""The commands on a real registry: small real folders, SQLite and blobs, no canned answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import registry
from registry.schemas import Fetched, Published, Resolved, Tree, Verified
from tests.cli.conftest import Ended, Run
from tests.kit import add_tokenizer, llama_base, write_adapter

Adapter = Callable[..., Path]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path)


def write_base(root: Path) -> Path:
    made = llama_base(root / "base", dtype="BF16", shards=2)
    add_tokenizer(made.folder)
    return made.folder


@pytest.fixture(scope="module")
def with_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry that holds the base model: making its target table takes seconds, copying it none."""
    root = tmp_path_factory.mktemp("with-base")
    opened = registry.connect(root / "registry")
    opened.add_base("tiny", write_base(root))
    opened.close()
    return root / "registry"


@pytest.fixture
def tiny(here: Run, with_base: Path, tmp_path: Path) -> Run:
    """Runs command lines on a registry that holds the base model `tiny`."""
    shutil.copytree(with_base, tmp_path / "registry")
    return here


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    made = llama_base(tmp_path / "shape", dtype="BF16")

    def write(name: str, seed: int, rank: int = 4) -> Path:
        return write_adapter(tmp_path / name, made, ["q_proj", "v_proj"], r=rank, alpha=8, seed=seed)

    return write


@pytest.fixture
def here(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs command lines on a registry and a cache of this test."""
    monkeypatch.setenv("REGISTRY_URL", str(tmp_path / "registry"))
    monkeypatch.setenv("REGISTRY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("REGISTRY_AUTHOR", "Anna")
    monkeypatch.chdir(tmp_path)
    return run


def ok(ended: Ended) -> str:
    assert ended.code == 0, ended.err
    return ended.out


def test_the_main_job(here: Run, base: Path, adapter: Adapter, tmp_path: Path) -> None:
    assert ok(here("base", "add", "tiny", str(base))).splitlines()[0] == "tiny"
    assert "LlamaForCausalLM" in ok(here("base", "list"))

    first = ok(
        here("publish", str(adapter("a", 1)), "tiny/support", "-m", "April", "--metric", "acc=0.8", "--tag", "prod")
    )
    assert first.splitlines()[0] == "tiny/support@1"
    second = Published.model_validate_json(
        ok(here("publish", str(adapter("b", 2, 8)), "tiny/support/french", "--json"))
    )
    assert (second.revision.reference, second.revision.parent) == ("tiny/support/french@1", "tiny/support@1")
    assert second.revision.author == "Anna"
    again = Published.model_validate_json(
        ok(here("publish", str(adapter("b2", 2, 8)), "tiny/support/french", "--json"))
    )
    assert (again.created, again.revision.digest) == (False, second.revision.digest)
    ok(here("publish", str(adapter("c", 3)), "tiny/support"))

    assert "behind: pinned to support@1, newest is @2" in ok(here("tree"))
    assert [line.split()[0] for line in ok(here("log", "tiny/support")).splitlines()[2:]] == ["@2", "@1"]
    shown = ok(here("show", "tiny/support@prod"))
    assert "acc=0.8" in shown
    assert "April" in shown
    lineage = Resolved.model_validate_json(ok(here("resolve", "tiny/support/french", "--json"))).lineage
    assert [entry.reference for entry in lineage] == ["tiny", "tiny/support@1", "tiny/support/french@1"]
    assert ok(here("search", "--metric", "acc>0.5")).startswith("tiny/support@1")

    assert ok(here("fetch", "tiny/support/french", "-o", "out")) == f"{tmp_path / 'out'}\n"
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    fetched = Fetched.model_validate_json(ok(here("fetch", "tiny/support/french", "-o", "out", "--json")))
    assert not fetched.fresh
    cached = Path(ok(here("fetch", "tiny/support/french", "--as", "merged")).strip())
    assert cached.is_relative_to(tmp_path / "cache")
    assert Verified.model_validate_json(ok(here("verify", str(cached), "--json"))).equal

    ok(here("annotate", "tiny/support/french", "--metric", "f1=0.5", "--annotation", "team=nlp"))
    ok(here("tag", "tiny/support@2", "prod"))
    assert ok(here("untag", "tiny/support", "prod")) == "tiny/support@prod removed, was tiny/support@2\n"
    events = json.loads(ok(here("events", "--json")))
    assert {event["actor"] for event in events} == {"Anna"}
    assert Tree.model_validate_json(ok(here("tree", "tiny/support", "--json"))).roots[0].path == "tiny/support"


def test_a_nested_folder_is_published_parents_first(tiny: Run, adapter: Adapter, tmp_path: Path) -> None:
    adapter("nested/support", 1)
    adapter("nested/support/french", 2)
    assert ok(tiny("publish", "-r", "nested", "tiny")).splitlines() == ["tiny/support@1", "tiny/support/french@1"]
    answers = json.loads(ok(tiny("publish", "-r", "nested", "tiny", "--json")))
    assert [answer["created"] for answer in answers] == [False, False]


def test_refusals_have_their_exit_codes(here: Run, base: Path, adapter: Adapter, tmp_path: Path) -> None:
    assert here("tree").code == 3  # no registry yet, and looking makes none
    assert not (tmp_path / "registry").exists()
    ok(here("base", "add", "tiny", str(base)))
    other = llama_base(tmp_path / "other", dtype="F32").folder
    assert here("base", "add", "tiny", str(other)).code == 5
    assert here("base", "add", "Tiny", str(base)).code == 2
    assert here("publish", str(base), "tiny/x").code == 4
    ok(here("publish", str(adapter("a", 1)), "tiny/support"))
    missing = here("show", "tiny/suport")
    assert missing.code == 3
    assert "tiny/support" in missing.err
    ok(here("fetch", "tiny/support", "-o", "out"))
    file = tmp_path / "out" / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    differs = here("verify", "out")
    assert differs.code == 6
    assert "adapter_model.safetensors" in differs.out
    assert here("fetch", "tiny/support", "-o", "base").code == 5
    assert here("--url", "s3://bucket/team", "tree").code == 2


def test_python_and_the_command_line_see_the_same_registry(tiny: Run, adapter: Adapter, tmp_path: Path) -> None:
    opened = registry.connect(tmp_path / "registry")
    opened.publish(adapter("a", 1), "tiny/support")
    expected = opened.tree()
    opened.close()
    assert Tree.model_validate_json(ok(tiny("tree", "--json"))) == expected
    assert Tree.model_validate_json(ok(tiny("tree", "--json", "--url", "registry"))) == expected


@pytest.mark.long_on("0", "0.7")
@pytest.mark.slow_on("1.5")
@pytest.mark.parametrize("delay", [0, 0.2, 0.7, 1.5])
def test_ctrl_c_in_a_publish_is_quiet_and_leaves_a_registry_that_works(
    delay: float, tiny: Run, adapter: Adapter
) -> None:
    folder = adapter("a", 1)
    script = (
        "import sys\n"
        "from registry.cli.main import main\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    main()\n"
        "except KeyboardInterrupt as stop:\n"
        # It may strike before the call: then it is in this script's frame alone, and none of the command's business.
        "    if stop.__traceback__.tb_next is not None:\n"
        "        raise\n"
        "    sys.exit(130)\n"
    )
    command = [sys.executable, "-c", script, "publish", str(folder), "tiny/support"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"ready\n"
        # Wherever it strikes: while modules load, in the work, or at the end.
        time.sleep(delay)
        os.kill(process.pid, signal.SIGINT)
        code = process.wait(timeout=60)
        said = process.stderr.read().decode()
    # While the interpreter takes itself down, its own handler is gone: the signal then ends it as it would end any
    # program, and a shell says 130 too.
    assert code in {0, 130, -signal.SIGINT}, said
    assert "Traceback" not in said
    assert ok(tiny("publish", str(folder), "tiny/support")).splitlines()[0] == "tiny/support@1"


def test_ctrl_c_that_strikes_the_hook_itself_ends_the_command() -> None:
    """As on a busy machine, where it is sent again before the hook is at its end, whose exceptions are dropped too."""
    script = """
import signal, sys, threading, time
import registry.cli.program as program
from registry.cli.main import main

class Left:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

begin = threading.Thread.start

def slowly(self):
    begin(self)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass

def run(arguments):
    threading.Thread.start = slowly
    Left()
    time.sleep(20)
    return 7

signal.signal(signal.SIGINT, signal.default_int_handler)
program.run = run
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("of", ["a destructor", "an import"])
def test_ctrl_c_in_a_callback_whose_exceptions_python_drops_ends_the_command(of: str, tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("")
    script = """
import importlib._bootstrap as bootstrap, signal, sys, time
import registry.cli.program as program
from registry.cli.main import main

class Left:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def strike(frame, event, argument):
    if frame.f_code.co_name == "cb":  # the callback of a module's lock, as importlib ends an import
        sys.setprofile(None)
        signal.raise_signal(signal.SIGINT)

def run(arguments):
    if arguments == ["a destructor"]:
        Left()
    else:
        sys.setprofile(strike)
        import heavy
    time.sleep(5)
    return 7

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs behind a shell's & ignores it
program.run = run
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, of], capture_output=True, cwd=tmp_path, check=False, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "")
