"""What clients see of a tree that changes: tags that move, tokens that are revoked, revisions that are retracted."""

from __future__ import annotations

import pytest

from tests.clients.conftest import NewMachine
from tests.clients.machines import step
from tests.clients.test_loading import CLOSE, away
from tests.clients.tree import Tree
from tests.kit.shim import Asked, Fault, Shim

pytestmark = pytest.mark.slow
WEIGHTS = "model.safetensors"


def test_main_and_a_tag_move(tree: Tree, machine: NewMachine) -> None:
    """An old commit gives its bytes for ever, ``main`` and the tag the new ones, also from a cache with both."""
    tree.publish("llama/moving", seed=1)
    tree.registry.tag("llama/moving@1", "prod")
    one, repo = machine("hf"), "llama/moving"
    file = step("file", repo=repo, name=WEIGHTS)
    before, tagged, model = one.run(file, {**file, "revision": "prod"}, step("model", repo=repo))
    assert tagged == before

    tree.publish("llama/moving", seed=2)
    same_tag, after, moved = one.run({**file, "revision": "prod"}, file, step("model", repo=repo))
    tree.registry.tag("llama/moving@2", "prod")
    pinned = {**file, "revision": before["commit"]}
    new_tag, old, old_model = one.run(
        {**file, "revision": "prod"}, pinned, step("model", repo=repo, revision=before["commit"])
    )
    assert same_tag == old == before
    assert new_tag == after
    assert after["commit"] != before["commit"]
    assert after["sha256"] != before["sha256"]
    assert old_model == model
    assert away(model, moved) > CLOSE
    assert machine("hf").run(pinned, file) == [before, after]  # from an empty cache


class Meanwhile(Fault):
    """Something happens once, just before a request reaches the service."""

    def matches(self, method: str, target: str) -> bool:
        if super().matches(method, target) and self.answer is not None:
            self.answer(Asked(method, target, {}, b""))
            self.answer = None
        return False


def test_main_moves_while_a_file_is_downloaded(tree: Tree, wire: Shim, machine: NewMachine) -> None:
    """Between HEAD and GET: what lies under a commit is the commit's."""
    tree.publish("llama/quick", seed=1)

    def publish(_: Asked) -> tuple[int, bytes]:
        tree.publish("llama/quick", seed=2)
        return 200, b""

    wire.faults.append(Meanwhile(method="GET", target=WEIGHTS, answer=publish))
    file = step("file", repo="llama/quick", name=WEIGHTS)
    (found,) = machine("hf").run(file)
    first, newest = machine("hf").run({**file, "revision": "r1"}, file)
    assert found == first
    assert newest["sha256"] != first["sha256"]


def test_a_child_stays_on_its_parent(tree: Tree, machine: NewMachine) -> None:
    tree.publish("llama/parent", seed=1)
    tree.publish("llama/parent/child", seed=3)
    one, file = machine("hf"), step("file", repo="llama/parent.child", name=WEIGHTS)
    (before,) = one.run(file)
    tree.publish("llama/parent", seed=2)
    assert one.run(file) == machine("hf").run(file) == [before]


def test_a_revoked_token_reads_nothing_more(tree: Tree, wire: Shim, machine: NewMachine) -> None:
    tree.publish("llama/secret")
    identity, secret = tree.token()
    file = step("file", repo="llama/secret", name=WEIGHTS)
    one = machine("hf", token=secret)
    before = one.run(file)
    tree.registry.revoke_token(identity)
    wire.forget()
    other = machine("hf", token=secret)
    assert "RepositoryNotFoundError" in other.refused(file).error
    assert "RepositoryNotFoundError" in other.refused(step("snapshot", repo="llama/secret")).error
    one.refused({**file, "name": "config.json"})
    assert one.run(file) == before  # the client's own copy: no service can take it back
    assert {seen.status for seen in wire.seen() if "agent-harnesses" not in seen.target} == {401}
    assert {seen.received for seen in wire.seen("GET", "/resolve/")} <= {0}


def test_a_token_sees_its_scopes(tree: Tree, machine: NewMachine) -> None:
    """What it may not see does not exist; the bases that it composes on do."""
    tree.publish("llama/seen")
    tree.publish("llama/unseen")
    _, secret = tree.token("reader", "llama/seen")
    seen, unseen = (step("file", repo=f"llama/{name}", name=WEIGHTS) for name in ("seen", "unseen"))
    machine("hf", token=secret).run(seen)
    assert "RepositoryNotFoundError" in machine("hf", token=secret).refused(unseen).error
    assert "RepositoryNotFoundError" in machine("hf", token=None).refused(seen).error
    assert "RepositoryNotFoundError" in machine("hf", token="nonsense").refused(seen).error
    machine("hf-lora", token=secret).run(step("snapshot", repo="llama/seen"), step("snapshot", repo="llama/_"))


@pytest.mark.long
def test_what_was_retracted_does_not_load_silently(tree: Tree, machine: NewMachine) -> None:
    """A client with a copy in its cache raises too; the reason is in the message."""
    tree.publish("llama/retracted")
    merged, lora, repo = machine("hf"), machine("hf-lora"), "llama/retracted"
    file = step("file", repo=repo, name=WEIGHTS)
    loads = (
        (merged, (file, step("model", repo=repo))),
        (lora, (step("adapted", base="llama/_", repo=repo), step("auto_adapted", repo=repo))),
    )
    for one, steps in loads:
        one.run(*steps)
    tree.registry.retract("llama/retracted@1", reason="trained on the test set")
    for one, steps in loads:
        for outcome in one.try_steps(*steps, step("snapshot", repo=repo)):
            assert outcome.error, outcome.value
            assert "trained on the test set" in outcome.text
    assert "RevisionNotFoundError" in merged.refused(file).error
