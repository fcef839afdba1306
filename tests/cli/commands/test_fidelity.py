"""What is printed of fidelity: by fetch and its report, materialise, show, verify and stats."""

from __future__ import annotations

from pathlib import Path

import pytest

import registry
from registry.schemas import Fetched, Fidelity, Verified
from registry.schemas.statistics import Statistics
from tests.cli.conftest import Ended, Run
from tests.kit import plain_base, write_chain


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry that holds a path of two links."""
    root = tmp_path_factory.mktemp("fidelity")
    base = plain_base(root / "base", {"a.weight": (400, 300), "b.weight": (24, 16)}, dtype="BF16")
    links = write_chain(root / "links", base, 2, ["a", "b"], size=0.01)
    opened = registry.connect(root / "registry")
    opened.add_base("net", base.folder)
    opened.publish(links[0], "net/a")
    opened.publish(links[1], "net/a/b", parent="net/a@1")
    opened.close()
    return root / "registry"


@pytest.fixture
def here(home: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("REGISTRY_URL", str(home))
    monkeypatch.setenv("REGISTRY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return run


def ok(ended: Ended) -> Ended:
    assert ended.code == 0, ended.err
    return ended


def test_fetch_says_it_in_a_line_and_writes_a_report(here: Run) -> None:
    ended = ok(here("fetch", "net/a/b", "--as", "merged", "-o", "out", "--report", "report.json"))
    (line,) = [line for line in ended.err.splitlines() if "fidelity" in line]
    assert "fidelity in bf16, on every 16th row: " in line
    assert "of the change survives, error " in line
    report = Fidelity.model_validate_json(Path("report.json").read_text())
    assert [one.tensor for one in report.tensors] == ["a.weight", "b.weight"]
    again = ok(here("fetch", "net/a/b", "--as", "merged", "-o", "out", "--fidelity", "full", "--json"))
    answer = Fetched.model_validate_json(again.out)
    assert answer.fidelity is not None
    assert answer.fidelity.rows == "full"
    verified = ok(here("verify", "out", "--json"))
    assert Verified.model_validate_json(verified.out).fidelity == answer.fidelity
    assert "on all rows" in ok(here("verify", "out")).err


def test_nothing_is_said_of_an_adapter(here: Run) -> None:
    ended = ok(here("fetch", "net/a", "-o", "lora", "--json"))
    assert "fidelity" not in ended.out + ended.err


def test_a_base_model_has_no_report(here: Run) -> None:
    ended = ok(here("fetch", "net", "--as", "merged", "-o", "out", "--report", "report.json"))
    assert "nothing was measured, so report.json is not written" in ended.err
    assert not Path("report.json").exists()


def test_materialise_and_show_print_it(here: Run) -> None:
    made = ok(here("materialise", "net/a", "--as", "merged")).out
    (line,) = [line for line in made.splitlines() if line.strip().startswith("fidelity")]
    words = line.strip().removeprefix("fidelity").strip()
    assert words.startswith("100 % of the change survives")
    assert "of the change survives" in ok(here("show", "net/a")).out


def test_stats_estimate_it(here: Run) -> None:
    shown = ok(here("stats", "net/a/b", "--fidelity", "bf16")).out
    assert "Fidelity in bf16, estimated from 241 kB of the base model's rows" in shown
    rows = [line.split() for line in shown[shown.index("Fidelity in bf16") :].splitlines()[2:]]
    assert [row[0] for row in rows] == ["net/a@1", "net/a/b@1", "the"]
    answer = Statistics.model_validate_json(ok(here("stats", "net/a/b", "--fidelity", "fp32", "--json")).out)
    assert answer.fidelity is not None
    assert answer.fidelity.dtype == "fp32"
    assert "fidelity" not in ok(here("stats", "net/a/b", "--json")).out
