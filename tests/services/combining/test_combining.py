"""What stands on combinations: retraction, deletion, rights, copies, names and checks, in process and over HTTP."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import Revision, RevisionSource, table_of
from registry.catalogue.tree import repo_rows, revisions
from registry.catalogue.tree.ancestry import of_sources
from registry.client.remote import RemoteRegistry
from registry.errors import ConflictError, InvalidAdapterError, NotFoundError, RetractedError, UsageError
from registry.folders.staging import FetchCache
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import Principal, Rights, Role
from registry.services.local import LocalRegistry
from tests.kit import plain_base, write_adapter
from tests.kit.registries import ON_HTTP, opened_as
from tests.kit.serving import ServedRegistry

_REVISIONS = table_of(Revision)
SHAPES = {"a.weight": (24, 16), "b.weight": (16, 24)}


class House:
    """A base model with a parent; each test has siblings of its own under it."""

    def __init__(self, registry: LocalRegistry | ServedRegistry, root: Path) -> None:
        self.registry: Registry = registry
        self.local = registry if isinstance(registry, LocalRegistry) else registry.local
        self.root = root
        self.base = plain_base(root / "base", SHAPES)
        self.opened = ExitStack()
        self._numbers = itertools.count(1)
        registry.add_base("net", self.base.folder)
        other = plain_base(root / "other", SHAPES, seed=5)
        registry.add_base("other", other.folder)
        registry.publish(self.folder(), "net/top")

    def folder(self) -> Path:
        number = next(self._numbers)
        return write_adapter(self.root / str(number), self.base, ["a", "b"], r=2, seed=number)

    def siblings(self, count: int = 2, under: str = "net/top") -> list[str]:
        """References of new siblings."""
        made = [self.registry.publish(self.folder(), f"{under}/s{next(self._numbers)}") for _ in range(count)]
        return [one.revision.reference for one in made]

    def mixed(self, *sources: str, **options: object) -> str:
        """The reference of a new combination of some siblings."""
        path = f"net/top/m{next(self._numbers)}"
        made = self.registry.combine(dict.fromkeys(sources, 0.5), path, **options)  # type: ignore[arg-type]
        assert made.created
        assert made.revision is not None
        return made.revision.reference

    def acting(self, role: Role, *scopes: str) -> Registry:
        """The registry as somebody else sees it, by the same face."""
        if isinstance(self.registry, LocalRegistry):
            rights = Rights(role, tuple(map(TreePath.parse, scopes)))
            return self.registry.with_principal(Principal("ann", rights))
        token = self.local.create_token(role, scopes=scopes, name="ann").secret
        remote = RemoteRegistry(self.registry.url, token, cache=FetchCache(self.root / "theirs"))
        return self.opened.enter_context(remote)


@pytest.fixture(scope="module", params=["embedded", ON_HTTP])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("house")
    with opened_as(request.param, request, root) as registry:
        made = House(registry, root)
        with made.opened:
            yield made


def path_of(reference: str) -> str:
    return reference.partition("@")[0]


def test_it_says_what_it_is_made_of(house: House) -> None:
    registry, (one, other) = house.registry, house.siblings()
    told = registry.combine({one: 0.5, other: -2.0}, "net/top/told", dry_run=True)
    assert (told.revision, told.created, told.over, told.path) == (None, False, "net/top@1", "net/top/told")
    with pytest.raises(NotFoundError):
        registry.log("net/top/told")
    done = registry.combine({one: 0.5, other: -2.0}, "net/top/told", tags=("best",), message="half")
    made = done.revision
    assert made is not None
    assert done.model_copy(update={"revision": None, "created": False}) == told
    assert (made.reference, made.parent, made.parent_known_by) == ("net/top/told@1", "net/top@1", "combined")
    assert (made.message, made.tags) == ("half", ("best",))
    assert [(of.reference, of.weight) for of in made.sources] == [(one, 0.5), (other, -2.0)]
    again = registry.combine({one: 0.5, other: -2.0}, "net/top/told")
    assert (again.created, again.revision and again.revision.reference) == (False, made.reference)
    for found in (
        registry.show("net/top/told@best").revision,
        registry.log("net/top/told").revisions[0],
        next(node.revision for node in registry.tree("net/top/told").adapters()),
        next(found for found in registry.search().revisions if found.path == "net/top/told"),
    ):
        assert found is not None
        assert found.sources == made.sources
    assert [entry.combined for entry in registry.resolve("net/top/told").lineage] == [False, False, True]
    digests = [registry.resolve(ref).digest for ref in (one, other)]
    manifest = json.loads(house.local.bundle("net/top/told").links[-1].manifest)
    assert manifest["sources"] == [{"digest": digests[0], "weight": 0.5}, {"digest": digests[1], "weight": -2.0}]
    assert "sources" not in json.loads(house.local.bundle(one).links[-1].manifest)


def test_the_order_and_the_weights_are_part_of_it(house: House) -> None:
    one, other = house.siblings()
    for sources in ([(one, 1), (other, 2)], [(other, 2), (one, 1)], [(one, 1), (other, 2.5)]):
        made = house.registry.combine(sources, "net/top/orders")
        assert made.created
    assert len({one.digest for one in house.registry.log("net/top/orders").revisions}) == 3


def test_what_means_nothing_is_refused(house: House) -> None:
    one, other = house.siblings()
    house.registry.publish(write_adapter(house.root / "o", house.base, ["a"], r=1), "other/one")
    for sources, path, options, kind, words in (
        ([], "net/top/no", {}, UsageError, "at least one source"),
        ({one: 0, other: 0.0}, "net/top/no", {}, UsageError, "All weights are 0"),
        ({one: float("nan")}, "net/top/no", {}, UsageError, f"The weight of {one} is nan"),
        ({one: float("inf")}, "net/top/no", {}, UsageError, "finite"),
        ({one: 10**400}, "net/top/no", {}, UsageError, "finite"),
        ({one: 1e-46}, "net/top/no", {}, UsageError, f"The weight of {one} is 1e-46: 0 or a size from 1e-09"),
        ({one: 1.0, other: -1e39}, "net/top/no", {}, UsageError, f"The weight of {other} is -1e\\+39"),
        (
            {f"{one}{at}": 1 for at in range(257)},
            "net/top/no",
            {},
            UsageError,
            "^257 sources are given",
        ),
        ({one: True}, "net/top/no", {}, UsageError, "a number is expected"),
        ([one], "net/top/no", {}, UsageError, "references and their weights"),
        ([(one, 1), (path_of(one), 1)], "net/top/no", {}, UsageError, f"{one} is given twice"),
        ({"net": 1, one: 1}, "net/top/no", {}, UsageError, "net is a base model"),
        ({"net/top": 1, one: 1}, "net/top/no", {}, UsageError, "net/top@1 is itself the ancestor"),
        ({one: 1, other: 1}, "net/no", {}, ConflictError, "give net/top/no instead of net/no"),
        ({one: 1, other: 1}, "net", {}, ConflictError, "give net/top/NAME"),
        ({one: 1, other: 1}, "net/no", {"over": other}, UsageError, f"{other} is not above all sources"),
        ({one: 1}, "net/no", {"over": one}, UsageError, "--over takes one of net, net/top@1"),
        ({one: 1}, "net/no", {"over": "other"}, UsageError, "other is not above"),
        ({one: 1, "net/top/gone": 1}, "net/top/no", {}, NotFoundError, "no adapter net/top/gone"),
        ({one: 1, "other/one": 1}, "net/top/no", {}, InvalidAdapterError, "different base models, net and other"),
        ({one: 1}, "net/top/no", {"rank": 0}, UsageError, "--rank"),
        ({one: 1}, "net/top/no", {"rank": 1 << 40}, UsageError, "rank is 1099511627776"),  # no copy could say it
        ({one: 1}, "net/top/no", {"max_error": 1.0}, UsageError, "--max-error"),
    ):
        with pytest.raises(kind, match=words):
            house.registry.combine(sources, path, **options)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError):
        house.registry.log("net/top/no")


def test_a_retracted_source_takes_it_down(house: House) -> None:
    registry = house.registry
    one, other = house.siblings()
    (below,) = house.siblings(1, under=path_of(one))
    mixed = house.mixed(below, other)
    child = registry.publish(house.folder(), f"{path_of(mixed)}/child").revision.reference
    over = house.mixed(mixed, *house.siblings(1))
    listed = registry.retract(one, reason="bad data", dry_run=True)
    taken = {below, mixed, child, over}
    assert set(listed.descendants) == taken
    assert registry.fetch(child, kind="lora").reference == child

    assert set(registry.retract(one, reason="bad data").descendants) == taken
    for ref in taken:
        with pytest.raises(RetractedError, match="bad data"):
            registry.artifact(ref)
        with pytest.raises(RetractedError):
            registry.combine({ref: 1.0}, f"{path_of(ref)}-again")
        shown = registry.show(ref).revision
        assert shown is not None
        assert shown.retracted is not None
        assert shown.retracted.reference == one
        listed_one = next(found for found in registry.log(path_of(ref)).revisions if found.reference == ref)
        assert listed_one.retracted == shown.retracted
        assert registry.resolve(ref).lineage[-1].retracted == (ref in (mixed, over))
        assert any(entry.retracted for entry in registry.resolve(ref).lineage)
    with pytest.raises(RetractedError, match=f"{mixed} is combined of {one}, or of what"):
        registry.artifact(child)
    with pytest.raises(RetractedError):
        registry.publish(house.folder(), f"{path_of(mixed)}/late")
    with pytest.raises(RetractedError):
        registry.replay(mixed)

    registry.retract(mixed, reason="itself")
    registry.retract(one, undo=True)
    assert registry.fetch(below, kind="lora").reference == below
    with pytest.raises(RetractedError, match="itself"):
        registry.artifact(child)
    registry.retract(mixed, undo=True)
    assert registry.fetch(over, kind="lora").reference == over


def test_a_retracted_source_is_told_by_the_name_that_it_has_now(house: House) -> None:
    registry = house.registry
    one, other = house.siblings()
    mixed = house.mixed(one, other)
    renamed = registry.rename(path_of(one), f"{path_of(one)}-anew").renamed_to
    number = one.partition("@")[2]
    registry.retract(f"{renamed}@{number}", reason="bad data")
    with pytest.raises(RetractedError, match=f"{mixed} is combined of {renamed}@{number}, or of what"):
        registry.artifact(mixed)
    shown = registry.show(mixed).revision
    assert shown is not None
    assert shown.retracted is not None
    assert shown.retracted.reference == f"{renamed}@{number}"
    hidden = house.acting("reader", path_of(mixed))  # who may not see the source is told neither of its names
    with pytest.raises(RetractedError, match="bad data") as refused:
        hidden.artifact(mixed)
    assert path_of(one) not in str(refused.value)


def test_a_source_stays_while_a_combination_stands_on_it(house: House) -> None:
    registry = house.registry
    one, other = house.siblings()
    mixed = house.mixed(one, other)
    for work in (
        lambda: registry.delete(one),
        lambda: registry.delete(one, dry_run=True),
        lambda: registry.delete_tree(path_of(one)),
        lambda: registry.delete_tree(path_of(one), dry_run=True),
    ):
        with pytest.raises(ConflictError, match=f"{mixed} is combined of it") as refused:
            work()
        assert refused.value.code == "has_children"
    hidden = house.acting("writer", path_of(one))
    with pytest.raises(ConflictError, match="a combination that this token may not see is combined of it"):
        hidden.delete(one)
    registry.delete(mixed)
    registry.delete(one)
    with pytest.raises(ConflictError, match=f"{mixed} is combined of {one}, which is deleted") as first:
        registry.delete(mixed, undo=True)
    assert first.value.code == "parent_deleted"
    registry.delete(one, undo=True)
    registry.delete(mixed, undo=True)
    assert registry.replay(mixed).combinations[0].state == "same"


@pytest.mark.slow
def test_deleted_together_and_collected(tmp_path: Path) -> None:
    with closing(LocalRegistry.open(tmp_path / "registry")) as local:
        house = House(local, tmp_path)
        one, other = house.siblings()
        mixed = house.mixed(one, other)
        before = {found.reference for found in local.search().revisions}
        local.delete_tree("net/top")
        assert local.search().revisions == ()
        local.delete_tree("net/top", undo=True)
        assert {found.reference for found in local.search().revisions} == before
        assert local.replay(mixed).combinations[0].state == "same"
        local.delete_tree("net/top")
    with closing(LocalRegistry.open(tmp_path / "registry", gc_grace=0.0)) as later:
        assert set(later.gc().revisions) == before
        assert later.fsck(deep=True).damage == ()


def test_what_a_token_may_not_see_can_not_be_combined(house: House) -> None:
    one, other = house.siblings()
    path = f"net/top/scoped{path_of(one).rpartition('/')[2]}"
    scoped = house.acting("writer", path, path_of(one))
    for sources in ({one: 0.5, other: 0.5}, {one: 0.5, "net/top/never": 0.5}):
        with pytest.raises(NotFoundError, match="There is no adapter net/top"):
            scoped.combine(sources, path)
    made = scoped.combine({one: 0.5}, path)  # the ancestor above its scopes is that of what it sees
    assert made.revision is not None
    assert made.revision.parent == "net/top@1"
    with pytest.raises(NotFoundError):
        scoped.combine({one: 0.5}, path, over="net/top")
    house.registry.combine({one: 0.5, other: 0.5}, path, tags=("both",))
    shown = scoped.show(f"{path}@both").revision
    assert shown is not None
    assert [(of.reference, of.digest is None, of.weight) for of in shown.sources] == [
        (one, False, 0.5), (None, True, 0.5)
    ]  # fmt: skip
    assert other not in shown.model_dump_json()
    assert scoped.replay(f"{path}@both").combinations[0].state == "same"
    assert scoped.fetch(f"{path}@both").reference == f"{path}@2"
    with pytest.raises(Exception, match="may not publish"):
        house.acting("writer", path_of(one)).combine({one: 0.5}, path)


def test_a_source_that_a_token_may_not_see_has_no_name_when_it_is_gone(house: House) -> None:
    one, other = house.siblings()
    mixed = house.mixed(one, other)
    scoped = house.acting("writer", path_of(mixed))
    house.registry.retract(other, reason="bad data")
    for work in (scoped.artifact, scoped.replay):
        with pytest.raises(RetractedError, match=f"^{mixed} was retracted by .*: bad data") as refused:
            work(mixed)
        assert other not in str(refused.value)
    for found in (scoped.show(mixed).revision, scoped.log(path_of(mixed)).revisions[0]):
        assert found is not None
        assert found.retracted is not None
        assert (found.retracted.reference, found.retracted.reason) == (mixed, "bad data")
        assert other not in found.model_dump_json()
    house.registry.retract(other, undo=True)

    scoped.delete(mixed)
    house.registry.delete(other)
    with pytest.raises(ConflictError, match=f"{mixed} is combined of a revision that this token may not see") as first:
        scoped.delete(mixed, undo=True)
    assert other not in str(first.value)


@pytest.mark.slow
def test_a_mean_that_runs_for_a_year_is_read(house: House) -> None:
    """Each day's is made of yesterday's: reading is no recursion as deep as that."""
    first, other = house.siblings()
    mixed = house.mixed(first, other)
    house.registry.retract(first, reason="bad data")

    def days(session: Session) -> None:
        last = revisions.find(session, Reference.parse(mixed)).id
        row = dict(session.execute(select(_REVISIONS).where(_REVISIONS.c.id == last)).mappings().one())
        start = session.scalar(select(func.max(_REVISIONS.c.id))) or 0
        keys = [last, *range(start + 1, start + 401)]
        again = [row | {"id": key, "number": key, "digest": f"sha256:{key:064}"} for key in keys[1:]]
        session.execute(insert(_REVISIONS), again)
        pins = [{"revision_id": of, "place": 0, "source_id": on, "weight": 0.5} for on, of in itertools.pairwise(keys)]
        session.execute(insert(table_of(RevisionSource)), pins)
        assert of_sources(session, keys[-1:])[keys[-1]].reference == first
        session.rollback()

    house.local.deployment.change(days)


@pytest.mark.slow
def test_a_copy_needs_its_sources_or_takes_them_along(house: House, tmp_path: Path) -> None:
    one, other = house.siblings()
    mixed = house.mixed(one, other)
    cut = house.mixed(mixed, one, rank=1)
    with closing(LocalRegistry.open(tmp_path / "far", cache_folder=tmp_path / "cache")) as far:
        with pytest.raises(NotFoundError, match=f"{path_of(one)} that is not here: copy that first, or copy with -r"):
            house.registry.copy(mixed, far)
        copied = house.registry.copy(path_of(cut), far, recursive=True)
        assert {found.source for found in copied.revisions} == {"net/top@1", one, other, mixed, cut}
        for ref in (mixed, cut):
            here, there = house.registry.show(ref).revision, far.show(ref).revision
            assert here is not None
            assert there is not None
            assert (here.digest, here.sources, there.parent_known_by) == (there.digest, there.sources, "combined")
            assert far.replay(ref).combinations[-1].state == "same"
        assert all(not found.created for found in house.registry.copy(mixed, far).revisions)
        far.retract(one, reason="bad")
        with pytest.raises(RetractedError):
            far.artifact(cut)
        other_cut = house.mixed(one, mixed)
        with pytest.raises(RetractedError, match="bad"):
            house.registry.copy(other_cut, far)


def test_it_goes_on_under_another_name(house: House) -> None:
    registry = house.registry
    registry.publish(house.folder(), "net/old")
    one, other = house.siblings(under="net/old")
    registry.combine({one: 1.0, other: 0.25}, "net/old/mixed")
    registry.combine({one: 1.0}, "net/across", over="net")
    registry.rename("net/old", "new")
    shown = registry.show("net/new/mixed").revision
    assert shown is not None
    new = one.replace("net/old", "net/new")
    assert [of.reference for of in shown.sources] == [new, other.replace("net/old", "net/new")]
    assert registry.replay("net/new/mixed").combinations[0].state == "same"
    assert registry.replay("net/old/mixed").combinations[0].state == "same"
    with pytest.raises(ConflictError, match="net/new/mixed@1 is combined of it"):
        registry.delete(new)
    registry.retract(new, reason="bad")
    for ref in ("net/new/mixed", "net/old/mixed", "net/across"):
        with pytest.raises(RetractedError, match="bad"):
            registry.artifact(ref)
    with pytest.raises(ConflictError, match="net/old was renamed to net/new"):
        registry.combine({new: 1.0}, "net/old/more")


def test_verify_makes_it_again(house: House, tmp_path: Path) -> None:
    registry = house.registry
    one, other = house.siblings()
    mixed = house.mixed(one, other)
    child = registry.publish(house.folder(), f"{path_of(mixed)}/child").revision.reference
    registry.fetch(child, tmp_path / "out", kind="merged")
    found = registry.verify(tmp_path / "out")
    assert (found.equal, [(again.reference, again.state) for again in found.combinations]) == (True, [(mixed, "same")])
    registry.fetch(one, tmp_path / "plain")
    assert registry.verify(tmp_path / "plain").combinations == ()
    # what is stored as the sum of others than those it names
    liar = house.local.show(house.mixed(one, other, message="0")).revision
    assert liar is not None
    _say_other_weights(house.local, liar.reference)
    registry.fetch(liar.reference, tmp_path / "liar")
    found = registry.verify(tmp_path / "liar")
    assert not found.equal
    assert [wrong.reason for wrong in found.mismatches] == [f"{liar.reference} is not what its sources give"]
    assert found.combinations[0].relative_difference > 0.1


def _say_other_weights(local: LocalRegistry, reference: str) -> None:
    def change(session: Session) -> None:
        row = revisions.find(session, Reference.parse(reference))
        first = (RevisionSource.revision_id == row.id) & (RevisionSource.place == 0)
        session.execute(update(RevisionSource).where(first).values(weight=0.75))

    local.deployment.change(change)


def test_the_views_serve_it_until_a_source_is_retracted(house: House) -> None:
    one, other = house.siblings()
    mixed = house.mixed(one, other)

    def served() -> bool:
        with house.local.deployment.read() as session:
            return bool(repo_rows.served(session, TreePath.parse(path_of(mixed)), "lora", limit=5))

    assert served()
    house.registry.retract(other, reason="bad")
    assert not served()


def test_it_is_not_rebased(house: House) -> None:
    """Its files elsewhere would stay when a source is retracted."""
    registry = house.registry
    registry.publish(house.folder(), "net/base")
    registry.publish(house.folder(), "net/base/s")
    registry.combine({"net/base/s": 0.5}, "net/base/m")
    registry.publish(house.folder(), "net/base")
    with pytest.raises(
        InvalidAdapterError, match="net/base/m@1 is a combination: combine its sources again"
    ) as refused:
        registry.rebase("net/base/m", "net/base@2")
    assert refused.value.code == "not_rebasable"


def test_what_is_published_alike_is_one_source(house: House) -> None:
    folder = house.folder()
    house.registry.publish(folder, "net/top/twin-a")
    house.registry.publish(folder, "net/top/twin-b")
    with pytest.raises(UsageError, match="net/top/twin-b@1 is the same as net/top/twin-a@1"):
        house.registry.combine({"net/top/twin-a": 1, "net/top/twin-b": 1}, "net/top/twins")
