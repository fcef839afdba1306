"""Exports to a Hub, by its own client over real HTTP: what is written, and what is left as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry.errors import ConflictError, NotAllowedError, RegistryError, UnavailableError, UsageError
from registry.services.local import LocalRegistry
from tests.kit import llama_base
from tests.kit.hub_folder import hub_client
from tests.kit.hub_writing import WritableHub
from tests.transfer.export_house import BASE, CHILD, CHILD_1, PARENT, TELLTALES, House, opened

REPO = "acme/bird"
TARGET = f"hf:{REPO}"
LOADED = """
import sys, torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

lora, merged, base = sys.argv[1:]
on_base = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), lora)
models = [AutoPeftModelForCausalLM.from_pretrained("acme/lora"), AutoModelForCausalLM.from_pretrained("acme/merged")]
models += [on_base, AutoModelForCausalLM.from_pretrained(merged)]
with torch.no_grad():
    first, *others = [model.eval()(torch.arange(8)[None]).logits for model in models]
for one in others:
    torch.testing.assert_close(one, first, rtol=1e-3, atol=1e-4)
"""
BY_LFS = """
import sys, registry
with registry.connect(sys.argv[1]) as team:
    print(team.export(sys.argv[2], sys.argv[3], kind="merged").commit)
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("hub")
    with closing(opened(folder)) as registry:
        yield House.build(folder, registry)


@pytest.fixture
def hub() -> Iterator[WritableHub]:
    with WritableHub() as running:
        yield running


@pytest.fixture(autouse=True)
def client(hub: WritableHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with hub_client(monkeypatch, hub.url, tmp_path / "hub-cache", hub.token):
        yield


def refused(house: House, kind: type[RegistryError], match: str, target: str = TARGET, **options: Any) -> RegistryError:
    with pytest.raises(kind, match=match) as error:
        house.registry.export(CHILD_1, target, **options)
    return error.value


def test_one_private_commit_and_none_the_second_time(house: House, hub: WritableHub) -> None:
    exported = house.registry.export(CHILD_1, TARGET)
    repo = hub.repos[REPO]
    assert (repo.private, exported.public, exported.created) == (True, False, True)
    assert [one.title for one in repo.commits[1:]] == [f"Export of {house.digest[7:19]} as lora"]
    assert exported.commit == repo.head.id
    assert {one.path: one.size for one in exported.files} == {
        path: len(data) for path, data in repo.head.files.items() if path != ".gitattributes"
    }
    again = house.registry.export(CHILD_1, TARGET)
    assert (again.created, again.commit, len(repo.commits)) == (False, exported.commit, 2)


def test_no_byte_that_was_sent_holds_a_name(house: House, hub: WritableHub) -> None:
    import base64
    import json

    for number, kind in enumerate(("lora", "merged", "published")):
        house.registry.export(CHILD_1, f"{TARGET}-{number}", kind=kind)  # type: ignore[arg-type]
    sent = b"".join(hub.bodies) + " ".join(hub.seen).encode()
    for repo in hub.repos.values():
        sent += b"".join(path.encode() + data for path, data in repo.head.files.items())
    for body in hub.bodies:
        for line in body.splitlines() if body.startswith(b'{"key"') else []:
            sent += base64.b64decode(json.loads(line)["value"].get("content", ""))
    assert [word for word in TELLTALES if word.encode() in sent.lower()] == []


def test_another_revision_replaces_the_files(house: House, hub: WritableHub) -> None:
    house.registry.export(CHILD_1, TARGET)
    exported = house.registry.export(f"{PARENT}@1", TARGET, kind="merged", with_names=True)
    repo = hub.repos[REPO]
    assert repo.head.title == f"Export of {PARENT}@1 as merged"
    assert set(repo.head.files) == {".gitattributes", *(one.path for one in exported.files)}
    assert "adapter_config.json" not in repo.head.files


def test_what_is_public_is_said(house: House, hub: WritableHub) -> None:
    assert house.registry.export(CHILD_1, TARGET, public=True).public
    assert not hub.repos[REPO].private
    error = refused(house, ConflictError, "is public: everybody would see")
    assert error.code == "repo_taken"
    hub.create("acme/mine", private=True)
    exported = house.registry.export(CHILD_1, "hf:acme/mine", public=True)
    assert exported.public is False
    assert any("stays private" in notice for notice in exported.notices)


def test_nothing_but_an_unchanged_export_is_replaced(house: House, hub: WritableHub) -> None:
    repo = hub.create(REPO, private=True)
    files = dict(repo.head.files)
    repo.add("mine", files | {"README.md": b"# mine"})
    assert refused(house, ConflictError, "holds files that no export wrote").code == "repo_taken"
    refused(house, ConflictError, "holds files that no export wrote", dry_run=True)
    repo.add("gone", files)
    house.registry.export(CHILD_1, TARGET)
    export = dict(repo.head.files)
    for changed, match in (
        (export | {"more.txt": b"x"}, r"holds 'more.txt' that no export wrote"),
        (export | {"README.md": export["README.md"] + b"edited"}, r"'README.md' that was changed"),
        ({path: data for path, data in export.items() if path != "adapter_config.json"}, "lacks 'adapter_config.json'"),
        (export | {"registry-receipt.json": b"{}"}, "receipt that can't be read"),
    ):
        repo.add(match, changed)
        count = len(repo.commits)
        refused(house, ConflictError, match)
        assert len(repo.commits) == count


def test_large_files_that_were_changed_are_seen_without_their_bytes(house: House, hub: WritableHub) -> None:
    house.registry.export(CHILD_1, TARGET)
    repo = hub.repos[REPO]
    weights = "adapter_model.safetensors"
    lfs = frozenset({weights})
    repo.add("the same", dict(repo.head.files), lfs)
    hub.seen.clear()
    assert not house.registry.export(CHILD_1, TARGET).created
    other = repo.head.files[weights][:-1] + b"x"
    repo.add("trained further", repo.head.files | {weights: other}, lfs)
    refused(house, ConflictError, r"'adapter_model\.safetensors' that was changed")
    assert not any(weights in one for one in hub.seen)


def test_a_commit_in_between_is_noticed(house: House, hub: WritableHub) -> None:
    repo = hub.create(REPO, private=True)
    hub.before_commit = lambda: repo.add("somebody's", repo.head.files | {"mine.txt": b"mine"})
    assert refused(house, ConflictError, "was changed by someone else meanwhile").code == "repo_taken"
    assert repo.head.title == "somebody's"


def test_what_the_hub_refuses(house: House, hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(house, NotAllowedError, "don't have the rights", "hf:forbidden/bird")
    for target in ("hf:bird", "hf:acme/bird@main", "hf:acme/b--d", "hf:a/b/c", "hf:acme/-x"):
        refused(house, UsageError, "hf:ORG/REPO is expected", target)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(house, NotAllowedError, "HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(house, UnavailableError, "HF_HUB_OFFLINE")


def test_a_dry_run_sends_nothing(house: House, hub: WritableHub) -> None:
    rehearsed = house.registry.export(CHILD_1, TARGET, dry_run=True)
    assert (hub.repos, rehearsed.commit, rehearsed.public) == ({}, None, False)
    assert {one.split(" ")[0] for one in hub.seen} <= {"GET", "HEAD"}


def test_it_comes_back_from_the_hub_with_its_parent_proven(house: House, hub: WritableHub) -> None:
    house.registry.export(CHILD_1, f"{TARGET}-published", kind="published")
    house.registry.export(CHILD_1, f"{TARGET}-lora")
    with closing(house.copy("copied")) as other:
        for name, path, parent in (("published", CHILD, f"{PARENT}@2"), ("lora", f"{BASE}/flat", BASE)):
            revision = other.publish(f"{TARGET}-{name}", path).revision
            assert (revision.parent, revision.parent_known_by) == (parent, "receipt")
            assert revision.source is not None


def _environ(hub: WritableHub, home: Path) -> dict[str, str]:
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | own


@pytest.mark.long
@pytest.mark.slow  # a process of its own
def test_large_files_go_by_lfs(house: House, hub: WritableHub, tmp_path: Path) -> None:
    assert isinstance(house.registry, LocalRegistry)
    hub.large = 1000
    words = [sys.executable, "-c", BY_LFS, house.registry.url, CHILD_1, TARGET]
    environ = _environ(hub, tmp_path / "home")
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head = hub.repos[REPO].head
    assert done.stdout.strip() == head.id
    assert "model.safetensors" in head.lfs
    with house.registry.artifact(CHILD_1, kind="merged") as artifact:
        assert artifact.file("model.safetensors").read() == head.files["model.safetensors"]
    assert "%" not in done.stderr  # no bars where nobody asked for them


@pytest.mark.slow  # imports transformers and PEFT in a process of its own
def test_peft_and_transformers_load_from_the_hub(hub: WritableHub, tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as registry:
        house = House.build(tmp_path, registry, llama_base)
        files = {place.name: place.read_bytes() for place in house.base.folder.iterdir() if place.is_file()}
        hub.create("acme/llama", private=True).add("the base model", files)
        for kind in ("lora", "merged"):
            for target in (f"hf:acme/{kind}", str(tmp_path / kind)):
                registry.export(CHILD, target, kind=kind, base_model="acme/llama")
    places = [str(tmp_path / "lora"), str(tmp_path / "merged"), str(house.base.folder)]
    words = [sys.executable, "-c", LOADED, *places]
    done = subprocess.run(words, env=_environ(hub, tmp_path / "home"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
