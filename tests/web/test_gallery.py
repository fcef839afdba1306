"""The gallery has what the pages are tried on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.kit.gallery_hostile import ADAPTER
from tests.kit.gallery_story import LLAMA
from tests.kit.gallery_texts import ATTACKS
from tests.web.kit import Site


def test_it_has_of_everything(site: Site) -> None:
    registry = site.registry
    revisions = registry.search(base=LLAMA, all_revisions=True).revisions
    assert len({one.path for one in revisions}) >= 30
    assert max(one.path.count("/") for one in revisions) == 4
    assert sum(one.behind for one in revisions) >= 5
    assert {one.reference for one in revisions if one.retracted} >= {f"{LLAMA}/medical/radiology/chest@1"}
    noticed = {one.code for path in {one.path for one in revisions} for one in registry.show(path).notices}
    assert noticed >= {"duplicate", "zero_delta", "like_sibling", "undoes_parent"}
    shown = registry.show(f"{LLAMA}/support/french@3")
    assert {one.engine for one in shown.engines} == {"vllm", "sglang", "peft", "transformers"}
    assert shown.use is not None
    assert shown.use.uses > 0
    assert [one.kind for one in registry.materialisations(f"{LLAMA}/support/french")] == ["merged"]
    assert [one.pattern for one in registry.protect_tag(LLAMA, "release-*")] == ["prod", "release-*"]
    assert registry.show(f"{ADAPTER}@1").revision.message == "\n".join(ATTACKS)  # type: ignore[union-attr]


def test_it_happened_over_three_months(site: Site) -> None:
    now = datetime.now(UTC)
    events = site.registry.events(limit=1000)
    assert [one.at for one in events] == sorted((one.at for one in events), reverse=True)
    published = [one for one in events if one.action == "publish"]
    assert published[0].at < now - timedelta(days=6)
    assert published[-1].at > now - timedelta(days=101)
    for one in site.registry.log(f"{LLAMA}/support").revisions:
        same = next(event for event in published if event.subject == one.reference)
        assert abs(same.at - one.created_at) < timedelta(seconds=5)
