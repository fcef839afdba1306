"""The remembered numerics fingerprint: right, or probed anew."""

from __future__ import annotations

import importlib.machinery
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.services.artifacts import fetch
from registry.services.artifacts.fetch import machine_fingerprint
from registry.tensors.artifacts.plan import fingerprint
from tests.root import ROOT

CPUINFO = """processor\t: 0
model name\t: A
cpu MHz\t\t: 2100.1
flags\t\t: sse avx2
bogomips\t: 1

processor\t: 1
model name\t: A
cpu MHz\t\t: 3300.7
flags\t\t: sse avx2
bogomips\t: 2

"""


class Machine:
    """A machine whose processor, torch and arithmetic a test chooses, in a process that has not loaded torch."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.cpuinfo = folder / "cpuinfo"
        self.torch = folder / "torch"
        (self.torch / "lib").mkdir(parents=True)
        self.set_cpu(CPUINFO)
        (self.torch / "version.py").write_text("__version__ = '2.13.0+cpu'")
        (self.torch / "lib" / "libtorch_cpu.so").write_bytes(b"code")
        self.arithmetic = "0123456789abcdef"
        self.probes = 0

    def set_cpu(self, text: str) -> None:
        self.cpuinfo.write_text(text)

    def probe(self) -> str:
        self.probes += 1
        return self.arithmetic

    def ask(self) -> str:
        return machine_fingerprint(self.cache)

    @property
    def file(self) -> Path:
        (file,) = self.cache.iterdir()
        return file


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(fetch, "_torch_is_loaded", lambda: False)
    monkeypatch.setattr(fetch, "_CPUINFO", made.cpuinfo)
    monkeypatch.setattr(fetch, "fingerprint", made.probe)
    spec = importlib.machinery.ModuleSpec("torch", None, origin=str(made.torch / "__init__.py"))
    monkeypatch.setattr(fetch, "find_spec", lambda _: spec)
    for name in list(os.environ):
        if fetch._READ_BY_TORCH.fullmatch(name):
            monkeypatch.delenv(name)
    return made


def test_it_is_probed_once(machine: Machine) -> None:
    assert [machine.ask() for _ in range(3)] == [machine.arithmetic] * 3
    assert machine.probes == 1


def test_clocks_and_the_order_of_cores_change_nothing(machine: Machine) -> None:
    machine.ask()
    machine.set_cpu(CPUINFO.replace("2100.1", "800.0").replace("bogomips\t: 1", "bogomips\t: 9"))
    machine.ask()
    machine.set_cpu("\n\n".join(reversed(CPUINFO.strip().split("\n\n"))))
    machine.ask()
    assert machine.probes == 1


DIFFERENCES: dict[str, Callable[[Machine, pytest.MonkeyPatch], object]] = {
    "flags": lambda machine, _: machine.set_cpu(CPUINFO.replace("avx2", "avx512f")),
    "flags of one core": lambda machine, _: machine.set_cpu(CPUINFO.replace("avx2", "avx512f", 1)),
    "model": lambda machine, _: machine.set_cpu(CPUINFO.replace("A", "B")),
    "MKL_CBWR": lambda _, patch: patch.setenv("MKL_CBWR", "AVX2,STRICT"),
    "ATEN_CPU_CAPABILITY": lambda _, patch: patch.setenv("ATEN_CPU_CAPABILITY", "default"),
    "LD_PRELOAD": lambda _, patch: patch.setenv("LD_PRELOAD", "/lib/another.so"),
    "a value that is no text": lambda _, patch: patch.setenv("MKL_CBWR", "\udcff"),
    "version of torch": lambda machine, _: (machine.torch / "version.py").write_text("__version__ = '2.14.0+cpu'"),
    "a library of torch": lambda machine, _: (machine.torch / "lib" / "libtorch_cpu.so").write_bytes(b"other"),
    "one more library": lambda machine, _: (machine.torch / "lib" / "libmkl.so").write_bytes(b""),
    "artifact format": lambda _, patch: patch.setattr(fetch, "ARTIFACT_FORMAT", 99),
    "this version": lambda _, patch: patch.setattr(fetch, "__version__", "99"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_any_difference_probes_anew(machine: Machine, difference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.ask()
    machine.arithmetic = "f" * 16
    DIFFERENCES[difference](machine, monkeypatch)
    assert machine.ask() == "f" * 16 != before
    assert machine.ask() == "f" * 16
    assert machine.probes == 2


def test_a_damaged_file_probes_anew(machine: Machine) -> None:
    before = machine.ask()
    whole = machine.file.read_bytes()
    at = whole.index(before.encode())
    damaged = [b"", whole[:-1], whole[: len(whole) // 2], b"{}", b"[]", b"null", b"\xff", b"[" * 100_000]
    damaged += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(0, len(whole), 53)]
    damaged += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(at, at + 16)]
    damaged.append(whole.replace(before.encode(), b"f" * 16))
    for data in damaged:
        machine.file.write_bytes(data)
        asked = machine.probes
        assert machine.ask() == before
        assert machine.probes == asked + 1
        assert machine.file.read_bytes() == whole


def test_a_file_of_another_machine_is_not_taken(machine: Machine) -> None:
    machine.ask()
    mine, foreign = machine.file, json.loads(machine.file.read_bytes())
    machine.set_cpu(CPUINFO.replace("avx2", "avx512f"))
    machine.file.unlink()
    machine.ask()
    machine.file.write_text(json.dumps(foreign))  # whole, under this machine's name
    assert mine != machine.file
    machine.ask()
    assert machine.probes == 3


def test_what_does_not_say_what_it_is_probes_always(machine: Machine) -> None:
    machine.cpuinfo.unlink()
    assert machine.ask() == machine.ask() == machine.arithmetic
    assert machine.probes == 2
    assert not machine.cache.exists()


def test_a_folder_that_cannot_be_written_is_no_failure(machine: Machine) -> None:
    machine.cache.write_bytes(b"a file")
    assert machine.ask() == machine.arithmetic


def test_once_torch_is_loaded_it_is_probed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.ask()
    monkeypatch.setattr(fetch, "_torch_is_loaded", lambda: True)
    machine.arithmetic = "f" * 16
    assert machine.ask() == "f" * 16


ASK = """
import sys
from pathlib import Path
from registry.services.artifacts.fetch import machine_fingerprint
print(machine_fingerprint(Path(sys.argv[1])), "torch" in sys.modules)
"""


@pytest.mark.slow
def test_processes_agree_and_the_next_one_needs_no_torch(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", ASK, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT)

    both = [start(), start()]
    assert {one.communicate(timeout=120)[0] for one in both} <= {f"{fingerprint()} True\n", f"{fingerprint()} False\n"}
    assert start().communicate(timeout=120)[0] == f"{fingerprint()} False\n"
    assert len(list(tmp_path.iterdir())) == 1  # nothing half written is left
