"""The Hub's Python client and its command line: files, repos, resuming, working offline, and what they ask for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.clients import contract
from tests.clients.conftest import NewMachine
from tests.clients.machines import step
from tests.clients.tree import DEEP, Tree
from tests.kit import plain_base, write_adapter
from tests.kit.shim import Fault, Shim

pytestmark = pytest.mark.slow
WEIGHTS = "model.safetensors"
MIB = 1 << 20


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".cache" not in path.parts
    }


def fetched(tree: Tree, reference: str, out: Path, kind: str) -> dict[str, str]:
    """The digests of what `registry fetch` gives, without its receipt."""
    tree.registry.fetch(reference, out, kind=kind)  # type: ignore[arg-type]
    return {name: digest for name, digest in digests(out).items() if name != "registry-receipt.json"}


@pytest.mark.parametrize(("view", "kind"), [("hf", "merged"), ("hf-lora", "lora"), ("hf-published", "published")])
def test_a_repo_is_what_fetch_gives(
    tree: Tree, wire: Shim, machine: NewMachine, tmp_path: Path, view: str, kind: str
) -> None:
    """By snapshot_download and by ``hf download``, as a whole and file by file."""
    one, repo = machine(view), f"llama/{DEEP}"
    told, whole, again = one.run(step("info", repo=repo), step("snapshot", repo=repo), step("snapshot", repo=repo))
    expected = fetched(tree, "llama/support/french/legal/task", tmp_path / "fetched", kind)
    if kind == "lora":  # fetch names the base by a folder or a name, a view by a repo of its own
        whole["files"].pop("adapter_config.json")
        expected.pop("adapter_config.json")
    assert whole["files"] == expected
    assert again["commit"] == whole["commit"] == told["commit"] == told["branches"]["main"] == told["commits"][0]
    assert told["id"] == repo
    assert told["files"] == sorted({*expected, "adapter_config.json"} if kind == "lora" else expected)

    name = WEIGHTS if kind == "merged" else "adapter_model.safetensors"
    printed = one.shell(f"hf download {repo} {name} --local-dir ./here && hf download {repo} --local-dir ./whole")
    assert printed
    assert digests(one.folder / "here") == {name: expected[name]}
    assert digests(one.folder / "whole").items() >= expected.items()
    names = contract.keeps_to(wire.seen(), one.endpoint, token=one.token)
    listed = {"tree"} if one.clients.version("huggingface_hub") >= (1, 0) else set()  # before, by the info alone
    assert set(names) >= {"resolve", "info", "refs", "commits"} | listed


def test_revisions_have_names_numbers_and_commits(tree: Tree, machine: NewMachine) -> None:
    for seed in (1, 2):
        tree.publish("llama/named", seed)
    tree.registry.tag("llama/named@1", "prod")
    one, repo = machine("hf-published"), "llama/named"
    by_tag, by_number, newest, second, told = one.run(
        step("snapshot", repo=repo, revision="prod"),
        step("snapshot", repo=repo, revision="r1"),
        step("snapshot", repo=repo),
        step("snapshot", repo=repo, revision="r2"),
        step("info", repo=repo, revision="prod"),
    )
    assert by_tag == by_number
    assert newest == second
    assert by_tag["commit"] != newest["commit"]
    assert by_tag["files"] != newest["files"]
    assert told["commit"] == told["tags"]["prod"] == by_tag["commit"]
    assert told["branches"]["main"] == newest["commit"]
    (pinned,) = machine("hf-published").run(step("snapshot", repo=repo, revision=by_tag["commit"]))
    assert pinned == by_tag
    for revision in ("r9", "nothing", "0" * 40):
        assert "RevisionNotFoundError" in one.refused(step("file", repo=repo, name=WEIGHTS, revision=revision)).error
    (exists, has_file, has_not) = one.run(
        step("asked", call="repo_exists", repo_id="llama/nobody"),
        step("asked", call="file_exists", repo_id=repo, filename="adapter_config.json"),
        step("asked", call="file_exists", repo_id=repo, filename="nothing.json"),
    )
    assert (exists, has_file, has_not) == (False, True, False)


def test_parts_of_a_virtual_file(tree: Tree, machine: NewMachine, tmp_path: Path) -> None:
    """Headers and ranges of a merged model, of which no file exists."""
    one, repo = machine("hf"), f"sharded/{DEEP}"
    expected = tree.registry.fetch("sharded/support/french/legal/task", tmp_path / "fetched", kind="merged").folder
    first = min(Path(expected).glob("*.safetensors"))
    names, part = one.run(
        step("tensors", repo=repo), step("part", repo=repo, name=first.name, start=300, end=first.stat().st_size - 5)
    )
    index = json.loads((Path(expected) / "model.safetensors.index.json").read_text())
    assert names.keys() == index["weight_map"].keys()
    assert bytes.fromhex(part) == first.read_bytes()[300:-5]


@pytest.fixture
def large(tree: Tree) -> str:
    """A path whose merged model has 24 MiB: clients resume in pieces of 10."""
    base = plain_base(tree.folder / "large-base", {f"{name}.weight": (2048, 1024) for name in ("one", "two", "three")})
    tree.registry.add_base("large", base.folder)
    tree.registry.publish(write_adapter(tree.folder / "large-link", base, r=2), "large/one")
    return "large/one"


def test_a_download_that_is_cut_is_resumed(tree: Tree, wire: Shim, machine: NewMachine, large: str) -> None:
    """In the same call or, by older clients, in the next: with a range, and the same bytes."""
    wire.faults.append(Fault(method="GET", target=f"resolve/.*{WEIGHTS}", cut_answer=15 * MIB, times=1))
    one = machine("hf")
    (first,) = one.try_steps(step("snapshot", repo=large))
    (second,) = one.run(step("snapshot", repo=large))
    assert first.value == second or first.error
    (untouched,) = machine("hf").run(step("snapshot", repo=large))
    assert second == untouched
    statuses = [seen.status for seen in wire.seen("GET", f"resolve/[0-9a-f]+/{WEIGHTS}")]
    assert statuses == [200, 206, 200]


@pytest.mark.long
def test_offline_after_the_first_load(tree: Tree, wire: Shim, machine: NewMachine) -> None:
    repo, text = f"llama/{DEEP}", "where is my order"
    merged, lora = machine("hf"), machine("hf-lora")
    models = (step("model", repo=repo), step("tokenizer", repo=repo, text=text))
    adapters = (step("adapted", base="llama/_", repo=repo), step("auto_adapted", repo=repo))
    running = [merged.start(*models, step("snapshot", repo=repo)), lora.start(*adapters)]
    first = [program.values() for program in running]
    wire.forget()
    local = [{**one, "local_files_only": True} for one in models]
    assert merged.run(*local, step("snapshot", repo=repo, local_files_only=True)) == first[0]
    for one in (merged, lora):
        one.close()
        one.settings = {"HF_HUB_OFFLINE": "1"}
    running = [merged.start(*models, step("snapshot", repo=repo)), lora.start(*adapters)]
    assert [program.values() for program in running] == first
    assert [seen for seen in wire.seen() if "agent-harnesses" not in seen.target] == []


def test_xet_changes_nothing(tree: Tree, wire: Shim, machine: NewMachine) -> None:
    """Installed, switched off, and not installed: the same requests and the same files."""
    found = []
    for settings in ({}, {"HF_HUB_DISABLE_XET": "1"}, {"GUARD_HIDES": "hf_xet"}):
        wire.forget()
        one = machine("hf", settings=settings)
        there, *files = one.run(step("xet"), step("snapshot", repo=f"llama/{DEEP}"), step("snapshot", repo="llama/_"))
        asked = sorted((seen.method, seen.target.partition("?")[0]) for seen in wire.seen())
        found.append((there, files, asked))
    assert [there for there, *_ in found] == [True, False, False]
    assert found[0][1:] == found[1][1:] == found[2][1:]
