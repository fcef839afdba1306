"""Every page that there is, as somebody sees it on the gallery: what is pictured, and what has to be readable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from registry.catalogue.database.team_tables import JobRecord
from tests.kit.gallery_hostile import ADAPTER
from tests.kit.gallery_story import EMPTY, HOSTILE, LLAMA, MIXTRAL
from tests.web.kit import Site


@dataclass(frozen=True)
class PageRow:
    """A page."""

    name: str  # of its pictures
    path: str
    route: str  # the route that answers
    who: str | None = "admin"
    status: int = 200


_TREE: Final = f"/tree/{LLAMA}"
_NODE: Final = "/tree/{reference:path}"
_EDIT: Final = "/edit/{reference:path}"
_FILES: Final = "/files/{reference:path}"
_TENSORS: Final = "/tensors/{reference:path}"
_USE: Final = "/use/{reference:path}"
_CARD: Final = "/card/{path:path}"
_RETRACT: Final = "/retract/{reference:path}"
_Q: Final = "model.layers.4.self_attn.q_proj"

PAGES: Final = (
    PageRow("sign-in", "/sign-in", "/sign-in", who=None),
    PageRow("home", "/", "/"),
    PageRow("home-scoped", "/", "/", who="scoped reader"),
    PageRow("tree", _TREE, _NODE),
    PageRow("tree-drawing", f"{_TREE}?view=drawing&size=rank&colour=metric:acc", _NODE),
    PageRow("tree-table", f"{_TREE}?view=table&at={LLAMA}/code/python&sort=max:acc", _NODE),
    PageRow(
        "tree-table-columns",
        f"{_TREE}?view=table&at={LLAMA}/code/python&columns=rank,acc,annotation:sweep,none&pinned=1&panel=1&sort=max:acc",
        _NODE,
    ),
    PageRow("tree-filtered", f"{_TREE}?metric=acc%3E0.8&behind=1", _NODE),
    PageRow("tree-plane", f"{_TREE}?view=plane", _NODE),
    PageRow("tree-behind", f"{_TREE}?behind=1&at={LLAMA}/support/french", _NODE),
    PageRow("tree-nothing", f"{_TREE}?text=nothing+has+this", _NODE),
    PageRow("tree-empty", f"/tree/{EMPTY}", _NODE),
    PageRow("tree-hostile", f"/tree/{HOSTILE}", _NODE),
    PageRow("tree-drawing-hostile", f"/tree/{HOSTILE}?view=drawing", _NODE),
    PageRow("tree-table-hostile", f"/tree/{HOSTILE}?view=table", _NODE),
    PageRow("adapter", f"{_TREE}/support/french", _NODE),
    PageRow("adapter-reader", f"{_TREE}/support/french", _NODE, who="reader"),
    PageRow("adapter-notices", f"{_TREE}/code/python/unlearn", _NODE),
    PageRow("adapter-unmeasured", f"{_TREE}/support@1", _NODE),
    PageRow("adapter-untagged", f"{_TREE}/support/french/quebec", _NODE),
    PageRow("adapter-experts", f"/tree/{MIXTRAL}/chat", _NODE),
    PageRow("adapter-hostile", f"/tree/{ADAPTER}@1", _NODE),
    PageRow("retracted", f"{_TREE}/medical/radiology/chest@1", _NODE),
    PageRow("retracted-hostile", f"/tree/{ADAPTER}@2", _NODE),
    PageRow("history", f"/history/{LLAMA}/support", "/history/{reference:path}"),
    PageRow("log", f"/log/{LLAMA}/support", "/log/{reference:path}"),
    PageRow("log-hostile", f"/log/{ADAPTER}", "/log/{reference:path}"),
    PageRow("card-changes", f"/card-changes/{LLAMA}/support", "/card-changes/{reference:path}"),
    PageRow("card-changes-hostile", f"/card-changes/{ADAPTER}", "/card-changes/{reference:path}"),
    PageRow("history-hostile", f"/history/{ADAPTER}", "/history/{reference:path}"),
    PageRow("search", f"/search?text=support&base={LLAMA}&sort=max:acc", "/search"),
    PageRow("search-all", "/search?tag=prod", "/search"),
    PageRow("search-scoped", "/search?tag=prod", "/search", who="scoped reader"),
    PageRow("search-hostile", f"/search?base={HOSTILE}&all=1", "/search"),
    PageRow("files", f"/files/{LLAMA}/support/french@3", _FILES),
    PageRow("files-merged", f"/files/{LLAMA}/support/french@3?kind=merged", _FILES),
    PageRow("files-refused", f"/files/{LLAMA}/support/billing/refunds?kind=lora", _FILES),
    PageRow("files-base", f"/files/{LLAMA}", _FILES),
    PageRow("files-hostile", f"/files/{ADAPTER}@1", _FILES),
    PageRow("tensors", f"/tensors/{LLAMA}/support/french@3?kind=merged", _TENSORS),
    PageRow("tensor", f"/tensors/{LLAMA}/support/french@3?kind=merged&tensor={_Q}.weight", _TENSORS),
    PageRow("tensors-hostile", f"/tensors/{ADAPTER}@1", _TENSORS),
    PageRow("tensors-merged-hostile", f"/tensors/{ADAPTER}@1?kind=merged", _TENSORS),
    PageRow("use", f"/use/{LLAMA}/support/french@prod", _USE),
    PageRow("use-refused", f"/use/{LLAMA}/medical/radiology/chest", _USE),
    PageRow("use-hostile", f"/use/{ADAPTER}@1", _USE),
    PageRow("edit-behind", f"/edit/{LLAMA}/support/french@3", _EDIT),
    PageRow("edit", f"/edit/{LLAMA}/support@5", _EDIT),
    PageRow("edit-writer", f"/edit/{LLAMA}/support@5", _EDIT, who="scoped writer"),
    PageRow("edit-hostile", f"/edit/{ADAPTER}@1", _EDIT),
    PageRow("card", f"/card/{LLAMA}/support/french", _CARD),
    PageRow("card-hostile", f"/card/{ADAPTER}", _CARD),
    PageRow("retract", f"/retract/{LLAMA}/support@4", _RETRACT),
    PageRow("retract-undo", f"/retract/{LLAMA}/medical/radiology@1", _RETRACT),
    PageRow("retract-hostile", f"/retract/{ADAPTER}@2", _RETRACT),
    PageRow("compare-form", "/compare", "/compare"),
    PageRow("compare", f"/compare?a={LLAMA}/support/french&b={LLAMA}/support/german", "/compare"),
    PageRow("compare-deltas", f"/compare?a={LLAMA}/support@4&b={LLAMA}/support@5&deltas=1", "/compare"),
    PageRow("compare-children", f"/compare?children={LLAMA}/code/python&sort=max:acc", "/compare"),
    PageRow("compare-many-hostile", f"/compare?ref={ADAPTER}@1&ref={ADAPTER}@2&ref={LLAMA}/support", "/compare"),
    PageRow("compare-hostile", f"/compare?a={ADAPTER}@1&b={ADAPTER}@2", "/compare"),
    PageRow("matrix", f"/matrix/{LLAMA}/code/python", "/matrix/{path:path}"),
    PageRow("tags", "/tags", "/tags"),
    PageRow("tags-below", f"/tags/{LLAMA}/support", "/tags/{path:path}"),
    PageRow("tags-writer", f"/tags/{LLAMA}/support", "/tags/{path:path}", who="scoped writer"),
    PageRow("tags-outdated", f"/tags/{LLAMA}?outdated=1&sort=newest", "/tags/{path:path}"),
    PageRow("tags-scoped", "/tags", "/tags", who="scoped reader"),
    PageRow("tags-hostile", f"/tags?path={HOSTILE}", "/tags"),
    PageRow("running", "/running", "/running"),
    PageRow("running-unserved", "/running?unserved=1", "/running"),
    PageRow("running-scoped", "/running", "/running", who="scoped reader"),
    PageRow("running-hostile", f"/running?ref={HOSTILE}", "/running"),
    PageRow("tags-nothing", "/tags?actor=nobody", "/tags"),
    PageRow("activity", "/activity", "/activity"),
    PageRow("activity-path", f"/activity?path={LLAMA}/support&kind=tag", "/activity"),
    PageRow("activity-scoped", "/activity", "/activity", who="scoped reader"),
    PageRow("activity-hostile", "/activity?actor=mallory", "/activity"),
    PageRow("jobs", "/jobs", "/jobs"),
    PageRow("jobs-reader", "/jobs", "/jobs", who="reader"),
    PageRow("job-running", "/jobs/{running}", "/jobs/{job_id}"),
    PageRow("job-failed", "/jobs/{failed}", "/jobs/{job_id}"),
    PageRow("sessions", "/sessions", "/sessions"),
    PageRow("health", "/health", "/health"),
    PageRow("admin", "/admin", "/admin"),
    PageRow("admin-tags", "/admin/tags", "/admin/tags"),
    PageRow("admin-storage", f"/admin/storage?path={LLAMA}", "/admin/storage"),
    PageRow("admin-storage-hostile", f"/admin/storage?path={HOSTILE}", "/admin/storage"),
    PageRow("admin-forbidden", "/admin", "/admin", who="reader", status=403),
    PageRow("activity-nothing", "/activity?actor=nobody", "/activity"),
    PageRow("job-missing", "/jobs/none", "/jobs/{job_id}", status=404),
    PageRow("forbidden", f"/edit/{LLAMA}/support@5", _EDIT, who="reader", status=403),
    PageRow("not-found", f"{_TREE}/suport", _NODE, status=404),
)
"""All pages; a page that is new needs a row. ``{running}`` and ``{failed}`` are jobs: see `page_path`."""

OTHERS: Final = {
    "/download/{kind}/{rest:path}": "the bytes of a file",
    "/commit/{view}/{commit}/{path:path}": "leads to the page of a revision",
    "/figures/{file}/{reference:path}": "a figure as a file",
    "/previews/{file}/{reference:path}": "a picture that a page shows",
    "/feed": "what happened, for programs",
    "/feed/{path:path}": "what happened at and below a path, for programs",
    "/static/{digest}/{name}": "the stylesheet, the module and the icon",
}
"""Routes that are read and are no pages."""


def page_path(site: Site, row: PageRow) -> str:
    """The address of a page at a site."""
    if "{" not in row.path:
        return row.path
    with site.registry.deployment.read_everything() as session:
        found = session.execute(select(JobRecord.state, JobRecord.id)).all()
    return row.path.format(**{str(state): str(job) for state, job in found})
