"""Statistics from the command line: the table, the files, and what is refused before anything is computed."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest

import registry
from registry.schemas.statistics import COLUMNS, DENSE_COLUMNS, DenseStatistics, StatisticName, Statistics
from tests.cli.conftest import Run
from tests.kit import llama_base, write_chain
from tests.kit.recipes import Recipe, write_recipe


@pytest.fixture(scope="module")
def with_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry that holds a path of two links on two modules of two layers, and an adapter with a new head."""
    root = tmp_path_factory.mktemp("with-path")
    base = llama_base(root / "base")
    links = write_chain(root / "links", base, 2, ["q_proj", "down_proj"], r=3)
    other = write_recipe(root / "other", base, Recipe(("q_proj",), replaced=("lm_head",)))
    with registry.connect(root / "registry") as opened:
        opened.add_base("llama", base.folder)
        opened.publish(links[0], "llama/a")
        opened.publish(links[1], "llama/a/b")
        opened.publish(other, "llama/head")
    return root / "registry"


@pytest.fixture
def stats(with_path: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``stats`` with further words, in an empty folder."""
    monkeypatch.setenv("REGISTRY_URL", str(with_path))
    monkeypatch.chdir(tmp_path)
    return lambda *words: run("stats", *words)


def test_the_whole_rank_is_no_error(stats: Run) -> None:
    """Of two links of rank 3 the path has rank 6, which 99 % of the energy needs."""
    held = [line for line in stats("llama/a/b").out.splitlines() if line.startswith("rank ")]
    assert held[-1] == "rank 6 is all of it"
    assert len({line.split()[1] for line in held}) == len(held)


def test_a_row_for_each_link_and_the_path(stats: Run) -> None:
    ended = stats("llama/a/b")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["delta", "llama/a@1", "llama/a/b@1", "the"]
    assert lines[0].split()[1:] == ["rank", "norm", "of", "base", "stable", "effective", "95", "%"]
    assert [line.split()[-7] for line in lines[1:4]] == ["3", "3", "6"]
    assert any(
        line.startswith("rank ") and line.endswith("holds 95 % of the energy: an error of 22 %") for line in lines
    )
    at = lines.index("By kind")
    assert [line.split()[:3] for line in lines[at + 1 : at + 3]] == [
        ["mlp.down_proj", "2", "modules"],
        ["self_attn.q_proj", "2", "modules"],
    ]
    at = lines.index("By depth")
    assert [line.split()[:3] for line in lines[at + 1 :]] == [["0", "2", "modules"], ["1", "2", "modules"]]
    assert all(len(line) <= 80 for line in lines)


def test_what_the_figures_leave_out_is_said(stats: Run) -> None:
    lines = stats("llama/head").out.splitlines()
    assert lines[-2:] == ["Not in these figures", "  lm_head  replaced"]


def test_the_document_and_the_files_say_the_same(stats: Run) -> None:
    ended = stats("llama/a/b", "--json", "--csv", "figures.csv", "--plot", "change.svg")
    found = Statistics.model_validate_json(ended.out)
    with Path("figures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["delta"] for row in rows] == [*["llama/a@1"] * 4, *["llama/a/b@1"] * 4, *["llama..llama/a/b@1"] * 4]
    of_path = {row["module"]: float(row["frobenius"]) for row in rows[8:]}
    assert of_path == {module.module: module.frobenius for module in found.path.modules}

    drawing = ElementTree.parse("change.svg").getroot()
    space = {"svg": "http://www.w3.org/2000/svg"}
    told = [title.text or "" for title in drawing.iterfind("svg:rect/svg:title", space)]
    assert len(told) == 4
    module = max(found.path.modules, key=lambda one: one.relative_frobenius or 0)
    cell = f"{module.kind}, layer {module.depth}: {100 * (module.relative_frobenius or 0):.3g} %"
    (largest,) = (one for one in drawing.iterfind("svg:rect", space) if cell in (title.text for title in one))
    assert largest.get("class") == "plot-shade-7"
    assert drawing.get("role") == "img"
    assert [one.tag.rpartition("}")[2] for one in drawing[:2]] == ["title", "desc"]
    assert drawing.get("aria-label") == f"{drawing[0].text}. {drawing[1].text}"


def test_norms_that_are_not_known_are_asked_for(stats: Run, run: Run, with_path: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(with_path, copied)
    with closing(sqlite3.connect(copied / "registry.db")) as database:
        database.execute("DELETE FROM base_norms")
        database.execute("DELETE FROM statistics")
        database.commit()
    ended = run("stats", "llama/a", "--url", str(copied))
    assert ended.out.splitlines()[1].split()[3] == "-"
    assert "`registry base measure llama` reads its weights once" in ended.err
    assert run("base", "measure", "llama", "--url", str(copied)).code == 0
    ended = run("stats", "llama/a", "--url", str(copied))
    assert (ended.out.splitlines()[1].split()[4], ended.err) == ("%", "")


def test_since(stats: Run) -> None:
    found = Statistics.model_validate_json(stats("llama/a/b", "--since", "llama/a", "--json").out)
    assert (found.since, [link.reference for link in found.links]) == ("llama/a@1", ["llama/a/b@1"])


@pytest.mark.parametrize("option", ["--csv", "--plot"])
def test_files_that_cannot_be_written_are_refused_first(stats: Run, option: str, tmp_path: Path) -> None:
    ended = stats("llama/a/b", option, "no/such/folder/file")
    assert (ended.code, ended.out) == (2, "")
    assert f"{option} 'no/such/folder/file': there is no folder" in ended.err
    ended = stats("llama/a/b", option, str(tmp_path))
    assert (ended.code, ended.out) == (2, "")


def test_a_base_model_has_none(stats: Run) -> None:
    ended = stats("llama")
    assert (ended.code, ended.out) == (2, "")
    assert "llama is a base model, which no link has changed yet" in ended.err


def test_show_says_what_is_kept(stats: Run, run: Run, with_path: Path, tmp_path: Path) -> None:
    found = Statistics.model_validate_json(stats("llama/a/b", "--json").out).links[1].delta
    (line,) = (line for line in run("show", "llama/a/b").out.splitlines() if line.startswith("  statistics"))
    share, effective = found.relative_frobenius or 0, found.effective_rank
    figures = [f"{100 * share:.2g} % of the base, ", f"effective rank {effective:.3g}, ", f"rank95 {found.rank95} of 3"]
    assert " ".join(line.split()[1:]) == "".join(figures)
    shown = json.loads(run("show", "llama/a/b", "--json").out)["revision"]["statistics"]
    kept = {name: getattr(found, name) for name in get_args(StatisticName)}
    assert shown == {name: figure for name, figure in kept.items() if figure is not None}

    assert stats("llama/head").code == 0
    copied = tmp_path / "copied"
    shutil.copytree(with_path, copied)
    with closing(sqlite3.connect(copied / "registry.db")) as database:
        database.execute("DELETE FROM statistic_values")
        database.commit()
    for how in ((), ("--json",)):
        assert "statistics" not in run("show", "llama/a/b", "--url", str(copied), *how).out


def test_search_by_statistics(stats: Run, run: Run) -> None:
    assert stats("llama/a/b").code == 0
    ended = run(
        "search", "llama/a", "--stat", "rank95<=3", "--stat", "rank99>0", "--sort", "min:stat:energy", "--limit", "9"
    )
    assert sorted(line.split()[0] for line in ended.out.splitlines()) == ["llama/a/b@1", "llama/a@1"]
    first = next(line for line in ended.out.splitlines() if line.startswith("llama/a@1"))
    assert [word.partition("=")[0] for word in first.split() if "=" in word] == ["energy", "rank95", "rank99"]
    assert "What has no statistics yet is not found" in ended.err
    assert run("search", "--path", "llama/a", "--depth", "0", "--author", "nobody").err == "No revisions match.\n"
    assert "takes the name of one module, such as q_proj," in run("search", "--target", "q_proj,v_proj").err
    assert "nobody" not in run("search", "--author", "nobody", "--sort", "min:stat:rank95").err
    ended = run("search", "--sort", "min:accuracy")
    assert ended.err.startswith(
        "No revisions match.\nNo revision that matches has the metric accuracy; `registry show "
    )
    ended = run("search", "--stat", "rank<8")
    assert (ended.code, ended.out) == (2, "")
    assert "'rank' is no statistic; there are energy, frobenius, " in ended.err


def test_dense(stats: Run) -> None:
    ended = stats("llama/a/b", "--dense", "--csv", "dense.csv", "--json")
    found = DenseStatistics.model_validate_json(ended.out)
    with Path("dense.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == DENSE_COLUMNS
    assert [(row["module"], float(row["least_cosine"])) for row in rows] == [
        (one.module, min(one.cosines)) for one in found.matrices
    ]
    ended = stats("llama/a/b", "--dense")
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["weight", *(one.module for one in found.matrices)]
    assert lines[6].startswith("together: norm ")
    assert lines[6].endswith(
        f"{found.intruders} intruder dimensions" if found.intruders != 1 else "1 intruder dimension"
    )
    assert all(len(line) <= 80 for line in lines[5:])
    head = stats("llama/head", "--dense").out
    assert [line.split()[-1] for line in head.splitlines() if line.startswith("lm_head")] == ["10"]
    ended = stats("llama/a/b", "--dense", "--plot", "x.svg")
    assert (ended.code, ended.out) == (2, "")
    assert "leave out --dense" in ended.err
