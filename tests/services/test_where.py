"""``where``: what many names point at, in one answer, and never at what may not be served."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.errors import NotAllowedError, NotFoundError, RegistryError, UsageError
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.services.local import LocalRegistry
from tests.kit import Base, plain_base, write_adapter
from tests.kit.registries import ON_HTTP, ON_TEAM_AT_LENGTH, opened

PATHS = ("net/top", "net/top/one", "net/top/one/leaf", "net/top_one", "net/topxone", "net/other")


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return plain_base(tmp_path / "base", {"a.weight": (24, 16)})


def fill(registry: Registry, base: Base, room: Path) -> None:
    """Two revisions of each path; ``prod`` names the first of each but the last one, which has no tag."""
    registry.add_base("net", base.folder)
    for seed, path in enumerate(PATHS):
        above = path.rpartition("/")[0]
        for turn in range(2):
            folder = write_adapter(room / f"{seed}-{turn}", base, ["a"], r=2, seed=2 * seed + turn)
            registry.publish(folder, path, parent=above if above == "net" else f"{above}@1")
        if path != PATHS[-1]:
            registry.tag(f"{path}@1", "prod")


@pytest.fixture(params=["embedded", ON_HTTP, ON_TEAM_AT_LENGTH])
def tree(request: pytest.FixtureRequest, base: Base, tmp_path: Path) -> object:
    with opened(request, tmp_path) as kept:
        fill(kept, base, tmp_path)
        yield kept


@pytest.fixture
def here(base: Base, tmp_path: Path) -> object:
    registry = LocalRegistry.open(tmp_path / "here", cache_folder=tmp_path / "cache")
    fill(registry, base, tmp_path / "h")
    yield registry
    registry.close()


def told(registry: Registry, *names: str) -> dict[str, str]:
    """Each name with what it leads to, or with the code of why it leads nowhere."""
    found = registry.where(names)
    assert all((one.reference is None) == (one.digest is None) == (one.code is not None) for one in found)
    assert len({one.name for one in found}) == len(found)
    return {one.name: one.reference or str(one.code) for one in found}


def singly(registry: Registry, name: str) -> str:
    """The same of one reference, as ``resolve`` says it."""
    try:
        found = registry.resolve(name)
    except RegistryError as problem:
        return problem.code
    return "retracted" if any(one.retracted for one in found.lineage) else found.reference


def test_where_says_what_resolve_says_of_each_name(tree: Registry) -> None:
    digest = tree.resolve("net/top/one@2").digest
    selectors = ("", "@1", "@2", "@3", "@prod", "@no", f"@{digest}", f"@{digest[:20]}", "@sha256:" + "0" * 64)
    names = [path + selector for path in (*PATHS, "net/no", "no/such") for selector in selectors]
    names += ["net", "no", "net/Upper", "net/top@", "/", "net/top@prod"]
    tree.retract("net/top@1", reason="leaks")
    found = told(tree, *names)
    assert list(found) == list(dict.fromkeys(names))
    assert found == {name: singly(tree, name) for name in names}
    assert found["net/top/one/leaf@prod"] == "retracted"  # what it stands on
    assert found["net/top_one@prod"] == "net/top_one@1"
    digests = [one.digest for one in tree.where(["net", "net/other@2"])]
    assert digests == [tree.resolve("net").digest, tree.resolve("net/other@2").digest]


def test_a_pattern_stands_for_every_path_that_has_the_tag(here: LocalRegistry) -> None:
    assert list(told(here, "net/*@prod")) == [f"{path}@prod" for path in PATHS[:-1]]
    assert list(told(here, "net/top/*@prod")) == ["net/top/one@prod", "net/top/one/leaf@prod"]
    assert list(told(here, "net/top_o*@prod")) == ["net/top_one@prod"]  # an underscore is no wildcard
    assert next(iter(told(here, "net/*/leaf@prod", "net/*one@prod", "net/top/one@prod"))) == "net/top/one/leaf@prod"
    assert told(here, "net/*@no") == {"net/*@no": "not_found"}
    for wrong in ("*@prod", "net/*", "net/*@", "net/*@p*", "n*/top@prod", "net/%*@prod", "net/TOP*@prod"):
        assert told(here, wrong) == {wrong: "bad_name"}, wrong


def test_an_old_name_leads_on_but_no_pattern_lists_it(here: LocalRegistry) -> None:
    here.rename("net/top_one", "net/new")
    assert told(here, "net/top_one@prod", "net/new@prod") == {
        name: singly(here, name) for name in ("net/top_one@prod", "net/new@prod")
    }
    assert "net/top_one@prod" not in told(here, "net/*@prod")
    assert "net/new@prod" in told(here, "net/*@prod")


def test_a_combination_of_what_was_retracted_is_not_served(here: LocalRegistry) -> None:
    here.combine({"net/top_one@1": 0.5, "net/topxone@1": 0.5}, "net/mixed", tags=("prod",))
    assert told(here, "net/mixed@prod") == {"net/mixed@prod": "net/mixed@1"}
    here.retract("net/topxone@1", reason="leaks")
    assert told(here, "net/mixed@prod") == {"net/mixed@prod": "retracted"}


def test_outside_of_its_scopes_a_token_learns_nothing_not_even_that_something_is_gone(here: LocalRegistry) -> None:
    scoped = here.with_principal(Principal("eve", Rights("reader", (TreePath.parse("net/top/one"),))))
    seen = told(scoped, "net", "net/*@prod", "net/top/one@2")
    assert seen == {
        "net": "net",
        "net/top/one@prod": "net/top/one@1",
        "net/top/one/leaf@prod": "net/top/one/leaf@1",
        "net/top/one@2": "net/top/one@2",
    }
    outside = ("net/top@prod", "net/other@prod", "net/no@prod", "other/x@prod", "other/*@prod", "other")
    before = scoped.where(outside)
    assert {one.code for one in before} == {NotAllowedError.default_code}
    here.delete_tree("net/other", with_tags=True)
    assert scoped.where(outside) == before
    here.retract("net/top@1", reason="leaks")  # above the scope, and no event of this token: every name is asked again
    assert told(scoped, "net/*@prod") == {"net/top/one@prod": "retracted", "net/top/one/leaf@prod": "retracted"}


def test_too_many_names_or_matches_are_refused(here: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    for names in ([], ["net/top@prod"] * 1001, ["net/" + "x" * 600 + "@prod"]):
        with pytest.raises(UsageError):
            here.where(names)
    monkeypatch.setattr("registry.services.browse.MOST_NAMES", 4)
    with pytest.raises(UsageError, match="match more than 4 names"):
        here.where(["net/*@prod"])
    assert len(here.where(["net/top/*@prod"])) == 2


def test_a_database_that_fails_fails_the_request_and_takes_no_name_away(
    here: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr("registry.services.browse.resolution.resolve", broken)
    with pytest.raises(OSError, match="disk"):
        here.where(["net/top@prod"])


def test_not_found_is_said_of_what_was_deleted_and_of_a_tag_that_was_taken(here: LocalRegistry) -> None:
    here.untag("net/top", "prod")
    here.delete_tree("net/topxone", with_tags=True)
    found = {one.name: one for one in here.where(["net/top@prod", "net/topxone@prod"])}
    assert {one.code for one in found.values()} == {NotFoundError.default_code}
    assert "has no tag prod" in str(found["net/top@prod"].problem)
