"""Pages about running a registry and comparing what is in it: their values are those of the registry."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from html import unescape
from itertools import groupby

import httpx
import pytest

from registry.catalogue.database.visibility import FOR_ADMINS
from registry.figures import size
from registry.operations import table
from registry.schemas import Collected, Event
from registry.schemas.requests import ProtectedTagsRequest
from registry.schemas.team import EVENT_KINDS
from registry.services.upkeep.collect import collect
from registry.web.activity import VERBS
from tests.kit.gallery_story import LLAMA
from tests.kit.pages import Visitor
from tests.web.conftest import Visitors
from tests.web.kit import Site
from tests.web.pressing import form_with, press, said

SUPPORT = f"{LLAMA}/support"
NEXT = re.compile(r'rel="next" href="([^"]+)"')


def followed(client: Visitor, path: str | None) -> Iterator[httpx.Response]:
    """A page and all that follow it."""
    while path is not None:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        assert len(answer.content) < 100_000
        yield answer
        found = NEXT.search(answer.text)
        path = found and unescape(found[1])


def subjects(pages: Iterator[httpx.Response]) -> list[tuple[str, str]]:
    """Who did something, and to what, as pages of activity list it."""
    rows = re.findall(r'<a class="who-did"[^>]*>(.*?)</a>.*?(?:<a class="ref"|<code)[^>]*>(.*?)</',
                      "".join(page.text for page in pages), re.DOTALL)  # fmt: skip
    return [(unescape(actor), unescape(subject)) for actor, subject in rows]


def told_together(event: Event) -> tuple[str, ...]:
    return event.actor, event.subject, event.action, f"{event.at:%F %H:%M}"


@pytest.mark.parametrize("conditions", ["", f"?path={SUPPORT}", "?kind=retract", "?actor=ana&kind=tag", "?after=10d"])
def test_activity_lists_each_event_once(site: Site, visitors: Visitors, conditions: str) -> None:
    given = dict(re.findall(r"(\w+)=([^&]*)", conditions))
    events = site.registry.events(given.pop("path", None), limit=10_000, **given)
    expected = [key[:2] for at in range(0, len(events), 50) for key, _ in groupby(events[at : at + 50], told_together)]
    assert subjects(followed(visitors["admin"], f"/activity{conditions}")) == expected
    assert len(expected) > 1


def test_activity_is_what_a_token_sees(site: Site, visitors: Visitors) -> None:
    seen = subjects(followed(visitors["scoped reader"], "/activity"))
    assert seen
    assert {subject for _, subject in seen if not subject.startswith(SUPPORT)} <= {LLAMA}
    text = visitors["reader"].get("/activity").text
    assert not [kind for kind in FOR_ADMINS if f"made the token {kind}" in text]
    assert "tok_" not in text
    assert visitors["scoped reader"].get(f"/activity?path={LLAMA}/legal").status_code == 404
    for wrong in ("?cursor=x", "?after=noon", "?kind=publsh", "?colour=red", "?path=-"):
        assert visitors["admin"].get(f"/activity{wrong}").status_code in (400, 422), wrong
    empty = visitors["admin"].get("/activity?actor=nobody")
    assert "Nothing that was done meets these conditions." in said(empty)


def test_every_kind_of_event_is_told_in_words() -> None:
    assert VERBS.keys() == set(EVENT_KINDS)


def test_events_say_what_changed(visitors: Visitors) -> None:
    text = said(visitors["admin"].get(f"/activity?path={SUPPORT}&kind=tag"))
    assert f"ana moved a tag of {SUPPORT} prod @3 → @4" in text
    hostile = visitors["admin"].get("/activity?path=pen-test")
    assert "<script>globalThis" not in hostile.text
    assert "<script>globalThis.hacked=1</script>" in said(hostile)


def test_comparing_tells_what_diff_tells(site: Site, visitors: Visitors) -> None:
    a, b = f"{SUPPORT}@2", f"{SUPPORT}/french@3"
    found = site.registry.diff(a, b)
    answer = visitors["reader"].get(f"/compare?a={a}&b={b}")
    text = said(answer)
    assert found.lineage.common is not None
    assert f"Common {found.lineage.common.reference}" in text
    assert f"A adds {a}" in text
    assert f"B adds {SUPPORT}@4 \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} {b}" in text
    for metric in found.metrics:
        assert metric.a is not None
        assert metric.b is not None
        assert f"{metric.name} {metric.a:.6g} {metric.b:.6g} {metric.difference:+.4g}" in text
    for value in found.annotations:
        assert f"{value.name} {value.a} {value.b}" in text
    for file in found.files:
        assert file.path in text
    assert "Compare the deltas" in text
    assert visitors["scoped reader"].get(f"/compare?a={a}&b={LLAMA}/legal").status_code == 404
    assert form_with(visitors["reader"].get(f"/compare?a={a}"), "Compare").fields == {"a": a, "b": ""}


def test_deltas_are_compared_when_that_is_asked_for(site: Site, visitors: Visitors) -> None:
    a, b = f"{SUPPORT}/french@3", f"{SUPPORT}/german@2"
    deltas = site.registry.diff(a, b, deltas=True).deltas
    assert deltas is not None
    answer = visitors["reader"].get(f"/compare?a={a}&b={b}&deltas=1")
    for one in (deltas, *deltas.kinds):
        assert f"{one.frobenius_a:.4g} {one.frobenius_b:.4g} {one.cosine:.3f} {one.energy_ratio:.3f}" in said(answer)
    assert answer.text.count("<svg") == 1
    address = re.search(r'href="(/figures/deltas\.csv/[^"]+)"', answer.text)
    assert address
    assert "sha256:" in address[1]
    csv = visitors["reader"].get(unescape(address[1])).text.splitlines()
    assert len(csv) == 1 + len(list(deltas.rows()))
    assert f"/matrix/{SUPPORT}" in answer.text


def test_the_matrix_of_children(site: Site, visitors: Visitors) -> None:
    matrix = site.registry.diff_children(SUPPORT)
    answer = visitors["reader"].get(f"/matrix/{SUPPORT}")
    text = said(answer)
    i, j = max(
        ((i, j) for i in range(len(matrix.children)) for j in range(i + 1, len(matrix.children))),
        key=lambda pair: abs(matrix.cosine[pair[0]][pair[1]] or 0),
    )
    a, b = (matrix.children[at].reference.removeprefix(f"{SUPPORT}/") for at in (i, j))
    assert f"Compare {a} {b} {matrix.cosine[i][j]:.3f}" in text
    assert answer.text.count("<svg") == 1
    assert "has 0 children" in said(visitors["reader"].get(f"/matrix/{SUPPORT}/german"))


def test_a_token_is_made_once_and_revoked(site: Site, visitors: Visitors) -> None:
    admin = visitors["admin"]
    form = form_with(admin.get("/admin"), "Make it")
    count = len(site.registry.tokens())
    made = press(admin, form, "Make it", name="<i>ci</i>", role="writer", scopes=f"{SUPPORT} {LLAMA}/legal", days="30")
    secret = re.search(r"reg_[\w-]{43}", made.text)
    assert secret
    assert (made.status_code, made.headers["cache-control"]) == (200, "no-store")
    assert "<i>ci" not in made.text
    again = press(admin, form, "Make it", name="<i>ci</i>", role="writer", scopes="", days="")
    assert again.status_code == 409
    assert "reg_" not in again.text
    assert len(site.registry.tokens()) == count + 1
    token = site.registry.tokens()[0]
    assert (token.name, token.role, set(token.scopes)) == ("<i>ci</i>", "writer", {SUPPORT, f"{LLAMA}/legal"})
    assert secret[0] not in admin.get("/admin").text
    bearer = {"Authorization": f"Bearer {secret[0]}"}
    assert httpx.get(f"{site.address}/api/v1/whoami", headers=bearer).json()["token"] == token.id
    revoke = form_with(admin.get("/admin"), "Revoke", id=token.id)
    for _ in range(2):
        assert press(admin, revoke, "Revoke").status_code == 303
    assert httpx.get(f"{site.address}/api/v1/whoami", headers=bearer).status_code == 401
    assert press(admin, form_with(admin.get("/admin"), "Make it"), "Make it", name="x", role="owner").status_code == 422


def test_administration_is_for_admins(visitors: Visitors) -> None:
    for page in ("/admin", "/admin/tags", "/admin/storage"):
        answer = visitors["reader"].get(page)
        assert answer.status_code == 403
        assert "needs the role admin, and it has reader." in said(answer)
        assert 'href="/admin"' not in answer.text
    for action in ("tokens", "revoke", "tags", "collect", "check"):
        fields = {"name": "x", "role": "admin", "form": "f", "id": "tok_x", "base": LLAMA, "pattern": "x"}
        needed = {"tokens": ("name", "role", "form"), "revoke": ("id",), "tags": ("base", "pattern")}.get(action, ())
        answer = visitors["reader"].send(f"/admin/{action}", {name: fields[name] for name in needed})
        assert answer.status_code == 403, action


def protected(site: Site) -> list[str]:
    found = site.registry.do(table.PROTECTED_TAGS, ProtectedTagsRequest(base=LLAMA))
    return [one.pattern for one in found]


def test_tags_are_protected(site: Site, visitors: Visitors) -> None:
    admin = visitors["admin"]
    form = form_with(admin.get("/admin/tags"), "Protect", base=LLAMA)
    for _ in range(2):
        assert press(admin, form, "Protect", pattern="eval-*").status_code == 303
    assert protected(site) == ["eval-*", "prod", "release-*"]
    remove = form_with(admin.get("/admin/tags"), "Remove", base=LLAMA, pattern="eval-*")
    for _ in range(2):
        assert press(admin, remove, "Remove").status_code == 303
    assert protected(site) == ["prod", "release-*"]


def done(client: Visitor, page: str, label: str) -> httpx.Response:
    """The page of a job, once it has ended that a button begins."""
    answer = press(client, form_with(client.get(page), label), label)
    assert answer.status_code == 303, answer.text
    for _ in range(200):
        shown = client.get(answer.headers["location"])
        if "data-refresh" not in shown.text:
            return shown
        time.sleep(0.05)
    raise AssertionError("the job does not end")


def without_grace(collecting: Callable[..., Collected], *given: object, **options: object) -> Collected:
    return collecting(*given, **{**options, "grace": 0.0})


def test_collecting_is_listed_first(site: Site, visitors: Visitors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.services.upkeep.collect.collect", partial(without_grace, collect))
    admin = visitors["admin"]
    folder = site.registry.deployment.folder
    assert folder is not None
    name = "ab" * 32
    stray = folder / "blobs/sha256/ab" / f"{name}-{name[:8]}"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"x" * 1234)
    listing = done(admin, "/admin/storage", "List what would go")
    assert "1.23 kB in 1 blob would be collected" in said(listing)
    assert stray.exists()
    collected = done(admin, listing.url.path, "Collect 1.23 kB")
    assert "1.23 kB in 1 blob was collected" in said(collected)
    assert not stray.exists()
    assert "Nothing would be collected" in said(done(admin, "/admin/storage", "List what would go"))
    checked = done(admin, "/admin/storage", "Read every byte")
    assert "Everything is there" in said(checked)
    assert "all bytes were read" in said(checked)
    assert visitors["reader"].get(checked.url.path).status_code == 404
    assert "No job of yours" in said(visitors["reader"].get("/jobs"))
    jobs = said(admin.get("/jobs"))
    assert "gc everything done" in jobs
    assert "fsck everything done" in jobs
    assert "fsck" not in said(admin.get("/jobs?kind=gc")).partition("Asked for")[2]


def test_storage_says_where_the_bytes_are(site: Site, visitors: Visitors) -> None:
    usage = site.registry.du(LLAMA)
    text = said(visitors["admin"].get(f"/admin/storage?path={LLAMA}"))
    assert f"in {len(usage.revisions)} revisions" in text
    largest = max(usage.adapters, key=lambda one: one.own)
    assert f"Only its own {largest.name} {largest.revisions} " in text


def test_health_is_what_the_registry_tells(site: Site, visitors: Visitors) -> None:
    found = site.registry.health()
    text = said(visitors["admin"].get("/health"))
    assert f"{size(found.bytes)} stored" in text
    for week in found.growth:
        assert f"{week.week} {size(week.bytes)}" in text
    assert f"Database {found.migration}" in text
    [replica] = found.replicas
    assert f"{replica.host} answers {replica.version}" in text
    assert visitors["reader"].get("/health").status_code == 403
    assert visitors["scoped reader"].get("/health").status_code == 403
