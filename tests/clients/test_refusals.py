"""What users who are refused read: the reason, in the words of the registry, whatever their client makes of it."""

from __future__ import annotations

import pytest

from tests.clients.conftest import NewMachine
from tests.clients.machines import step
from tests.clients.tree import Tree

pytestmark = pytest.mark.slow
WORTHLESS = "The token is unknown or was revoked"
NOT_HERE = "the Hub views serve models by repo id, and take pushes of adapters"


def test_hf_says_why_a_revision_is_not_there(tree: Tree, machine: NewMachine) -> None:
    tree.publish("llama/taken-back")
    tree.registry.retract("llama/taken-back@1", reason="trained on the test set")
    one = machine("hf")
    for wanted in ("llama/taken-back", "llama/taken-back config.json", "llama/taken-back --revision r1"):
        assert "trained on the test set" in one.shell(f"hf download {wanted} 2>&1", exit_code=1)


@pytest.mark.long
def test_hf_says_that_a_token_is_worthless(machine: NewMachine) -> None:
    one = machine("hf", token="reg_nonsense")
    for command in ("hf download llama/support", "hf download llama/support config.json", "hf auth whoami"):
        assert WORTHLESS in one.shell(f"{command} 2>&1", exit_code=1)
    assert "This registry needs a token" in machine("hf", token=None).shell("hf download llama/_ 2>&1", exit_code=1)


def test_nothing_is_said_to_who_only_asks_whether_it_is_there(tree: Tree, machine: NewMachine) -> None:
    repo, one = tree.publish("llama/asked-for").partition("@")[0], machine("hf")
    assert one.run(
        step("asked", call="repo_exists", repo_id="llama/nobody"),
        step("asked", call="revision_exists", repo_id=repo, revision="nothing"),
        step("asked", call="file_exists", repo_id=repo, filename="nothing.json"),
    ) == [False, False, False]
    assert not [word for word in ("nobody", "nothing") if word in one.said]


def test_hf_logs_in_with_a_token_of_the_registry(tree: Tree, machine: NewMachine) -> None:
    identity, secret = tree.token()
    one = machine("hf", token=None)
    assert WORTHLESS in one.shell("hf auth login --token reg_nonsense 2>&1 || true")
    kept = one.shell(f"hf auth login --token {secret} 2>&1 && hf auth whoami && hf auth list 2>&1")
    assert "client" in kept
    assert identity in kept
    assert secret not in kept
    assert one.shell("hf download llama/support config.json")
    one.shell("hf auth logout 2>&1")
    assert "This registry needs a token" in one.shell("hf download llama/_ config.json --force-download 2>&1 || true")


def test_what_a_view_can_not_do_is_no_repo_that_is_not_there(tree: Tree, machine: NewMachine) -> None:
    one, repo = machine("hf"), "llama/support"
    may_not = "needs the role writer"
    for call, given, words in (
        ("delete_repo", {"repo_id": repo}, "`registry delete`"),
        ("create_repo", {"repo_id": "llama/new"}, may_not),
        ("create_tag", {"repo_id": repo, "tag": "best"}, may_not),
        ("delete_tag", {"repo_id": repo, "tag": "best"}, may_not),
        ("create_branch", {"repo_id": repo, "branch": "dev"}, "no branch but main"),
    ):
        (outcome,) = one.try_steps(step("asked", call=call, **given))
        assert outcome.error[0] == "HfHubHTTPError", outcome
        assert words in outcome.text
    stranger = machine("hf-lora", token="reg_nonsense")
    (outcome,) = stranger.try_steps(step("asked", call="create_repo", repo_id="llama/new"))
    assert WORTHLESS in outcome.text
    listed = 'python -c "import huggingface_hub as hub; list(hub.HfApi().list_datasets(limit=3))" 2>&1'
    said = one.shell(listed, exit_code=1)
    assert NOT_HERE in said
    assert "RepositoryNotFoundError" not in said
