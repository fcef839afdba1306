"""The registry protocol: one suite for every implementation of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.digest import sha256_digest
from registry.errors import (
    ConflictError,
    InvalidAdapterError,
    InvalidBaseError,
    NotFoundError,
    RetractedError,
    UsageError,
)
from registry.files.source import read_range
from registry.operations.registry import Registry
from registry.operations.transfer import Transfer
from registry.schemas import ArtifactKind
from registry.services.local import LocalRegistry
from tests.kit import Base, add_tokenizer, plain_base, write_adapter
from tests.kit.registries import ON_HTTP, ON_TEAM_AT_LENGTH, opened_as
from tests.kit.sending import send, send_base
from tests.kit.serving import keep_waiting


class Exchanging(Registry, Transfer):
    """A registry that other registries talk to, as all are."""


@pytest.fixture(params=["embedded", ON_HTTP, ON_TEAM_AT_LENGTH])
def implementation(request: pytest.FixtureRequest) -> str:
    """Which implementation the test is about."""
    name: str = request.param
    return name


@pytest.fixture
def registry(implementation: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    with opened_as(implementation, request, tmp_path) as kept:
        yield kept


@pytest.fixture
def base(registry: Registry, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    add_tokenizer(made.folder)
    registry.add_base("net", made.folder)
    return made


def _adapter(tmp_path: Path, base: Base, name: str, seed: int = 0, **options: object) -> Path:
    return write_adapter(tmp_path / name, base, ["a", "b"], r=2, seed=seed, **options)  # type: ignore[arg-type]


def test_the_same_weights_are_the_same_base(registry: Registry, base: Base, tmp_path: Path) -> None:
    again = registry.add_base("net", base.folder)
    assert not again.created
    assert again.bytes_stored == 0
    other = plain_base(tmp_path / "other", {"a.weight": (24, 16), "b.weight": (16, 24)}, seed=1)
    with pytest.raises(ConflictError) as refused:
        registry.add_base("net", other.folder)
    assert refused.value.code == "other_weights"


def test_a_link_shares_the_bytes(registry: Registry, implementation: str, tmp_path: Path) -> None:
    made = plain_base(tmp_path / "base")
    if implementation != "embedded":
        with pytest.raises(UsageError, match="link"):
            registry.add_base("net", made.folder, link=True)
        return
    added = registry.add_base("net", made.folder, link=True)
    assert added.stored_by == "link"
    assert (made.folder / "model.safetensors").stat().st_nlink == 2


def test_publishing_twice_gives_the_revision_back(registry: Registry, base: Base, tmp_path: Path) -> None:
    folder = _adapter(tmp_path, base, "one")
    first = registry.publish(folder, "net/one", metrics={"acc": 0.5})
    again = registry.publish(folder, "net/one", metrics={"acc": 0.75}, tags=["prod"])
    assert (first.created, again.created) == (True, False)
    assert again.bytes_stored == 0
    assert again.revision.reference == first.revision.reference == "net/one@1"
    assert again.revision.metrics == {"acc": 0.75}
    assert again.revision.tags == ("prod",)
    assert len(registry.log("net/one").revisions) == 1
    assert {event.action for event in registry.events()} >= {"base add", "publish", "annotate", "tag"}


def test_the_parent_is_proved_or_asked_for(registry: Registry, base: Base, tmp_path: Path) -> None:
    registry.publish(_adapter(tmp_path, base, "one"), "net/one")
    merged = registry.fetch("net/one", tmp_path / "merged", kind="merged")
    only = registry.publish(_adapter(tmp_path, base, "two", seed=2), "net/one/two")
    assert (only.revision.parent, only.parent_reason) == ("net/one@1", "the only revision of net/one")
    registry.publish(_adapter(tmp_path, base, "one-again", seed=9), "net/one")
    child = _adapter(tmp_path, base, "child", seed=3)
    with pytest.raises(UsageError) as unclear:
        registry.publish(child, "net/one/child")
    assert unclear.value.code == "parent_ambiguous"
    assert "net/one@1" in str(unclear.value)
    said = registry.publish(child, "net/one/child", parent="net/one@2")
    assert said.revision.parent == "net/one@2"
    proved = registry.publish(
        _adapter(tmp_path, base, "proved", seed=4, config={"base_model_name_or_path": merged.folder}), "net/one/proved"
    )
    assert proved.revision.parent == "net/one@1"
    assert proved.revision.behind
    shown = [registry.show(f"net/one/{name}").revision for name in ("proved", "child")]
    assert [one is not None and one.behind for one in shown] == [True, False]
    given = registry.publish(_adapter(tmp_path, base, "given", seed=5), "net/one/given", receipt=merged.folder)
    assert given.revision.parent == "net/one@1"


def test_proofs_that_contradict_are_refused(registry: Registry, base: Base, tmp_path: Path) -> None:
    registry.publish(_adapter(tmp_path, base, "one"), "net/one")
    registry.publish(_adapter(tmp_path, base, "one-again", seed=9), "net/one")
    registry.publish(_adapter(tmp_path, base, "other", seed=8), "net/other")
    merged = registry.fetch("net/one@1", tmp_path / "merged", kind="merged")
    child = _adapter(tmp_path, base, "child", seed=3, config={"base_model_name_or_path": merged.folder})
    for path, parent in (("net/one/child", "net/one@2"), ("net/one/child", "net/other@1"), ("net/other/child", None)):
        with pytest.raises(ConflictError) as refused:
            registry.publish(child, path, parent=parent)
        assert refused.value.code == "parent_mismatch"
    with pytest.raises(NotFoundError, match="net/absent"):
        registry.publish(child, "net/absent/child")
    assert len(registry.search().revisions) == 2


def test_an_older_revision_that_is_better_is_found(registry: Registry, base: Base, tmp_path: Path) -> None:
    for number, acc in enumerate((0.7, 0.9, 0.8)):
        registry.publish(_adapter(tmp_path, base, f"one-{number}", seed=number), "net/one", metrics={"acc": acc})
    registry.publish(_adapter(tmp_path, base, "other", seed=9), "net/other", metrics={"acc": 0.85})

    def found(**options: Any) -> list[str]:
        return [one.reference for one in registry.search(**options).revisions]

    assert found(sort="max:acc") == ["net/other@1", "net/one@3"]
    assert found(sort="max:acc", all_revisions=True) == ["net/one@2", "net/other@1", "net/one@3", "net/one@1"]
    assert found(sort="min:acc", all_revisions=True, limit=2) == ["net/one@1", "net/one@3"]
    assert found(all_revisions=True, metric="acc>0.75") == ["net/one@3", "net/one@2", "net/other@1"]
    assert found(path="net/one", depth=0, all_revisions=True, sort="max:acc") == ["net/one@2", "net/one@3", "net/one@1"]
    assert found(path="net", depth=1) == found(path="net") == ["net/one@3", "net/other@1"]
    author = registry.log("net/other").revisions[0].author
    assert found(author=author, path="net/other") == ["net/other@1"]
    assert found(author=f"not {author}") == []
    with pytest.raises(NotFoundError, match="net/one"):
        registry.search(path="net/on")
    with pytest.raises(UsageError, match="'max:acc', 'min:eval_loss' or 'min:stat:rank95' is expected"):
        registry.search(sort="acc")


def test_searches_by_statistics_that_were_computed(
    registry: Registry, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_waiting(monkeypatch)
    for name, seed in (("one", 1), ("other", 2), ("third", 3)):
        registry.publish(_adapter(tmp_path, base, name, seed=seed), f"net/{name}")
    assert registry.search(stat="rank95").revisions == ()
    silent = registry.search(sort="min:stat:rank95")
    told = "No revision that matches has rank95 yet; `registry stats net/one@1` computes it of one."
    assert (silent.revisions, silent.notices) == ((), (told,))
    assert repr(silent) == f"<SearchResult: 0 revisions; {told}>"
    assert told in silent._repr_html_().replace("&#x27;", "'")
    assert registry.search(text="nowhere", sort="min:stat:rank95").notices == (
        "What has no statistics yet is not found; `registry stats REF` computes and keeps them.",
    )
    assert registry.search(sort="min:acc").notices[0].startswith("No revision that matches has the metric acc; ")
    assert registry.search().notices == registry.search(tag="absent").notices == ()
    deltas = {f"net/{name}@1": registry.stats(f"net/{name}").links[0].delta for name in ("one", "other")}
    smaller, larger = sorted(deltas, key=lambda reference: deltas[reference].frobenius)
    bound = f"frobenius<={deltas[smaller].frobenius!r}"

    def found(*stat: str, **options: Any) -> list[str]:
        return [one.reference for one in registry.search(stat=",".join(stat), **options).revisions]

    assert found("rank95", sort="max:stat:frobenius") == [larger, smaller]
    assert found(bound) == found(bound, "rank95>0") == [smaller]
    assert found(bound, "frobenius<0") == found(bound, tag="prod") == []
    (only,) = registry.search(stat=bound, sort="min:stat:rank95", limit=1).revisions
    assert only.statistics == {"frobenius": deltas[smaller].frobenius, "rank95": deltas[smaller].rank95}
    (row,) = registry.search(stat=bound).to_pandas().to_dict("records")
    assert row["statistic.frobenius"] == deltas[smaller].frobenius
    for wrong in ({"stat": "rank<8"}, {"sort": "min:stat:acc"}):
        with pytest.raises(UsageError, match="is no statistic; there are energy, frobenius, spectral, stable_rank, "):
            registry.search(**wrong)  # type: ignore[arg-type]


def test_what_is_left_out_is_told(registry: Registry, base: Base, tmp_path: Path) -> None:
    folder = _adapter(tmp_path, base, "one")
    for name in (
        "training_args.bin",
        "optimizer.pt",
        "rng_state_0.pth",
        "adapter_model.bin",
        "notes/model.pkl",
        ".git/x",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\x80\x04")
    (folder / "checkpoint-10").mkdir()
    (folder / "README.md").write_text("# one")
    answer = registry.publish(folder, "net/one")
    left = {entry.path for entry in answer.left_out}
    assert left == {
        "training_args.bin",
        "optimizer.pt",
        "rng_state_0.pth",
        "adapter_model.bin",
        "notes/model.pkl",
        ".git",
        "checkpoint-10",
    }
    kept = {file.path for file in registry.show("net/one").files}
    assert kept == {"adapter_config.json", "adapter_model.safetensors", "README.md"}


def test_folders_that_are_not_one_adapter(registry: Registry, base: Base, tmp_path: Path) -> None:
    only = tmp_path / "run"
    _adapter(tmp_path, base, "run/checkpoint-10")
    with pytest.raises(InvalidAdapterError, match="checkpoint-10") as checkpoints:
        registry.publish(only, "net/one")
    assert checkpoints.value.code == "checkpoint_folders"
    pickled = _adapter(tmp_path, base, "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(InvalidAdapterError) as pickle:
        registry.publish(pickled, "net/one")
    assert pickle.value.code == "pickle"
    linked = _adapter(tmp_path, base, "linked")
    (linked / "notes.txt").symlink_to("/etc/hostname")
    with pytest.raises(InvalidAdapterError) as link:
        registry.publish(linked, "net/one")
    assert link.value.code == "link_outside"
    assert registry.search().revisions == ()


def test_the_links_of_a_hub_cache_are_followed(registry: Registry, base: Base, tmp_path: Path) -> None:
    source = _adapter(tmp_path, base, "one")
    snapshot = tmp_path / "hub/models--x--y/snapshots/0123"
    blobs = tmp_path / "hub/models--x--y/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(source.iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert registry.publish(snapshot, "net/one").created


def test_a_nested_folder_goes_on_where_it_was_stopped(registry: Registry, base: Base, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for seed, name in enumerate(("a", "a/b", "a/b/c", "d")):
        _adapter(root, base, name, seed=seed)
    (root / "a/b/c/adapter_config.json").write_text("{}")
    with pytest.raises(InvalidAdapterError):
        registry.publish_tree(root, "net")
    assert registry.search().revisions == ()  # all are checked first
    (root / "a/b/c").rename(tmp_path / "aside")
    assert [one.revision.path for one in registry.publish_tree(root, "net")] == ["net/a", "net/a/b", "net/d"]
    _adapter(root, base, "a/b/c", seed=2)
    answers = registry.publish_tree(root, "net")
    assert [(answer.revision.path, answer.created) for answer in answers] == [
        ("net/a", False),
        ("net/a/b", False),
        ("net/a/b/c", True),
        ("net/d", False),
    ]


def test_a_folder_is_filled_kept_refused_or_replaced(registry: Registry, base: Base, tmp_path: Path) -> None:
    registry.publish(_adapter(tmp_path, base, "one"), "net/one")
    out = tmp_path / "out"
    out.mkdir()
    assert registry.fetch("net/one", out, kind="merged").fresh
    assert not registry.fetch("net/one", out, kind="merged").fresh
    with pytest.raises(ConflictError) as other:
        registry.fetch("net/one", out, kind="lora")
    assert other.value.code == "folder_taken"
    assert registry.fetch("net/one", out, kind="lora", force=True).fresh
    assert not (out / "model.safetensors").exists()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ConflictError, match=r"mine\.txt"):
        registry.fetch("net/one", out, kind="merged", force=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    with pytest.raises(ConflictError):
        registry.fetch("net/one", foreign, kind="merged", force=True)
    assert [path.name for path in foreign.iterdir()] == ["mine.txt"]
    assert not [path for path in tmp_path.iterdir() if ".fetch-" in path.name]


def test_the_cache_keeps_renderings_within_its_size(tmp_path: Path) -> None:
    registry = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache", cache_limit=1)
    made = plain_base(tmp_path / "base")
    registry.add_base("net", made.folder)
    one = write_adapter(tmp_path / "one", made, list(made.modules), r=2)
    registry.publish(one, "net/one")
    first = registry.fetch("net/one", kind="merged")
    assert not registry.fetch("net/one", kind="merged").fresh
    second = registry.fetch("net/one", kind="lora")
    assert not Path(first.folder).exists()
    assert Path(second.folder).is_dir()
    (tmp_path / "cache" / f".{'0' * 64}.fetch-{'1' * 12}").mkdir()
    third = registry.fetch("net/one", kind="published")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [Path(third.folder).name]
    registry.close()


def test_verify_names_the_tensor_that_was_changed(registry: Registry, base: Base, tmp_path: Path) -> None:
    registry.publish(_adapter(tmp_path, base, "one"), "net/one")
    out = tmp_path / "out"
    registry.fetch("net/one", out, kind="merged")
    assert registry.verify(out).equal
    weights = out / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    found = registry.verify(out)
    assert not found.equal
    assert [(mismatch.file, mismatch.tensor) for mismatch in found.mismatches] == [("model.safetensors", "b.weight")]
    (out / "tokenizer.json").unlink()
    assert {mismatch.file for mismatch in registry.verify(out).mismatches} == {"model.safetensors", "tokenizer.json"}
    receipt = json.loads((out / "registry-receipt.json").read_text())
    receipt["plan_digest"] = "sha256:" + "0" * 64
    (out / "registry-receipt.json").write_text(json.dumps(receipt))
    with pytest.raises(Exception, match="plan"):
        registry.verify(out)


def test_verify_on_another_arithmetic_is_within_the_bound(
    registry: Registry, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.publish(_adapter(tmp_path, base, "one"), "net/one")
    out = tmp_path / "out"
    registry.fetch("net/one", out, kind="merged")
    monkeypatch.setattr("registry.tensors.artifacts.plan.fingerprint", lambda: "another")
    found = registry.verify(out)
    assert (found.equal, found.exact) == (True, False)
    weights = out / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 0x10  # the leading fraction bits of the last float
    weights.write_bytes(data)
    assert [mismatch.tensor for mismatch in registry.verify(out).mismatches] == ["b.weight"]


def test_the_tokenizer_comes_from_the_youngest_that_brings_one(registry: Registry, base: Base, tmp_path: Path) -> None:
    one, two = _adapter(tmp_path, base, "one"), _adapter(tmp_path, base, "two", seed=2)
    add_tokenizer(one, "two")
    (two / "chat_template.jinja").write_text("{# youngest #}")
    registry.publish(one, "net/one")
    registry.publish(two, "net/one/two")
    with registry.artifact("net/one/two", kind="merged") as merged:
        assert b'"two"' in merged.file("tokenizer.json").read()
        assert merged.file("chat_template.jinja").read() == b"{# youngest #}"
        assert "additional_chat_templates/tools.jinja" not in merged.files
    with registry.artifact("net", kind="merged") as untouched:
        assert b'"one"' in untouched.file("tokenizer.json").read()


def test_unknown_names_offer_the_nearest(registry: Registry, base: Base, tmp_path: Path) -> None:
    registry.publish(_adapter(tmp_path, base, "one"), "net/support")
    for reference, near in (("net/suport", "net/support"), ("nett/x", "net"), ("net/support@7", "net/support@1")):
        with pytest.raises(NotFoundError, match=near):
            registry.show(reference)
    with pytest.raises(UsageError):
        registry.fetch("net", kind="lora")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_range_is_cut_from_the_same_bytes(registry: Registry, tmp_path: Path, data: st.DataObject) -> None:
    if not registry.bases():
        made = plain_base(tmp_path / "base", {"a.weight": (70, 33), "b.weight": (16, 24)}, dtype="BF16")
        registry.add_base("net", made.folder)
        registry.publish(write_adapter(tmp_path / "one", made, ["a", "b"], r=3), "net/one")
    kinds: list[ArtifactKind] = ["published", "lora", "merged"]
    kind = data.draw(st.sampled_from(kinds))
    with registry.artifact("net/one", kind=kind) as artifact:
        file = artifact.file(data.draw(st.sampled_from(sorted(artifact.files))))
        whole = file.read()
        assert len(whole) == file.size
        start = data.draw(st.integers(0, file.size))
        stop = data.draw(st.integers(start, file.size))
        assert file.read(start, stop) == whole[start:stop]


def test_broken_bases_are_refused_before_anything_is_stored(
    registry: Registry, implementation: str, tmp_path: Path
) -> None:
    made = plain_base(tmp_path / "base", shards=2)
    index = made.folder / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    name = next(iter(document["weight_map"]))
    shards = sorted(set(document["weight_map"].values()))
    document["weight_map"][name] = next(shard for shard in shards if shard != document["weight_map"][name])
    index.write_text(json.dumps(document))
    with pytest.raises(InvalidBaseError) as disagrees:
        registry.add_base("net", made.folder)
    assert disagrees.value.code == "bad_index"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InvalidBaseError) as none:
        registry.add_base("net", empty)
    assert none.value.code == "missing_file"
    assert registry.bases() == ()
    if implementation == "embedded":
        assert not list(Path(registry.url).rglob("blobs/**/*"))


def test_who_acts(registry: Registry) -> None:
    me = registry.whoami()
    assert (me.url, me.role, me.scopes, me.expires_at) == (registry.url, "admin", (), None)
    assert me.name
    assert me.version


def test_a_token_is_shown_once_and_revoked(registry: Registry, base: Base) -> None:
    before = {token.id for token in registry.tokens()}
    made = registry.create_token("writer", name="trainer", scopes=["net/one"], expires_in=3600)
    assert (made.token.role, made.token.scopes, made.token.revoked_at) == ("writer", ("net/one",), None)
    assert made.token.expires_at is not None
    assert (made.token.expires_at - made.token.created_at).total_seconds() == 3600
    listed = {token.id: token for token in registry.tokens()}
    assert listed.keys() == before | {made.token.id}
    assert made.secret not in "".join(token.model_dump_json() for token in listed.values())
    assert registry.revoke_token(made.token.id).revoked_at is not None
    actions = [event.action for event in registry.events()]
    assert actions[:2] == ["token revoke", "token create"]
    for wrong in ({"scopes": ["Net"]}, {"expires_in": 0}, {"name": "x" * 129}):
        with pytest.raises(UsageError):
            registry.create_token("reader", **wrong)
    with pytest.raises(NotFoundError):
        registry.revoke_token("tok_nobody")


def test_what_registries_say_to_each_other(registry: Exchanging, base: Base, tmp_path: Path) -> None:
    one, two = _adapter(tmp_path, base, "one"), _adapter(tmp_path, base, "two", seed=2)
    published = registry.publish(one, "net/one").revision
    sent = send(registry, one, "net/twin")
    assert sent.created
    assert sent.revision.digest == published.digest
    assert send(registry, two, "net/one/two", tags=["prod"]).revision.parent == "net/one@1"
    assert not send_base(registry, "net", base.folder).created
    bundle = registry.bundle("net/one/two@prod")
    assert [link.reference for link in bundle.links] == ["net/one@1", "net/one/two@1"]
    assert registry.subtree("net/one") == ("net/one@1", "net/one/two@1")
    for entry in (bundle.base.index, *bundle.links[1].files):
        with closing(registry.open_blob(bundle.reference, entry)) as source:
            data = read_range(source, 0, source.size)
            assert sha256_digest(data) == entry.digest
            assert read_range(source, 3, source.size) == data[3:]
    registry.retract("net/one", reason="leaked data")
    for work in (lambda: registry.bundle("net/one/two"), lambda: send(registry, two, "net/one/three")):
        with pytest.raises(RetractedError, match="leaked data"):
            work()


def test_what_is_materialised_is_the_same_until_it_is_dropped(registry: Registry, base: Base, tmp_path: Path) -> None:
    registry.publish(_adapter(tmp_path, base, "one"), "net/one", tags=["prod"])
    kinds: tuple[ArtifactKind, ...] = ("lora", "merged")
    before = {kind: registry.fetch("net/one", tmp_path / kind, kind=kind) for kind in kinds}
    made = {kind: registry.materialise("net/one@prod", kind=kind) for kind in kinds}
    for kind in kinds:
        assert made[kind].created
        assert made[kind].materialisation.reference == "net/one@1"
        assert made[kind].materialisation.rendering == before[kind].rendering
        assert 0 < made[kind].bytes_stored <= made[kind].materialisation.size
        fetched = registry.fetch("net/one", tmp_path / f"again-{kind}", kind=kind)
        assert (fetched.rendering, fetched.files) == (before[kind].rendering, before[kind].files)
        assert registry.verify(tmp_path / f"again-{kind}").equal
        again = registry.materialise("net/one", kind=kind, expires_in=90 * 86400)
        assert (again.created, again.bytes_stored) == (False, 0)
        assert again.materialisation.expires_at > made[kind].materialisation.expires_at
    listed = registry.materialisations()
    assert {one.id for one in listed} == {made[kind].materialisation.id for kind in kinds}
    assert registry.materialisations("net") == registry.materialisations("net/one@1") == listed
    assert registry.drop_materialisation("net/one", kind="lora") == listed[:1]
    assert registry.drop_materialisation(listed[1].id) == listed[1:]
    assert registry.materialisations() == ()
    assert registry.fetch("net/one", tmp_path / "last", kind="merged").files == before["merged"].files
    with pytest.raises(NotFoundError, match="net/one@1 is not materialised"):
        registry.drop_materialisation("net/one")
    with pytest.raises(NotFoundError):
        registry.drop_materialisation(listed[0].id)
    actions = [event.action for event in registry.events(limit=7) if event.action != "notice"]
    assert actions[:6] == ["materialise drop"] * 2 + ["materialise"] * 4


def test_what_can_not_be_materialised(registry: Registry, base: Base, tmp_path: Path) -> None:
    registry.publish(_adapter(tmp_path, base, "one"), "net/one")
    with pytest.raises(UsageError, match="stored as they are"):
        registry.materialise("net/one", kind="published")
    with pytest.raises(UsageError, match="base model"):
        registry.materialise("net", kind="merged")
    for seconds in (0, 10**12):
        with pytest.raises(UsageError):
            registry.materialise("net/one", expires_in=seconds)
    with pytest.raises(NotFoundError, match="net/two"):
        registry.materialise("net/two")
    registry.retract("net/one", reason="bad")
    with pytest.raises(RetractedError):
        registry.materialise("net/one")
    assert registry.materialisations() == ()
