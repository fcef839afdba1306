"""What people's trainers and commands push, with clients of each generation: right revisions on the right parents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import NotFoundError
from registry.schemas import RevisionSummary
from tests.clients import contract
from tests.clients.conftest import NewMachine
from tests.clients.machines import Machine, step
from tests.clients.tree import Tree
from tests.kit import write_adapter
from tests.kit.shim import Shim

pytestmark = pytest.mark.slow
PAIR = ("adapter_config.json", "adapter_model.safetensors")

NOT_BY_HF = "use `registry delete`, `registry retract` or `registry rename`"
MANAGED = {
    "settings llama/managed --private": "llama/managed",
    "settings llama/nothing --private": "There is no adapter llama/nothing.",
    "move llama/managed llama/moved": NOT_BY_HF,
    "delete llama/managed --yes": NOT_BY_HF,
    "delete-files llama/managed README.md": "a push can't delete files",
    "branch create llama/managed dev": "no branch but main",
    "tag delete llama/managed none --yes": "has no tag none",
}
"""What `hf repos` does to a repo, and what it prints."""


def revisions(tree: Tree, path: str) -> tuple[RevisionSummary, ...]:
    """Newest first."""
    try:
        return tree.registry.log(path).revisions
    except NotFoundError:
        return ()


@pytest.fixture
def writer(tree: Tree, machine: NewMachine, wire: Shim) -> Iterator[Machine]:
    """Somebody who may push; all that their clients ask for is in the contract, and so are the answers."""
    one = machine("hf", token=tree.token("writer")[1])
    yield one
    names = contract.pushes_keep_to(wire.seen(), one.endpoint)
    assert {"create", "preupload", "commit"} <= set(names)


def test_hf_uploads_a_folder_and_one_file_after_the_other(tree: Tree, writer: Machine) -> None:
    folder = write_adapter(writer.folder / "made", tree.bases["llama"], ["q_proj", "v_proj"], r=2, seed=61)
    (folder / "optimizer.pt").write_bytes(b"x")
    said = writer.shell("hf upload llama/whole made . --commit-message 'by hand' 2>&1")
    (revision,) = revisions(tree, "llama/whole")
    assert (revision.message, revision.parent) == ("by hand", "llama")
    if writer.clients.version("huggingface_hub") >= (1, 0):  # the first generation prints no warnings
        assert "optimizer.pt is not kept" in said
        assert "Published as llama/whole@1, on llama" in said
    for name in reversed(PAIR):
        assert not revisions(tree, "llama/apart")
        writer.shell(f"hf upload llama/apart made/{name}")
    (apart,) = revisions(tree, "llama/apart")
    assert apart.digest == revision.digest
    writer.shell("hf download llama/apart --local-dir back", exit_code=0)
    assert (writer.folder / "back" / "model.safetensors").is_file()
    refused = writer.shell("hf upload llama/nothing/here made 2>&1 || hf upload nobody/x made 2>&1", exit_code=1)
    assert "nobody" in refused


def test_a_scheduler_and_a_large_folder(tree: Tree, writer: Machine) -> None:
    """The latter makes commits of a few files in any order."""
    folder = write_adapter(writer.folder / "made", tree.bases["llama"], ["q_proj"], r=2, seed=66)
    (commit,) = writer.run(step("schedule", repo="llama/scheduled", folder=str(folder)))
    (revision,) = revisions(tree, "llama/scheduled")
    (info,) = writer.run(step("asked", call="list_repo_files", repo_id="llama/scheduled", revision=commit))
    assert "model.safetensors" in info
    if writer.clients.version("huggingface_hub") < (2, 0):  # later clients have no such command
        writer.shell("hf upload-large-folder llama/large made --repo-type model 2>&1")
        (large,) = revisions(tree, "llama/large")
        assert large.digest == revision.digest


def test_hf_logs_in_and_manages_repos(tree: Tree, machine: NewMachine, wire: Shim) -> None:
    identity, secret = tree.token("writer")
    one = machine("hf", token=None)
    first, third = (one.clients.version("huggingface_hub") < (version, 0) for version in (1, 2))
    said = one.shell(f"hf auth login --token {secret} 2>&1; hf auth whoami 2>&1")
    assert identity in said
    assert first or "permission: write" in said
    write_adapter(one.folder / "made", tree.bases["llama"], ["q_proj"], r=2, seed=67)
    repos = "hf repo" if first else "hf repos"
    said = one.shell(
        f"{repos} create llama/managed 2>&1; hf upload llama/managed made 2>&1; "
        f"{repos} tag create llama/managed best 2>&1; {repos} create llama/managed 2>&1 || true"
    )
    assert "llama/managed exists already." in said
    (revision,) = revisions(tree, "llama/managed")
    assert revision.tags == ("best",)
    if not third:
        (url,) = one.run(step("card", repo="llama/managed", text="---\nlicense: mit\n---\nWhat it is for.\n"))
        assert url.startswith(f"{one.endpoint}/models/llama/managed/commit/")
        assert "What it is for." in tree.registry.card("llama/managed").text
    if not first:
        for command, words in MANAGED.items():
            assert words in one.shell(f"hf repos {command} 2>&1 || true")
    assert revisions(tree, "llama/managed") == (revision,)
    contract.pushes_keep_to(wire.seen(), one.endpoint)


def test_peft_pushes_a_child_of_the_merged_view(tree: Tree, writer: Machine) -> None:
    """Its parent has two revisions, and nothing in the push says which one was loaded."""
    for seed in (62, 63):
        tree.publish("llama/trained", seed=seed)
    given = {"base": "llama/trained", "repo": "llama/trained.child"}
    (pushed,) = writer.run(step("push_adapter", seed=1, tokenizer="llama/_", **given))
    (revision,) = revisions(tree, "llama/trained/child")
    assert (revision.parent, revision.parent_known_by) == ("llama/trained@2", "loaded")
    back, pinned = writer.run(
        step("asked", call="list_repo_files", repo_id="llama/trained.child"),
        step("push_adapter", seed=2, revision="r1", **given),
    )
    assert "model.safetensors" in back
    newest = revisions(tree, "llama/trained/child")[0]
    assert (newest.parent, newest.parent_known_by) == ("llama/trained@1", "view")
    out = writer.folder / "out"
    for number, commit in ((1, pushed), (2, pinned)):
        tree.registry.fetch(f"llama/trained/child@{number}", out, kind="published")
        for name, digest in commit["files"].items():
            assert tree_digest(out / name) == digest
        shutil.rmtree(out)
    (grandchild,) = writer.run(
        step(
            "push_adapter",
            seed=3,
            base="llama/trained.child",
            repo="llama/trained.child.next",
            revision=pushed["commit"],
        )
    )
    assert grandchild["commit"]
    assert revisions(tree, "llama/trained/child/next")[0].parent == "llama/trained/child@1"


def tree_digest(file: Path) -> str:
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_trainer_pushes_by_each_strategy(tree: Tree, writer: Machine) -> None:
    strategies = ("end", "every_save", "checkpoint", "all_checkpoints")
    trained = writer.run(
        *(
            step("train", base="llama/support", repo=f"llama/support.{one.replace('_', '-')}", strategy=one, seed=4)
            for one in strategies
        )
    )
    for strategy, digests in zip(strategies, trained, strict=True):
        path = f"llama/support/{strategy.replace('_', '-')}"
        newest = revisions(tree, path)[0]
        assert newest.parent == "llama/support@1"
        shown = tree.registry.show(newest.reference)
        files = {file.path: file.digest.removeprefix("sha256:") for file in shown.files}
        assert {name: files[name] for name in PAIR} == digests
        assert set(files) <= {*PAIR, "README.md"}
        assert len(revisions(tree, path)) <= (1 if strategy == "end" else 3)


@pytest.mark.long
def test_a_refusal_in_the_background_is_printed_and_training_goes_on(tree: Tree, writer: Machine) -> None:
    for seed in (64, 65):
        tree.publish("llama/unsure", seed=seed)
    for revision in ("r1", "r2"):
        writer.run(step("model", repo="llama/unsure", revision=revision))
    given = {"base": "llama/unsure", "repo": "llama/unsure.child", "seed": 5}
    (digests,) = writer.run(step("train", last=False, **given))
    assert digests
    assert not revisions(tree, "llama/unsure/child")
    if writer.clients.version("huggingface_hub") >= (1, 0):
        assert "names llama/unsure but none of its revisions" in writer.said
    outcome = writer.refused(step("train", **given))
    assert outcome.error[0] == "HfHubHTTPError"
    assert "revision='rN'" in outcome.text
    refusals = [event for event in tree.registry.events(kind="refused") if "llama/unsure.child" in str(event.detail)]
    assert refusals
