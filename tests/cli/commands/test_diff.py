"""Deltas from the command line: the tables, the files, and what is refused before anything is computed."""

from __future__ import annotations

import csv
from pathlib import Path
from xml.etree import ElementTree

import pytest

import registry
from registry.schemas.difference import DELTA_COLUMNS, MATRIX_COLUMNS, DeltaMatrix, Difference
from tests.cli.conftest import Run
from tests.kit import llama_base, write_adapter
from tests.kit.recipes import Recipe, write_recipe

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def with_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten children of a base model, the last is a smaller first one; one has a child with a new head."""
    root = tmp_path_factory.mktemp("with-family")
    base, other = llama_base(root / "base"), llama_base(root / "other", seed=9)
    with registry.connect(root / "registry") as opened:
        opened.add_base("llama", base.folder)
        opened.add_base("other", other.folder)
        for n in range(9):
            adapter = write_adapter(root / f"c{n}", base, ["q_proj", "down_proj"], r=3, seed=n)
            opened.publish(adapter, f"llama/c{n}")
        opened.publish(write_adapter(root / "c9", base, ["q_proj", "down_proj"], r=3, seed=0, alpha=1), "llama/c9")
        head = write_recipe(root / "head", base, Recipe(("q_proj",), replaced=("lm_head",)))
        opened.publish(head, "llama/c0/head")
        for n in range(2):
            opened.publish(write_adapter(root / f"below{n}", base, ["v_proj"], seed=n), f"llama/c1/b{n}")
        opened.publish(write_adapter(root / "there", other, ["q_proj"]), "other/c")
    return root / "registry"


@pytest.fixture
def diff(with_family: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``diff`` with further words, in an empty folder."""
    monkeypatch.setenv("REGISTRY_URL", str(with_family))
    monkeypatch.chdir(tmp_path)
    return lambda *words: run("diff", *words)


def test_deltas_come_after_what_else_differs(diff: Run) -> None:
    plain, ended = diff("llama/c0", "llama/c1"), diff("llama/c0", "llama/c1", "--deltas")
    assert (ended.code, ended.err, plain.err) == (0, "", "")
    assert ended.out.startswith(plain.out)
    lines = ended.out.removeprefix(plain.out).splitlines()
    assert lines[:2] == ["", "Deltas"]
    assert [line.split()[:4] for line in lines[2:4]] == [
        ["a", "llama..llama/c0@1", "norm", lines[2].split()[3]],
        ["b", "llama..llama/c1@1", "norm", lines[3].split()[3]],
    ]
    assert lines[5].split() == ["cosine", "energy", "a", "undone", "inputs", "outputs"]
    assert [line.split()[0] for line in lines[6:9]] == ["all", "mlp.down_proj", "self_attn.q_proj"]
    assert lines[10].split()[0] == "layer"
    assert [line.split()[0] for line in lines[11:]] == ["0", "1"]
    assert all(len(line) <= 80 for line in lines)


def test_a_revision_and_itself(diff: Run) -> None:
    lines = diff("llama/c0", "llama/c0@1", "--deltas").out.splitlines()
    assert lines[1:4] == ["nothing differs", "", "Deltas"]
    assert lines[8].split() == ["all", "1.000", "2.000", "-100", "%", "100", "%", "100", "%"]


def test_what_the_figures_leave_out_is_said(diff: Run) -> None:
    lines = diff("llama/c0/head", "llama/c0", "--deltas").out.splitlines()
    assert lines[-2:] == ["Not in these figures", "  lm_head  a: replaced"]
    header = next(line for line in lines if "cosine" in line)
    assert "b undone" in header  # the parent


def test_the_document_and_the_files_say_the_same(diff: Run) -> None:
    ended = diff("llama/c0", "llama/c9", "--json", "--csv", "figures.csv", "--plot", "agreement.svg")
    found = Difference.model_validate_json(ended.out).deltas
    assert found is not None
    with Path("figures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == DELTA_COLUMNS
    assert {row["module"]: row["cosine"] for row in rows} == {
        module.module: "" if module.cosine is None else repr(module.cosine) for module in found.modules
    }
    cells = [one for one in ElementTree.parse("agreement.svg").getroot().iterfind(f"{SVG}rect") if len(one)]
    assert {one[0].text: one.get("class") for one in cells} == {
        f"{kind}, layer {layer}: 1": "plot-above-4"
        for kind in ("mlp.down_proj", "self_attn.q_proj")
        for layer in (0, 1)
    }
    diff("llama/c1", "llama/c1/b0", "--csv", "figures.csv", "--plot", "agreement.svg")
    with Path("figures.csv").open(newline="") as file:
        assert {row["cosine"] for row in csv.DictReader(file)} == {""}  # they change other modules
    assert not [one for one in ElementTree.parse("agreement.svg").getroot().iterfind(f"{SVG}rect") if len(one)]


def test_all_pairs_of_few_children(diff: Run) -> None:
    ended = diff("--matrix", "llama/c1")
    lines = ended.out.splitlines()
    assert lines[0].split() == ["child", "norm", "1", "2"]
    assert [line.split()[:2] for line in lines[1:3]] == [["1", "llama/c1/b0@1"], ["2", "llama/c1/b1@1"]]
    assert lines[1].split()[3] == "1.00" == lines[2].split()[4]
    assert lines[1].split()[4] == lines[2].split()[3]


def test_the_pairs_that_agree_most_of_many_children(diff: Run) -> None:
    ended = diff("--matrix", "llama", "--plot", "matrix.svg", "--csv", "pairs.csv")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].split() == ["child", "norm"]
    assert lines[1].split()[:2] == ["1", "llama/c0@1"]
    at = next(n for n, line in enumerate(lines) if line.split() == ["a", "b", "cosine", "energy"])
    assert lines[at + 1].split()[:2] == ["1", "10"]  # the last one is a smaller first one
    assert lines[-1] == "  and 33 more pairs with cosines nearer to 0"
    found = DeltaMatrix.model_validate_json(diff("--matrix", "llama", "--json").out)
    with Path("pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == MATRIX_COLUMNS
    assert len(rows) == 45
    assert float(rows[8]["cosine"]) == found.cosine[0][9]
    drawing = ElementTree.parse("matrix.svg").getroot()
    told = [one[0].text for one in drawing.iterfind(f"{SVG}rect") if len(one)]
    assert len(told) == 90
    assert f"1 c0@1, child 10: {found.cosine[0][9]:.3g}" in told


def test_a_child_has_no_pairs(diff: Run) -> None:
    ended = diff("--matrix", "llama/c0")
    lines = ended.out.splitlines()
    assert (ended.code, lines[0].split(), lines[1].split()[1]) == (0, ["child", "norm", "1"], "llama/c0/head@1")
    assert lines[-2:] == ["Not in these figures", "  llama/c0/head@1  lm_head  replaced"]
    assert "Pairs are compared, and llama/c0 has 1 child." in ended.err
    assert "llama/c9 has 0 children." in diff("--matrix", "llama/c9").err


def test_deltas_of_other_base_models_are_refused(diff: Run) -> None:
    assert diff("llama/c0", "other/c").code == 0
    for option in (["--deltas"], ["--plot", "a.svg"], ["--csv", "a.csv"]):
        ended = diff("llama/c0", "other/c", *option)
        assert (ended.code, ended.out) == (2, "")
        assert "llama/c0@1 and other/c@1 are on different base models, llama and other" in ended.err
    assert not [*Path().iterdir()]


@pytest.mark.parametrize("words", [[], ["llama/c0"], ["llama/c0", "--matrix", "llama"]])
def test_two_revisions_or_a_path(diff: Run, words: list[str]) -> None:
    ended = diff(*words)
    assert (ended.code, ended.out) == (2, "")
    assert "give registry diff A B or registry diff --matrix PATH" in ended.err


@pytest.mark.parametrize("option", ["--csv", "--plot"])
def test_files_that_cannot_be_written_are_refused_first(diff: Run, option: str) -> None:
    ended = diff("llama/c0", "llama/c1", option, "no/such/folder/file")
    assert (ended.code, ended.out) == (2, "")
    assert f"{option} 'no/such/folder/file': there is no folder" in ended.err
