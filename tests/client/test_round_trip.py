"""What goes to a service and comes back: the same answers, the same bytes and the same receipts as in process.

Trees that move between services: bytes by digest, checked, and only what is missing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from registry.errors import ConflictError, NotAllowedError, RetractedError
from registry.folders.receipts import read_receipt
from registry.reference import Reference
from registry.schemas import ArtifactKind
from registry.services.artifacts.load import load_path
from registry.services.bases import norms
from registry.services.local import LocalRegistry
from registry.tensors.lineage import bound
from registry.version import __version__
from tests.client.conftest import MakeTeam, Team
from tests.kit import Base, add_tokenizer, plain_base, read_model, write_adapter
from tests.kit.masked import HEAD, masked_base
from tests.kit.old_tables import of_before
from tests.kit.serving import keep_waiting


@pytest.fixture
def base(team: Team, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    add_tokenizer(made.folder)
    return made


def test_published_here_and_fetched_elsewhere(
    team: Team, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_waiting(monkeypatch)
    client = team.client()
    added = client.add_base("net", base.folder)
    assert (added.created, added.registry) == (True, team.url)
    assert client.bases() == team.local.bases()
    one = client.publish(write_adapter(tmp_path / "one", base, ["a", "b"], r=2), "net/one", tags=["prod"])
    assert (one.created, one.registry, one.revision.reference) == (True, team.url, "net/one@1")
    two = client.publish(write_adapter(tmp_path / "two", base, ["a"], r=2, seed=2), "net/one/two")
    assert two.parent_reason == "the only revision of net/one"
    assert client.tree() == team.local.tree()
    assert client.show("net/one@prod") == team.local.show("net/one@prod")
    assert client.log("net/one") == team.local.log("net/one")
    assert client.search(tag="prod") == team.local.search(tag="prod")
    kinds: tuple[ArtifactKind, ...] = ("published", "lora", "merged")
    for kind in kinds:
        here = client.fetch("net/one/two", tmp_path / f"remote-{kind}", kind=kind)
        there = team.local.fetch("net/one/two", tmp_path / f"local-{kind}", kind=kind)
        assert here.files == there.files
        assert here.rendering == there.rendering
        mine, theirs = read_receipt(Path(here.folder)), read_receipt(Path(there.folder))
        assert mine.model_copy(update={"registry": theirs.registry}) == theirs
        assert mine.registry == team.url
        assert client.verify(here.folder).equal


def test_a_table_is_made_anew_from_afar(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = masked_base(tmp_path / "bert")
    with of_before(monkeypatch):
        team.local.add_base("bert", base.folder)
    client = team.client()
    client.publish(write_adapter(tmp_path / "head", base, [HEAD], r=2), "bert/head")
    for materialised in (False, True):  # the second as an older version left it
        if materialised:
            with monkeypatch.context() as patch:
                patch.setattr(bound, "unsaid", lambda _: None)
                team.local.materialise("bert/head", kind="merged")
        with pytest.raises(ConflictError, match="registry base retable bert") as refused:
            client.fetch("bert/head", tmp_path / "refused", kind="merged")
        assert refused.value.code == "retable_needed"
    answer = client.retable("bert")
    assert (answer.changed, answer.revisions, answer.base) == (True, 1, client.bases()[0])
    assert client.retable("bert") == team.local.retable("bert")
    assert client.fetch("bert/head", tmp_path / "out", kind="merged").files


def test_norms_are_taken_of_uploads_and_from_afar(team: Team, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(norms, "NORMS_FORMAT", 0)  # as another version adds it
        client = team.client()
        client.add_base("net", base.folder)
    path = load_path(team.local.deployment, Reference.parse("net")).base
    assert norms.slot_norms(team.local.deployment, path) is None
    first, again = client.measure_base("net"), client.measure_base("net")
    assert (first.measured, again.measured, first.norms) == (True, False, 2)
    found = norms.slot_norms(team.local.deployment, path)
    assert found is not None
    values = {name: raw.values for name, raw in read_model(base.folder).items()}
    assert {slot.tensor: norm for slot, norm in found.items()} == pytest.approx(
        {name: float(np.linalg.norm(value)) for name, value in values.items()}, rel=1e-14
    )
    client.add_base("other", base.folder)
    assert not client.measure_base("other").measured


class Bars:
    """Progress as a face would draw it."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []  # words, total, done

    def begin(self, what: str, total: int) -> None:
        self.stages.append((what, total, 0))

    def advance(self, amount: int) -> None:
        what, total, done = self.stages[-1]
        self.stages[-1] = (what, total, done + amount)


def test_bars_reach_their_end_and_say_what_is_done(team: Team, base: Base, tmp_path: Path) -> None:
    client, bars = team.client(), Bars()
    client.add_base("net", base.folder, progress=bars)
    client.publish(write_adapter(tmp_path / "one", base, ["a", "b"], r=2), "net/one", progress=bars)
    elsewhere = team.client("elsewhere")
    elsewhere.fetch("net/one", tmp_path / "sent", kind="merged", progress=bars)
    client.fetch("net/one", tmp_path / "made", kind="merged", progress=bars)
    client.verify(tmp_path / "made", progress=bars)
    assert all(done == total for _, total, done in bars.stages), bars.stages
    words = [what for what, _, _ in bars.stages]
    assert [word for word in words if word == "Uploading"] == ["Uploading", "Uploading"]
    assert f"Receiving from {team.url}" in words
    assert f"Merging on {base.folder}" in words


def test_keeping_a_registry_from_afar(team: Team, base: Base, tmp_path: Path) -> None:
    client = team.client()
    client.add_base("net", base.folder)
    client.publish(write_adapter(tmp_path / "one", base, ["a"], r=2), "net/one", metrics={"acc": 0.5})
    client.publish(write_adapter(tmp_path / "two", base, ["b"], r=2), "net/one/two")
    client.publish(write_adapter(tmp_path / "three", base, ["b"], r=2, seed=3), "net/three")
    assert client.tag("net/one@1", "prod").reference == "net/one@1"
    assert client.protect_tag("net", "prod") == team.local.protect_tag("net", "prod")
    assert client.untag("net/one", "prod").previous == "net/one@1"
    assert client.annotate("net/one", annotations={"who": "me"}).annotations == {"who": "me"}
    taken = client.retract("net/one@1", reason="bad data")
    assert taken.descendants == ("net/one/two@1",)
    with pytest.raises(RetractedError, match="bad data"):
        client.fetch("net/one/two", tmp_path / "out")
    with pytest.raises(RetractedError, match="bad data"):
        client.fetch("net/one/two", tmp_path / "out", kind="merged")
    client.retract("net/one@1", undo=True)
    assert client.fetch("net/one/two", tmp_path / "out").fresh
    assert client.delete("net/three@1").reference == "net/three@1"
    assert client.gc(dry_run=True) == team.local.gc(dry_run=True)
    assert client.fsck(deep=True) == team.local.fsck(deep=True)
    assert client.fsck().damage == ()
    identity = client.whoami()
    assert (identity.url, identity.service_version) == (team.url, __version__)
    events = client.events(limit=3)
    assert len(events) == 3
    assert events == team.local.events(limit=3)
    made = client.create_token("writer", name="ci", scopes=["net/one"], expires_in=3600)
    admin = team.local.create_token("admin")
    keeper = team.client("keeper", token=admin.secret)
    assert {token.id for token in keeper.tokens()} == {made.token.id, admin.token.id}
    assert keeper.revoke_token(made.token.id).revoked_at is not None
    with pytest.raises(NotAllowedError) as refused:
        team.client("revoked", token=made.secret).tree()
    assert refused.value.code == "bad_token"


def test_long_lists_come_in_pages(team: Team, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    team.local.add_base("net", base.folder)
    for number in range(7):
        team.local.create_token("reader", name=str(number))
    keeper = team.client("keeper", token=team.local.create_token("admin").secret)
    monkeypatch.setattr("registry.client.calls.MOST", 3)
    assert [token.name for token in keeper.tokens()] == [token.name for token in team.local.tokens()]
    assert keeper.events(limit=5) == team.local.events(limit=5)


def published(team: Team, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    team.local.add_base("net", made.folder)
    team.local.publish(write_adapter(tmp_path / "one", made, ["a"], r=2), "net/one", tags=["prod"])
    team.local.publish(write_adapter(tmp_path / "two", made, ["b"], r=2), "net/one/two")
    return made


@pytest.mark.slow
def test_from_a_laptop_to_a_team_and_on_to_another(team: Team, make_team: MakeTeam, tmp_path: Path) -> None:
    published(team, tmp_path)
    other = make_team(LocalRegistry.open(tmp_path / "other"))
    source, target = team.client("source"), other.client("target")
    copied = team.local.copy("net", target, recursive=True)
    assert [one.reference for one in copied.revisions] == ["net/one@1", "net/one/two@1"]
    assert source.copy("net", target, recursive=True).bytes_copied == 0  # all was there
    assert target.show("net/one@prod").revision.digest == source.show("net/one@prod").revision.digest  # type: ignore[union-attr]
    third = LocalRegistry.open(tmp_path / "third")
    assert target.copy("net/one/two", third).base_created
    for kind in ("published", "lora", "merged"):
        here = third.fetch("net/one/two", tmp_path / f"here-{kind}", kind=kind)
        there = source.fetch("net/one/two", tmp_path / f"there-{kind}", kind=kind)
        assert here.files == there.files
    third.close()
