"""rename, base rename, what lists show of old names, and copy --all: on a real folder."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from registry.services.local import LocalRegistry
from tests.cli.conftest import Run
from tests.kit import plain_base, write_adapter


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """net/support@1 [prod, next], net/support/french@1; prod is protected."""
    monkeypatch.setenv("REGISTRY_CACHE_DIR", str(tmp_path / "cache"))
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16)})
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        registry.add_base("net", base.folder)
        one, two = (write_adapter(tmp_path / f"adapter{seed}", base, ["a"], r=1, seed=seed) for seed in (1, 2))
        registry.publish(one, "net/support", tags=["prod", "next"])
        registry.publish(two, "net/support/french")
        registry.protect_tag("net", "prod")
        registry.materialise("net/support/french")
    return str(tmp_path / "registry")


def test_what_is_printed(url: str, run: Run) -> None:
    done = run("rename", "net/support", "help", "--url", url)
    assert done.code == 0
    assert done.out == (
        "net/help\n"
        "  was         net/support\n"
        "  has         2 adapters, 2 revisions\n"
        "  not set     protected tag prod of net/help@1\n"
        "  not copied  1 materialisation: of the old name\n"
    )
    assert "An admin sets the protected tag with `registry tag net/help@1 prod`." in done.err
    assert "net/support goes on as an old name; nothing can be published to it." in done.err
    again = run("rename", "net/support", "help", "--url", url)
    assert again.code == 0
    assert "net/support had been renamed already: nothing was changed." in again.err
    answer = json.loads(run("rename", "net/support", "help", "--url", url, "--json").out)
    assert (answer["renamed_to"], answer["already"], answer["revisions"]) == ("net/help", True, 2)


def test_what_lists_show(url: str, run: Run, tmp_path: Path) -> None:
    run("rename", "net/support", "help", "--url", url)
    tree = run("tree", "--url", url).out
    assert "help" in tree
    assert "support" not in tree
    assert "support  @1  -> net/help  [next]  [prod]" in run("tree", "--all", "--url", url).out
    assert "support  @1  -> net/help" in run("tree", "net/support", "--url", url).out
    assert "net/support" not in run("search", "--url", url).out
    found = run("search", "--all", "--url", url).out
    assert "net/support@1         rank 1  1.46 kB  -> net/help  parent assumed  [next]  [prod]" in found
    notice = "net/support was renamed to net/help: the old name goes on, but nothing can be published to it."
    for command in (
        ("resolve", "net/support"),
        ("log", "net/support"),
        ("fetch", "net/support", "-o", str(tmp_path / "o")),
    ):
        done = run(*command, "--url", url)
        assert done.code == 0
        assert f"notice: {notice}" in done.err
        assert "notice" not in run(*command, "--url", url, "--json").err
    assert "renamed to  net/help\n" in run("show", "net/support", "--url", url).out
    assert "renamed" not in run("show", "net/help", "--url", url).out
    refused = run("publish", str(tmp_path / "adapter2"), "net/support", "--url", url)
    assert refused.code == 5
    assert "publish to net/help instead" in refused.err


def test_a_base_model(url: str, run: Run) -> None:
    done = run("base", "rename", "net", "network", "--url", url)
    assert done.code == 0
    assert done.out.startswith("network\n  was         net\n  has         2 adapters, 2 revisions\n")
    assert "-> network" not in run("base", "list", "--url", url).out
    listed = run("base", "list", "--all", "--url", url).out
    assert "2 adapters  -> network\n" in listed
    assert "net  -> network" in run("tree", "--all", "--url", url).out
    assert "renamed to    network\n" in run("show", "net", "--url", url).out


def test_another_repo_id(url: str, run: Run) -> None:
    done = run("base", "also-known-as", "net", "Org/Net", "--url", url)
    assert (done.code, done.out) == (0, "net\n  also known as  Org/Net\n")
    assert "also known as  Org/Net\n" in run("show", "net", "--url", url).out
    answer = json.loads(run("base", "also-known-as", "net", "Org/Net", "--url", url, "--json").out)
    assert answer == {"base": "net", "source": None, "repo_ids": ["Org/Net"]}
    refused = run("base", "also-known-as", "net", "net/x", "--url", url)
    assert (refused.code, refused.out) == (5, "")
    assert "begins with net, which is a base model" in refused.err
    assert run("base", "also-known-as", "net", "Org/Net", "--remove", "--url", url).out == "net\n"
    assert run("base", "also-known-as", "net", "Org/Net", "--remove", "--url", url).code == 3
    assert "base also-known-as" in run("events", "--url", url).out


def test_everything_is_copied(url: str, run: Run, tmp_path: Path) -> None:
    with closing(LocalRegistry.open(Path(url), cache_folder=tmp_path / "cache")) as registry:
        registry.add_base("other", tmp_path / "base")
    run("rename", "net/support", "help", "--url", url)
    target = str(tmp_path / "target")
    done = run("copy", "-r", "--all", "--to", target, "--url", url)
    assert done.code == 0
    assert done.out == "net/help@1         copied\nnet/help/french@1  copied\nother\n"
    assert "the base model net and 2 new revisions" in done.err
    again = json.loads(run("copy", "-r", "--all", "--to", target, "--url", url, "--json").out)
    assert [one["base"] for one in again] == ["net", "other"]
    assert not any(one["created"] for answer in again for one in answer["revisions"])
