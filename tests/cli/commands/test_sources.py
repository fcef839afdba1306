"""Where something was taken from, and what the Hub views call it, as the commands show it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from registry.cli.render import results
from registry.cli.render.screen import lines_of
from registry.schemas import BaseAdded, Log, Published, sheets
from registry.schemas.frames import Block
from registry.services.local import LocalRegistry
from tests.cli.canned import BASE, FRENCH, SHOWN, SHOWN_BASE
from tests.kit import plain_base, write_adapter

SOURCE = "hf:org/model@0123456789abcdef0123456789abcdef01234567 at https://hub.example.org"


def text(blocks: Iterable[Block]) -> list[str]:
    return ["".join(span.text for span in line) for line in lines_of(blocks, None)]


def test_a_source_is_shown_whole_and_only_where_there_is_one() -> None:
    base, revision = BASE.model_copy(update={"source": SOURCE}), FRENCH.model_copy(update={"source": SOURCE})
    added = BaseAdded(base=base, created=True, bytes_stored=1, stored_by="copy", left_out=(), registry="/r")
    published = Published(
        revision=revision,
        created=True,
        parent_digest=FRENCH.digest,
        parent_reason="why",
        left_out=(),
        bytes_stored=1,
        registry="/r",
    )
    line = ["source", *SOURCE.split()]
    for blocks in (
        sheets.shown(SHOWN_BASE.model_copy(update={"base": base})),
        sheets.shown(SHOWN.model_copy(update={"revision": revision})),
        results.base_added(added),
        results.published(published),
    ):
        assert line in [one.split() for one in text(blocks)]
    log = Log(path=FRENCH.path, revisions=(revision, FRENCH))
    assert [SOURCE in one for one in text([sheets.log(log, None)])] == [False, False, True, False]
    assert not any("source" in one for one in text(sheets.shown(SHOWN)))


def test_names_in_the_views_are_those_of_this_very_revision(tmp_path: Path) -> None:
    base = plain_base(tmp_path / "base")
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        registry.add_base("net", base.folder)
        for seed, tags in enumerate((["prod", "v1"], ["dev"])):
            registry.publish(write_adapter(tmp_path / f"{seed}", base, seed=seed), "net/a", tags=tags)
        shown = {ref: registry.show(ref) for ref in ("net", "net/a@1", "net/a")}
        names = {ref: (one.repo_id, one.repo_revisions) for ref, one in shown.items()}
        assert names == {
            "net": ("net/_", ("main",)),
            "net/a@1": ("net/a", ("r1", "prod", "v1")),
            "net/a": ("net/a", ("r2", "dev", "main")),
        }
        lines = [one.split() for one in text(sheets.shown(shown["net/a"]))]
        assert ["repo", "id", "net/a", "revision", "r2,", "dev,", "main"] in lines
        registry.retract("net/a@2", reason="wrong data")
        assert registry.show("net/a").repo_revisions == ()
