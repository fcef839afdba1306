"""The parent of an adapter that was trained on what a Hub-compatible view gave: by repo id and revision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from registry.catalogue.tree import bases
from registry.errors import ConflictError, RegistryError, UsageError
from registry.reference import Path as TreePath
from registry.schemas import ArtifactKind, Published
from registry.services.artifacts.commits import RepoNames
from registry.services.local import LocalRegistry
from registry.services.publishing.hub_parent import TrainedOn
from tests.kit import plain_base, write_adapter
from tests.kit.acting import acting
from tests.kit.sending import SHAPES
from tests.kit.serving import ServedRegistry

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Tree:
    """net/support@1 [first], @2 [moved, prod], net/other@1, net/_; the tag moved has named both of support."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = LocalRegistry.open(folder / "registry", cache_folder=folder / "cache")
        self.base = plain_base(folder / "base", SHAPES)
        self.registry.add_base("net", self.base.folder)
        self.registry.publish(self.adapter(1), "net/support", tags=["first", "moved"])
        self.registry.publish(self.adapter(2), "net/support", tags=["moved", "prod"])
        self.registry.publish(self.adapter(3), "net/other")

    def adapter(self, seed: int, name: str | None = None, revision: str | None = None) -> Path:
        config = {"base_model_name_or_path": name, "revision": revision}
        return write_adapter(self.folder / f"adapter-{seed}", self.base, ["a"], seed=seed, config=config)

    def publish(self, name: str, revision: str | None, path: str, parent: str | None = None) -> Published:
        return self.registry.publish(self.adapter(9, name, revision), path, parent=parent)

    def commit(self, path: str, reference: str | None, view: ArtifactKind = "merged", made: str = "f" * 12) -> str:
        """The commit of a revision, as whatever machine made it: the last 12 digits say which."""
        with self.registry.deployment.read() as session:
            names = RepoNames.of(view, TreePath.parse(path), bases.get(session, "net"))
        digest = None if reference is None else self.registry.resolve(reference).digest
        return names.meaning(digest) + made


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path)
    with closing(made.registry):
        yield made


def cached(repo: str, commit: str) -> str:
    return f"/home/ann/.cache/huggingface/hub/models--{repo.replace('/', '--')}/snapshots/{commit}"


def test_a_commit_a_number_and_a_folder_of_the_hubs_cache_show_the_parent(tree: Tree) -> None:
    one, two = (tree.commit("net/support", f"net/support@{number}") for number in (1, 2))
    for number, name, revision, why in [
        (1, "net/support", one, one),
        (2, "net/support", two, two),
        (1, "net/support", "r1", "r1"),
        (2, "net/support", "r2", "r2"),
        (1, "net/support", "first", "never moved"),
        (2, "net/support", "prod", "never moved"),
        (1, cached("net/support", one), None, one),
        (2, cached("net/support", two) + "/", "main", two),
    ]:
        reference = f"net/support@{number}"
        answer = tree.publish(name, revision, "net/support/french")
        assert answer.revision.parent == reference
        assert answer.parent_reason.startswith("the configuration, net/support at ")
        assert why in answer.parent_reason


def test_a_name_that_moves_shows_nothing_unless_there_is_one_revision(tree: Tree) -> None:
    for revision in (None, "main", "moved", "gone", ""):
        _shows_nothing(tree, revision)


def _shows_nothing(tree: Tree, revision: str | None) -> None:
    with pytest.raises(
        UsageError, match=r"The configuration, net/support.* give the parent with --parent REF"
    ) as unclear:
        tree.publish("net/support", revision, "net/support/french")
    assert unclear.value.code == "parent_ambiguous"
    assert "net/support@1" in str(unclear.value) or revision == "gone"
    assert (
        tree.publish("net/support", revision, "net/support/french", "net/support@1").revision.parent == "net/support@1"
    )
    answer = tree.publish("net/other", revision, "net/other/child")
    assert answer.revision.parent == "net/other@1"
    assert "the only revision of net/other" in answer.parent_reason


def test_the_base_model_itself(tree: Tree) -> None:
    for revision in (None, "main", "r7", tree.commit("net", None)):
        answer = tree.publish("net/_", revision, "net/new")
        assert (answer.revision.parent, answer.parent_reason.startswith("the configuration, net/_")) == ("net", True)
    with pytest.raises(ConflictError, match="is not a revision of net in this registry"):
        tree.publish("net/_", COMMIT, "net/new")
    assert tree.publish("net/_", COMMIT, "net/new", "net").revision.parent == "net"


def test_what_contradicts_the_path_or_the_given_parent_is_refused(tree: Tree) -> None:
    for name, revision, path, parent in [
        ("net/other", None, "net/support/french", None),
        ("net/other", "r1", "net/support/french", "net/support@1"),  # whoever says so
        ("net/support", "r1", "net/support", None),  # it goes below what it was trained on
        ("net/support", "r1", "net/support", "net"),
        ("net/support", "r2", "net/support/french", "net/support@1"),
        ("net/support", "r7", "net/support/french", None),
        ("net/support", COMMIT, "net/support/french", None),
        ("net/_", None, "net/support/french", None),
    ]:
        with pytest.raises(ConflictError) as refused:
            tree.publish(name, revision, path, parent)
        assert refused.value.code == "parent_mismatch"
        assert name in str(refused.value)
    assert [one.reference for one in tree.registry.search("support").revisions] == ["net/support@2"]


def test_a_commit_of_the_other_views_is_not_the_merged_model(tree: Tree) -> None:
    for view in ("lora", "published"):
        with pytest.raises(ConflictError, match="is not a revision of net/support in this registry"):
            tree.publish("net/support", tree.commit("net/support", "net/support@1", view), "net/support/french")


def test_a_model_with_adapters_in_it_keeps_the_id_of_what_is_below_them(tree: Tree) -> None:
    """PEFT writes the base's id where adapters are stacked, or were merged in; only ``--parent`` says which."""
    answer = tree.publish("net/_", tree.commit("net", None), "net/support/french", "net/support@1")
    assert answer.revision.parent == "net/support@1"


def test_an_id_that_is_nothing_here_shows_nothing(tree: Tree) -> None:
    for name in ("org/model", "net/unknown", "Net/support", "out/merged", "net", "./net/support", ""):
        assert tree.publish(name, "r2", "net/other/child").parent_reason == "the only revision of net/other"
        with pytest.raises(UsageError, match="several revisions"):
            tree.publish(name, "r2", "net/support/french")


def test_two_proofs_that_disagree_are_refused_and_one_is_enough(tree: Tree) -> None:
    folder = tree.folder / "fetched"
    tree.registry.fetch("net/support@1", folder, kind="merged")
    receipt = folder / "registry-receipt.json"
    for revision, expected in (("r1", "net/support@1"), ("main", "net/support@1"), ("r2", None)):
        made = tree.adapter(9, "net/support", revision)
        if expected is None:
            with pytest.raises(ConflictError, match=r"receipt .* says net/support@1, but the configuration.*@2"):
                tree.registry.publish(made, "net/support/french", receipt=receipt)
        else:
            answer = tree.registry.publish(made, "net/support/french", receipt=receipt)
            assert answer.revision.parent == expected


def test_above_a_token_only_a_commit_shows_it_and_names_tell_nothing(tree: Tree) -> None:
    tree.publish("net/support", "r1", "net/support/french")
    eve = acting(tree.registry, "writer", "net/support/french")
    commit = tree.commit("net/support", "net/support@2")
    answer = eve.publish(tree.adapter(8, "net/support", commit), "net/support/french")
    assert answer.revision.parent == "net/support@2"
    said = set()
    for revision in ("main", "prod", "nothing", "r2000"):
        with pytest.raises(RegistryError) as told:
            eve.publish(tree.adapter(7, "net/support", revision), "net/support/french")
        said.add(str(told.value))
    assert len(said) == 1
    # what eve does not see is told as what is not there
    digest = tree.registry.resolve("net/support@1").digest
    answer = eve.publish(tree.adapter(7, "net/other", "r1"), "net/support/french", parent=f"net/support@{digest}")
    assert answer.revision.parent == "net/support@1"


@pytest.mark.slow
def test_a_copy_keeps_its_parent_whatever_its_configuration_says(tree: Tree, tmp_path: Path) -> None:
    """Numbers in a configuration are those of the registry that it comes from."""
    tree.publish("net/support", "r2", "net/support/french")
    with closing(LocalRegistry.open(tmp_path / "target", cache_folder=tmp_path / "cache")) as target:
        target.add_base("net", tree.base.folder)
        for seed in (2, 1):  # the other way round: what the configuration calls r2 is r1 there
            target.publish(tree.adapter(seed), "net/support")
        tree.registry.copy("net/support/french", target)
        assert target.show("net/support/french").lineage[1].digest == tree.registry.resolve("net/support@2").digest


def test_over_http_the_service_reads_the_same_configuration(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    with closing(ServedRegistry(tree.registry, tmp_path / "client")) as remote:
        made = tree.adapter(9, cached("net/support", tree.commit("net/support", "net/support@1")))
        assert remote.publish(made, "net/support/french").revision.parent == "net/support@1"
        with pytest.raises(UsageError, match="none of its revisions"):
            remote.publish(tree.adapter(9, "net/support"), "net/support/french")


def test_reads_ids_and_folders() -> None:
    assert TrainedOn.of("net/a.b", "r3") == TrainedOn(TreePath("net", ("a", "b")), "r3")
    assert TrainedOn.of("C:\\hub\\models--net--a\\snapshots\\" + COMMIT, "v1") == TrainedOn(
        TreePath("net", ("a",)), COMMIT
    )
    assert TrainedOn.of(None, "r3") is None


def test_of_what_came_from_a_hub_only_a_commit_counts() -> None:
    """Numbers and tags in its configuration may be those of the registry that it was trained from."""
    for revision, counts in [("r3", None), ("prod", None), ("main", None), (COMMIT, COMMIT)]:
        assert TrainedOn.of("net/a", revision, taken=True) == TrainedOn(TreePath("net", ("a",)), counts)


def test_a_name_of_any_length_is_read_at_once() -> None:
    """A publisher chooses it: by a pattern that tries every split of it, a megabyte would take days."""
    assert TrainedOn.of("models--" + "--" * 500_000, None) is None
