"""Rules of the house that no linter knows."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from statistics import quantiles

import pytest

from tests.house import indexes, module_map, python_page, route_table
from tests.house.rooms import circles, imports_between_rooms
from tests.root import ROOT

MOST_LINES = 600
MOST_LINES_OF_NINE_IN_TEN = 350
LEAST_LINES = 60
SMALL = {
    "__main__.py": "Python starts it by this name",
    "version.py": "both distributions read it while they are built",
    "distribution.py": "what is missing from the client is asked for before anything of it is imported",
    "progress.py": "tensors, storage and commands all know it, and it knows none of them",
    "tensors/arithmetic/dtypes.py": "every floor of the tensor core reads it",
    "tensors/checkpoint/variants/table.py": "a new variant is a file, and a row here",
    "training/axolotl.py": "axolotl's YAML names it",
    "tensors/composed/mlx_folder.py": "a reader of its own, beside llama.cpp's and the image models'",
}
"""Modules of fewer lines, with what keeps them apart."""
# Folders of tests that are about more than one package; all others stand where the package does that they test.
ACROSS = {"architectures", "clients", "fuzz", "house", "journeys", "kit", "trials", "unchanged"}
VAGUE_NAMES = {"utils", "common", "helpers", "base", "core"}
# Joined here, so that this file doesn't name them either.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("deb", "debian", "org"),
        ("crates", "io"),
        ("golang", "org"),
        ("anaconda", "org"),
    )
]


def tracked_files() -> list[Path]:
    """Everything that is in the repository or would be added to it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so what is tracked isn't known")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def modules() -> list[Path]:
    return sorted(path for path in (ROOT / "registry").rglob("*.py") if "__pycache__" not in path.parts)


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")


def test_no_tracked_file_names_a_package_registry() -> None:
    found = [
        (path.relative_to(ROOT), host) for path in tracked_files() for host in REGISTRY_HOSTS if host in text_of(path)
    ]
    assert found == []


def test_no_tracked_file_holds_a_path_of_this_machine() -> None:
    here = [str(ROOT), str(Path.home()) + "/"]
    patterns = [re.compile(r"(?<![\w.])" + re.escape(path)) for path in here if len(path) > 2]
    found = [
        path.relative_to(ROOT) for path in tracked_files() for pattern in patterns if pattern.search(text_of(path))
    ]
    assert found == []


def test_no_tracked_file_is_large() -> None:
    """Weights and results don't belong into the repository."""
    assert [path.relative_to(ROOT) for path in tracked_files() if path.stat().st_size > 1 << 20] == []


def test_modules_fit_in_the_head() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}
    assert quantiles(lengths.values(), n=10)[-1] < MOST_LINES_OF_NINE_IN_TEN


def test_a_small_module_says_what_keeps_it_apart() -> None:
    package = ROOT / "registry"
    lengths = {
        str(path.relative_to(package)): len(path.read_text().splitlines())
        for path in modules()
        if path.stem != "__init__"
    }
    assert {name for name, lines in lengths.items() if lines < LEAST_LINES} == set(SMALL)


def test_no_folder_holds_one_module() -> None:
    """A folder is a door, too: one for a single module leads to what could stand beside it."""
    counts = Counter(path.parent for path in modules() if path.stem != "__init__")
    counts.update(
        path.parent.parent for path in modules() if path.stem == "__init__" and path.parent != ROOT / "registry"
    )
    assert [str(folder.relative_to(ROOT)) for folder, n in counts.items() if n == 1] == []


def test_no_circle_between_folders() -> None:
    """A folder's modules count as one; where it has folders of its own, each module beside them counts alone."""
    assert circles(imports_between_rooms(ROOT / "registry")) == []


def test_modules_are_named_for_what_they_do() -> None:
    assert [path for path in modules() if path.stem in VAGUE_NAMES or path.parent.name in VAGUE_NAMES] == []


def test_folders_of_tests_mirror_the_package() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    mirrored = {folder for folder in folders if folder.parts and folder.parts[0] not in ACROSS}
    assert {str(folder) for folder in mirrored if not (ROOT / "registry" / folder).is_dir()} == set()


def test_the_architecture_page_lists_every_package_as_it_is() -> None:
    page = module_map.PAGE.read_text(encoding="utf-8")
    assert page == module_map.with_map(page, ROOT / "registry"), "run `make format`, which writes the list"


def test_the_page_on_http_lists_every_operation_as_the_table_has_it() -> None:
    page = route_table.PAGE.read_text(encoding="utf-8")
    assert page == route_table.with_table(page), "run `make format`, which writes the list"


def test_commands_and_decisions_are_listed() -> None:
    page = indexes.CLI.read_text(encoding="utf-8")
    assert page == indexes.with_commands(page), "run `make format`, which writes the list"
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| [`registry ")}
    assert listed == {name for name, _ in indexes.commands()}
    assert indexes.DECISIONS.read_text(encoding="utf-8") == indexes.decisions(), "run `make format`, which writes it"


def test_the_page_on_python_says_what_the_docstrings_say() -> None:
    page = python_page.PAGE.read_text(encoding="utf-8")
    assert page == python_page.with_reference(page), "run `make format`, which writes the reference"


def test_the_architecture_page_draws_every_layer() -> None:
    page = module_map.PAGE.read_text(encoding="utf-8")
    drawing = page.partition("## Layers")[2].partition("## What happens")[0]
    parts = [path.name for path in (ROOT / "registry").iterdir() if (path / "__init__.py").exists()]
    parts += [path.stem for path in (ROOT / "registry").glob("*.py") if path.stem != "__init__"]
    assert [part for part in parts if not re.search(rf"\b{part}\b", drawing)] == []


def test_decisions_are_numbered_without_gaps_and_fit_a_page() -> None:
    files = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in files] == list(range(1, len(files) + 1))
    for path in files:
        words = len(path.read_text().split())
        assert words <= 500, f"{path.name} has {words} words"


def test_every_page_is_on_the_site_and_told_for_whom_it_is() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} | {"decisions/README.md"}
    assert set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())) == pages | {"README.md"}
    assert set(re.findall(r"\]\(([\w/-]+\.md)\)", (ROOT / "docs" / "README.md").read_text())) == pages


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())]
    local = [(page, link) for page, link in links if not link.startswith(("http:", "https:", "mailto:"))]
    dead = [(page.name, link) for page, link in local if not (page.parent / link).exists()]
    assert dead == []


def test_links_to_headings_lead_to_one() -> None:
    pages = [path.resolve() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))]
    headings = {
        page: {anchor(line) for line in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)} for page in pages
    }
    dead = [
        (page.name, target, heading)
        for page in pages
        for target, heading in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", page.read_text())
        if heading not in headings.get((page.parent / target).resolve() if target else page, {heading})
    ]
    assert dead == []


def anchor(heading: str) -> str:
    """What the text of a heading is in a link to it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def test_make_help_lists_every_target() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    phony = next(line for line in lines if line.startswith(".PHONY:")).split()[1:]
    # Under `make test` the flags of the outer make would have this one announce its folder.
    outer = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    shown = subprocess.run(["make", "help"], cwd=ROOT, env=outer, check=True, capture_output=True, text=True).stdout
    assert [line.split()[1] for line in shown.splitlines()] == phony
