"""adapter-registry-client: built from the same tree, works against a service, and leaves alone what is installed."""

from __future__ import annotations

import json
import os
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import Any

import grimp
import pytest
from packaging.requirements import Requirement

from registry import __version__, connect
from tests.conftest import StartService
from tests.house.environments import attempt, environment, link, run, with_dependencies
from tests.kit import Base, plain_base, write_adapter
from tests.root import ROOT

HEAVY = {"torch", "numpy", "safetensors", "transformers", "huggingface_hub", "sqlalchemy", "alembic", "fastapi",
         "starlette", "uvicorn", "boto3", "botocore", "psycopg", "prometheus_client", "regex"}  # fmt: skip
# Imported where they are there.
OPTIONAL = {"huggingface_hub", "vllm", "pandas", "IPython", "peft", "transformers", "axolotl"}
GUARDED = {"registry.app", "registry.cli.commands.demo", "registry.follow.s3"}  # ask `registry.distribution` first
# What pip knows of an environment for training of a year ago.
OTHERS = {
    "transformers": ("4.57.1", ["huggingface-hub<1.0,>=0.34.0", "torch>=2.2"]),
    "huggingface_hub": ("0.36.0", []),
    "torch": ("2.8.0", []),
}


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


CLIENT = project(ROOT / "client")
PARTS = CLIENT["tool"]["hatch"]["build"]["hooks"]["custom"]["parts"]
NEEDED = CLIENT["project"]["dependencies"]


def files() -> set[str]:
    """Of the parts, as they stand in the tree."""
    found = {path for part in PARTS for path in [ROOT / part, *(ROOT / part).rglob("*")] if path.is_file()}
    return {str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts}


def modules() -> set[str]:
    names = {Path(name).with_suffix("") for name in files() if name.endswith(".py") and name.startswith("registry/")}
    return {".".join(name.parent.parts if name.name == "__init__" else name.parts) for name in names}


@pytest.mark.long
def test_the_parts_import_nothing_that_is_left_out() -> None:
    graph = grimp.build_graph(
        "registry", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    imported = {(one, other) for one in modules() for other in graph.find_modules_directly_imported_by(one)}
    own = {(one, other) for one, other in imported if other.partition(".")[0] == "registry"}
    assert {one for one, other in own if other not in modules()} == GUARDED
    others = {other.partition(".")[0] for _, other in imported - own} - set(sys.stdlib_module_names)
    assert others <= {Requirement(text).name for text in NEEDED} | OPTIONAL


@pytest.mark.slow
def test_it_needs_what_the_whole_needs_and_nothing_heavy(client_wheel: Path) -> None:
    whole = project(ROOT)["project"]
    assert set(NEEDED) <= set(whole["dependencies"])
    for table in ("scripts", "entry-points", "requires-python", "license", "classifiers"):
        assert CLIENT["project"][table] == whole[table]
    with zipfile.ZipFile(client_wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    assert (metadata["Name"], metadata["Version"]) == ("adapter-registry-client", __version__)
    asked = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    plain = {one.name for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})}
    assert plain == {Requirement(text).name for text in NEEDED}
    assert not plain & {name.replace("_", "-") for name in HEAVY}


@pytest.mark.slow
def test_the_wheel_carries_its_parts_and_nothing_else(client_wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(client_wheel).namelist() if ".dist-info/" not in name}
    assert names == files()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An environment with the client's dependencies, and older packages that pip knows and nobody can import."""
    folder = tmp_path_factory.mktemp("client")
    python, packages = environment(folder / "venv")
    for one in with_dependencies(NEEDED).values():
        link(one, packages)
    for name, (version, needs) in OTHERS.items():
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text(f"raise AssertionError('{name} was imported')\n")
        about = packages / f"{name}-{version}.dist-info"
        about.mkdir()
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {need}" for need in needs)]
        (about / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
        (about / "RECORD").write_text(f"{name}/__init__.py,,\n{about.name}/METADATA,,\n{about.name}/RECORD,,\n")
    return python, packages


def state(packages: Path) -> dict[str, tuple[int, str]]:
    """Every file of the older packages: when it was written, and what it holds."""
    found = (path for name in OTHERS for path in packages.glob(f"{name}*/*"))
    return {str(path): (path.stat().st_mtime_ns, path.read_text()) for path in found}


@pytest.fixture(scope="module")
def client(client_wheel: Path, others: tuple[Path, Path]) -> Path:
    """The command, where pip has installed the wheel: with a look at its requirements, and without any index."""
    python, packages = others
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    before, listed = state(packages), set(os.listdir(packages))  # noqa: PTH208 (names)
    run(*pip, "install", "--no-index", client_wheel, cwd=packages)
    assert state(packages) == before
    made = {"registry", "adapter_registry", f"adapter_registry_client-{__version__}.dist-info"}
    assert set(os.listdir(packages)) - listed == made  # noqa: PTH208
    assert "No broken requirements found" in run(*pip, "check", cwd=packages)
    return python.with_name("registry")


def homes(folder: Path) -> dict[str, str]:
    return {name: str(folder / name) for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}


@pytest.mark.slow
def test_it_starts_and_says_what_it_is(client: Path, tmp_path: Path) -> None:
    assert run(client, "--version", cwd=tmp_path) == f"adapter-registry-client {__version__}\n"
    assert "publish" in run(client.with_name("adapter-registry"), "--help", cwd=tmp_path)
    plugin = "from importlib.metadata import entry_points; print(*entry_points(group='vllm.general_plugins'))"
    load = f"{plugin}; [one.load() for one in entry_points(group='vllm.general_plugins')]"
    assert "adapter_registry.vllm.plugin:register" in run(client.with_name("python"), "-c", load, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "needed_to"),
    [
        (["tree", "--url", "FOLDER"], "open the registry in the folder FOLDER"),
        (["publish", "FOLDER", "net/one"], "open the registry in the folder HOME/adapter-registry"),
        (["serve", "--url", "FOLDER"], "serve a registry"),
        (["db", "upgrade"], "upgrade a database"),
        (["demo"], "run the demo"),
    ],
)
def test_what_needs_the_rest_says_which_distribution_has_it(
    words: list[str], needed_to: str, client: Path, tmp_path: Path
) -> None:
    words = [word.replace("FOLDER", str(tmp_path / "folder")) for word in words]
    refused = attempt(client, *words, "--json", cwd=tmp_path, **homes(tmp_path))
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    problem = json.loads(line)
    assert problem["code"] == "client_only"
    needed_to = needed_to.replace("FOLDER", str(tmp_path / "folder")).replace("HOME", str(tmp_path / "XDG_DATA_HOME"))
    start = f"The distribution adapter-registry is needed to {needed_to}, and only adapter-registry-client is installed"
    assert problem["message"].startswith(f"{start} here: pip install adapter-registry")
    assert sorted(path.name for path in tmp_path.iterdir()) == []


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})


@pytest.fixture
def team(base: Base, tmp_path: Path, start_service: StartService) -> str:
    """The address of a service that knows the base model."""
    registry = connect(tmp_path / "registry")
    registry.add_base("net", base.folder)
    registry.close()
    return start_service({"REGISTRY_URL": str(tmp_path / "registry")}).url


IN_PYTHON = """
import sys
import adapter_registry
from adapter_registry.errors import UnavailableError

url, merged, base = sys.argv[1:]
team = adapter_registry.connect(url)
assert [node.path for root in team.tree().roots for node in root.children] == ["net/one"]
assert team.verify(merged).equal

def code(call, *args, **options):
    try:
        call(*args, **options)
    except UnavailableError as error:
        assert "pip install adapter-registry" in str(error), error
        return error.code

codes = [
    code(team.fetch, "net/one", "here", kind="merged", base_dir=base),
    code(lambda: next(iter(team.artifact("net/one").tensors()))),
    code(adapter_registry.connect, "folder"),
]
assert codes == ["client_only"] * 3, codes
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.slow
def test_it_does_the_main_job_against_a_service(client: Path, team: str, base: Base, tmp_path: Path) -> None:
    there = {"REGISTRY_URL": team, **homes(tmp_path)}
    adapter = write_adapter(tmp_path / "one", base, ["a", "b"], r=2)
    published = run(client, "publish", adapter, "net/one", "--tag", "prod", cwd=tmp_path, **there)
    assert published.splitlines()[0].strip() == "net/one@1"
    told = json.loads(run(client, "tree", "--json", cwd=tmp_path, **there))
    assert [root["children"][0]["path"] for root in told["roots"]] == ["net/one"]
    run(client, "fetch", "net/one@prod", "--as", "merged", "-o", tmp_path / "merged", cwd=tmp_path, **there)
    whole = connect(tmp_path / "registry")
    whole.fetch("net/one@prod", tmp_path / "whole", kind="merged")
    whole.close()
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    python = client.with_name("python")
    loaded = run(python, "-c", IN_PYTHON, team, tmp_path / "merged", base.folder, cwd=tmp_path, **homes(tmp_path))
    assert not HEAVY & set(loaded.split())
