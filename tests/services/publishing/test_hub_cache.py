"""The parent by the cache of the Hub on the machine that publishes: the one commit of the repo that is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from registry.app import connect, service_app
from registry.errors import ConflictError, RegistryError
from registry.schemas.parents import Policy
from registry.services.local import LocalRegistry
from registry.transfer.trained_on import cached_commit
from tests.kit import plain_base, write_adapter
from tests.kit.library import running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


class Scene:
    """``net/support`` has two revisions, and a served view of them."""

    def __init__(self, folder: Path, *, parents: Policy = "any") -> None:
        self.folder = folder
        self.registry = LocalRegistry.open(folder / "registry", parents=parents)
        self.base = plain_base(folder / "base")
        self.registry.add_base("net", self.base.folder)
        for seed in (1, 2):
            self.registry.publish(self.adapter(seed), "net/support", parent="net")

    def adapter(self, seed: int, name: str | None = None, revision: str | None = None) -> Path:
        config = {"base_model_name_or_path": name, "revision": revision}
        names = list(self.base.modules)[:1]
        return write_adapter(self.folder / f"adapter-{seed}", self.base, names, seed=seed, config=config)

    def load(self, home: Path, *revisions: str, view: str = "hf") -> None:
        """As transformers loads a model: into the cache."""
        file = "config.json" if view == "hf" else "adapter_config.json"
        with running(service_app(self.registry, "read")) as address:
            api = HfApi(endpoint=f"{address}/{view}", token=False)
            for revision in revisions:
                api.hf_hub_download("net/support", file, revision=revision, cache_dir=home)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    with closing(made.registry):
        yield made


@pytest.mark.parametrize("parents", ["stated", "proven"])
def test_what_a_cache_has_is_neither_stated_nor_proven(tmp_path: Path, home: Path, parents: Policy) -> None:
    """It was trained on a cluster on r2, and is published where the cache has r1."""
    scene = Scene(tmp_path, parents=parents)
    with closing(scene.registry):
        scene.load(home, "r1")
        with pytest.raises(ConflictError, match=rf"REGISTRY_PARENTS={parents}\).*only assumed \(cache\)") as caught:
            scene.registry.publish(scene.adapter(9, "net/support"), "net/support/child")
        assert caught.value.code == "parent_unproven"


@pytest.mark.parametrize("number", [1, 2])
def test_the_only_commit_there_is_the_parent(scene: Scene, home: Path, number: int) -> None:
    scene.load(home, f"r{number}")
    made = scene.registry.publish(scene.adapter(9, "net/support"), "net/support/child").revision
    assert (made.parent, made.parent_known_by) == (f"net/support@{number}", "cache")


def test_over_http_the_client_looks(scene: Scene, home: Path) -> None:
    scene.load(home, "r1")
    token = scene.registry.create_token("writer", name="ann").secret
    with running(service_app(scene.registry)) as address, closing(connect(address, token)) as remote:
        made = remote.publish(scene.adapter(9, "net/support"), "net/support/child").revision
    assert (made.parent, made.parent_known_by) == ("net/support@1", "cache")


def test_of_two_commits_none_is_taken(scene: Scene, home: Path) -> None:
    scene.load(home, "r1", "r2")
    with pytest.raises(RegistryError) as caught:
        scene.registry.publish(scene.adapter(9, "net/support"), "net/support/child")
    assert caught.value.code == "parent_ambiguous"


@pytest.mark.parametrize("commit", ["0" * 40, None], ids=["of another Hub", "of another view"])
def test_a_commit_that_is_none_of_the_merged_view_says_nothing(scene: Scene, home: Path, commit: str | None) -> None:
    if commit is None:
        scene.load(home, "r1", view="hf-published")
    else:
        (home / "models--net--support" / "snapshots" / commit).mkdir(parents=True)
        (home / "models--net--support" / "snapshots" / commit / "config.json").write_text("{}")
    with pytest.raises(RegistryError) as caught:
        scene.registry.publish(scene.adapter(9, "net/support"), "net/support/child")
    assert caught.value.code == "parent_ambiguous"


def test_a_revision_in_the_configuration_counts_more(scene: Scene, home: Path) -> None:
    scene.load(home, "r1")
    made = scene.registry.publish(scene.adapter(9, "net/support", "r2"), "net/support/child").revision
    assert (made.parent, made.parent_known_by) == ("net/support@2", "view")


def test_names_that_are_no_repository(home: Path) -> None:
    home.mkdir()
    for name in ("", "a", "a/b/c", "../a", "a/../b", "/etc/passwd", "a/b\0"):
        assert cached_commit(name) is None
