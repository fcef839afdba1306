"""What answers are in Python and in notebooks: a line that says something, tables that are safe, data frames."""

from __future__ import annotations

import base64
import inspect
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any, Final, get_origin, get_type_hints
from xml.etree import ElementTree

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.api.openapi import EXAMPLES
from registry.errors import UnavailableError
from registry.figures import moment
from registry.operations.registry import Registry
from registry.schemas import (
    BaseSummary,
    Deleted,
    Event,
    Log,
    Retraction,
    RevisionSummary,
    SearchResult,
    Shown,
    Tagged,
    Token,
    TokenCreated,
    Tree,
    TreeNode,
)
from registry.schemas.artifacts import Materialisation, Materialisations
from registry.schemas.difference import Difference
from registry.schemas.jobs import Jobs, JobSummary
from registry.schemas.statistics import Statistics
from registry.schemas.tags import Notice
from registry.schemas.team import Events
from registry.schemas.tree import Bases, of_diffusers
from registry.schemas.usage import BaseFigures, Taken, Usage

NOW: Final = datetime.now(UTC)
TIME: Final = NOW - timedelta(days=3, minutes=1)
DIGEST: Final = "sha256:" + "0123456789abcdef" * 4


def revision(number: int = 3, path: str = "llama/support", **given: Any) -> RevisionSummary:
    fields: dict[str, Any] = {
        "reference": f"{path}@{number}", "path": path, "number": number, "digest": DIGEST, "parent": "llama",
        "behind": False, "rank": 8, "parameters": 448, "size": 33_566_592, "message": "tickets", "author": "ann",
        "created_at": TIME, "tags": (), "metrics": {}, "annotations": {},
        "trained_on": None, "notices": (),
    }  # fmt: skip
    return RevisionSummary(**(fields | given))


RETRACTION: Final = Retraction(reference="llama/support@3", reason="leak", actor="ann", at=NOW)
LOG: Final = Log(
    path="llama/support",
    revisions=(
        revision(3, tags=("prod", "v1"), metrics={"acc": 0.88, "rank": 1.0}),
        revision(2, behind=True, retracted=RETRACTION, annotations={"data": "2025"}),
    ),
)
TREE: Final = Tree(
    roots=(
        TreeNode(
            path="llama",
            name="llama",
            revision=None,
            children=(
                TreeNode(
                    path="llama/support",
                    name="support",
                    revision=LOG.revisions[0],
                    children=(
                        TreeNode(
                            path="llama/support/french",
                            name="french",
                            revision=revision(1, "llama/support/french"),
                            children=(),
                        ),
                    ),
                ),
            ),
        ),
    )
)


class Cells(HTMLParser):
    """The texts of a table's cells, by row, of its caption, and every tag and attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag in {"tr", "caption"}:
            self.rows.append([])
        if tag in {"td", "th", "caption"}:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1][-1] += data


def test_a_line_each() -> None:
    first, second = LOG.revisions
    assert repr(first) == "<RevisionSummary llama/support@3 [prod, v1], rank 8, acc=0.88, rank=1, on llama>"
    assert repr(second) == "<RevisionSummary llama/support@2, rank 8, behind, retracted, on llama>"
    assert repr(LOG) == "<Log of llama/support: 2 revisions, newest @3>"
    assert repr(Log(path="llama/none", revisions=())) == "<Log of llama/none: 0 revisions>"
    assert repr(TREE) == "<Tree: 1 base model, 2 adapters>"
    assert repr(Tree(roots=TREE.roots[0].children)) == "<Tree: 2 adapters>"  # of a path
    assert repr(SearchResult(revisions=(first,) * 5)) == (
        "<SearchResult: 5 revisions, llama/support@3, llama/support@3, llama/support@3, ...>"
    )


def test_trees_and_lists_as_text() -> None:
    assert str(TREE).splitlines() == [
        "llama",
        "  support@3 [prod, v1], rank 8, acc=0.88, rank=1",
        "    french@1, rank 8",
    ]
    assert str(LOG).splitlines() == [
        "llama/support@3 [prod, v1], rank 8, acc=0.88, rank=1",
        "llama/support@2, rank 8, behind, retracted",
    ]


def test_other_answers_show_what_says_something() -> None:
    assert repr(Tagged(path="llama/a", tag="prod", reference="llama/a@2", previous=None)) == (
        "Tagged(path='llama/a', tag='prod', reference='llama/a@2')"
    )
    assert repr(Deleted(reference="llama/a@2", digest=DIGEST, tags=("llama/a@prod",))) == (
        "Deleted(reference='llama/a@2', digest='sha256:0123456789ab...', tags=('llama/a@prod',))"
    )
    event = Event(at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC), action="tag", subject="x" * 500, actor="ann", detail={})
    assert repr(event) == f"Event(at='2026-01-02 03:04 UTC', action='tag', subject='{'x' * 60}...', actor='ann')"
    assert str(event) == repr(event)


def test_a_secret_is_never_shown() -> None:
    token = Token(
        id="tok_1", name="ann", role="writer", scopes=(), created_at=NOW, created_by="me", expires_at=None,
        revoked_at=None, last_used_at=None,
    )  # fmt: skip
    created = TokenCreated(token=token, secret="art_hushhush")
    assert "hush" not in repr(created) + str(created)
    assert created.model_dump()["secret"] == "art_hushhush"


def test_a_tree_in_a_notebook_says_what_a_terminal_does() -> None:
    about = "rank 8, 33.6 MB, parent assumed"
    assert Cells(TREE._repr_html_()).rows == [
        ["path", "newest", "metrics", "published (UTC)"],
        ["llama", "", "", ""],
        ["llama/support", f"@3, [prod], [v1], {about}", "acc=0.88, rank=1", moment(TIME)],
        ["llama/support/french", f"@1, {about}", "", moment(TIME)],
    ]


@pytest.mark.parametrize("answer", [LOG, SearchResult(revisions=LOG.revisions)])
def test_revisions_in_a_notebook_have_a_column_for_each_metric(answer: Log | SearchResult) -> None:
    about, remarks = (moment(TIME), "8", "33.6 MB", "llama", "ann"), ("known", "tags", "state", "message")
    assert Cells(answer._repr_html_()).rows == [
        ["revision", "published (UTC)", "rank", "size", "parent", "author", "acc", "rank", *remarks],
        ["llama/support@3", *about, "0.88", "1", "parent assumed", "[prod], [v1]", "", "tickets"],
        ["llama/support@2", *about, "-", "-", "parent assumed", "", "behind, retracted", "tickets"],
    ]


def shown(**given: Any) -> Shown:
    targets = [{"name": "q_proj", "modules": 32, "ranks": [16], "scalings": [2.0]}]
    return Shown.model_validate(EXAMPLES["Shown"] | {"revision": revision(**given).model_dump(), "targets": targets})


def difference(message: str = "two") -> Difference:
    one, two = revision(1, metrics={"acc": 0.8}), revision(2, message=message)
    return Difference.model_validate(
        EXAMPLES["Difference"]
        | {
            "a": one.model_dump(),
            "b": two.model_dump(),
            "identical": False,
            "about": [{"name": "message", "a": "tickets", "b": message}, {"name": "size", "a": 1000, "b": 2_000_000}],
            "config": [{"name": "alpha", "a": 8, "in_b": False}],
            "metrics": [{"name": "acc", "a": 0.8, "b": None, "difference": None}],
            "files": [{"path": "README.md", "a": None, "b": {"path": "README.md", "size": 12, "digest": DIGEST}}],
            "lineage": {"common": None, "a": [], "b": [], "pinned": []},
            "deltas": None,
        }
        | {"bases": [], "targets": [], "annotations": []}
    )


def test_a_revision_and_what_differs_in_a_notebook() -> None:
    html = shown(tags=("prod",), metrics={"acc": 0.88}, behind=True)._repr_html_()
    rows = {name: rest for name, *rest in Cells(html).rows}
    assert html.startswith("<table><caption>llama/support@3</caption>")
    assert rows["behind"] == ["an ancestor is newer"]
    assert [rows[name] for name in ("tags", "metrics", "message")] == [["[prod]"], ["acc=0.88"], ["tickets"]]
    assert rows["q_proj"] == ["32 modules", "rank 16, scaling 2"]
    assert "retracted" not in rows
    base = Shown.model_validate(EXAMPLES["Shown"] | {"revision": None})
    assert base._repr_html_().startswith(f"<table><caption>{base.base.name}</caption>")
    assert Cells(difference()._repr_html_()).rows == [
        ["llama/support@1 -> llama/support@2"],
        ["~", "message", "tickets -> two"],
        ["~", "size", "1.00 kB -> 2.00 MB"],
        ["Configuration"],
        ["-", "alpha", "8"],
        ["Metrics"],
        ["-", "acc", "0.8"],
        ["Files"],
        ["+", "README.md", "12 B 0123456789ab"],
    ]
    same = difference().model_copy(update={"identical": True})
    assert Cells(same._repr_html_()).rows[1:] == [["nothing differs"]]


def test_bases_events_and_what_is_stored_are_frames_too() -> None:
    base = BaseSummary.model_validate(EXAMPLES["BaseSummary"] | {"figures": None})
    figures = BaseFigures(revisions=3, published=10, full_checkpoints=20, newest=None, last_published_at=None)
    frame = Bases((base, base.model_copy(update={"figures": figures}))).to_pandas()
    assert list(frame["name"]) == [base.name] * 2
    assert list(frame["figures.revisions"].fillna(-1)) == [-1, 3]
    detail: dict[str, object] = {"tag": "prod"}
    events = Events((Event(at=NOW, action="tag", subject="llama/support@3", actor="ada", detail=detail),))
    assert events.to_pandas()["detail.tag"][0] == "prod"
    assert Cells(events._repr_html_()).rows[1][1:] == ["tag", "llama/support@3", "ada", "tag=prod"]
    one, two = (Taken(name=f"net/a@{number}", revisions=1, size=9, own=number) for number in (1, 2))
    both = Taken(name="net/a", revisions=2, size=12, own=12)
    used = Usage(path=None, adapters=(both,), revisions=(one, two), size=12, full_checkpoints=30, materialisations=0,
                 collectable=0)  # fmt: skip
    assert list(used.to_pandas()["size"]) == [12]
    assert list(used.to_pandas(revisions=True)["own"]) == [1, 2]
    assert list(TREE.to_pandas()["reference"]) == ["llama/support@3", "llama/support/french@1"]
    assert list(TREE.to_pandas().columns) == list(SearchResult(revisions=(LOG.revisions[0],)).to_pandas().columns)
    assert difference().to_pandas().to_dict("records")[1:4] == [
        {"section": "about", "name": "size", "a": 1000, "b": 2_000_000},
        {"section": "config", "name": "alpha", "a": 8, "b": None},
        {"section": "metrics", "name": "acc", "a": 0.8, "b": None},
    ]


@pytest.mark.parametrize("empty", [Bases(), Events()])
def test_what_is_empty_has_its_columns(empty: Bases | Events) -> None:
    assert len(empty) == 0
    assert len(empty.to_pandas().columns) >= 6
    assert len(Cells(empty._repr_html_()).rows) == 1


def test_completion_names_fields_and_what_users_call() -> None:
    names = [name for name in dir(LOG) if not name.startswith("_")]
    assert names == ["deleted", "model_dump", "model_dump_json", "path", "revisions", "to_pandas"]


def test_notices_are_one_thing_in_python_and_two_fields_of_json() -> None:
    seen = Notice(code="duplicate", text="The same.")
    whole = shown(notices=("Its bias is used.",)).model_copy(update={"noticed": (seen,)})
    assert list(map(str, whole.notices)) == ["Its bias is used.", "The same. (duplicate)"]
    document = json.loads(whole.model_dump_json())
    assert [one["code"] for one in document["notices"]] == ["duplicate"]
    assert document["revision"]["notices"] == ["Its bias is used."]
    assert Shown.model_validate(document) == whole
    assert "notices" not in json.loads(shown().model_dump_json())


@settings(deadline=None)
@given(st.text(max_size=40))
def test_what_people_wrote_is_text_wherever_a_notebook_shows_it(text: str) -> None:
    said = f"<script>{text}"
    event = Event(at=NOW, action="tag", subject=said, actor=said, detail={said: said})
    for answer in (shown(message=said, annotations={said: said}), difference(said), Events((event,))):
        assert Cells(answer._repr_html_()).tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}


@settings(deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_what_people_wrote_is_text_in_a_notebook(message: str, author: str) -> None:
    html = Log(path="a", revisions=(revision(message=message, author=f"<script>{author}"),))._repr_html_()
    cells = Cells(html)
    assert cells.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert cells.attributes == []
    assert cells.rows[1][5].startswith("<script>")


def test_a_large_tree_is_cut_in_a_notebook() -> None:
    children = tuple(
        TreeNode(path=f"llama/a{number}", name=f"a{number}", revision=revision(1, f"llama/a{number}"), children=())
        for number in range(520)
    )
    html = Tree(roots=(TreeNode(path="llama", name="llama", revision=None, children=children),))._repr_html_()
    assert html.count("<tr>") == 501
    assert html.endswith("<p>and 21 more nodes</p>")


@pytest.mark.parametrize("answer", [LOG, SearchResult(revisions=LOG.revisions)])
def test_a_data_frame_has_a_row_for_each_revision(answer: Log | SearchResult) -> None:
    frame = answer.to_pandas()
    assert list(frame["reference"]) == ["llama/support@3", "llama/support@2"]
    assert list(frame["rank"]) == [8, 8]
    assert list(frame["metric.rank"].fillna(-1)) == [1.0, -1.0]  # a metric of that name, which is no column of its own
    assert list(frame.columns[-3:]) == ["metric.acc", "metric.rank", "annotation.data"]
    assert list(frame["retracted"]) == [False, True]
    assert frame["tags"][0] == ("prod", "v1")
    assert str(frame["created_at"].dt.tz) == "UTC"
    assert (frame["created_at"] == pandas.Timestamp(LOG.revisions[0].created_at)).all()
    assert frame["metric.acc"].idxmax() == 0


def test_an_empty_data_frame_has_its_columns() -> None:
    frame = SearchResult(revisions=()).to_pandas()
    assert len(frame) == 0
    assert list(frame.columns) == list(LOG.to_pandas().columns)[:-3]


def test_without_pandas_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # an import of it now fails
    with pytest.raises(UnavailableError, match="pip install pandas") as refused:
        LOG.to_pandas()
    assert refused.value.code == "missing_package"


def test_the_schemas_load_none_of_what_shows_them() -> None:
    script = "import sys, registry.schemas; print({'pandas', 'rich', 'IPython', 'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@settings(deadline=None)
@given(name=st.text(alphabet="ab<>&\"'/", min_size=1, max_size=12))
def test_a_heat_map_in_a_notebook_is_an_image_of_its_own(name: str) -> None:
    document = EXAMPLES["Statistics"] | {"reference": name}
    found = Statistics.model_validate(document)
    html = found._repr_html_()
    image = re.search(r'</table><p><img alt="([^"<>]*)" src="data:image/svg\+xml;base64,([^"]*)"></p>$', html)
    assert image is not None
    alt, data = image.groups()
    drawing = ElementTree.fromstring(base64.b64decode(data))
    assert drawing.tag.endswith("svg")
    assert f"{name}: change by layer" in "".join(drawing.itertext())
    assert "Frobenius norm" in alt
    empty = found.model_copy(update={"path": found.path.model_copy(update={"modules": ()})})
    assert "<img" not in empty._repr_html_()


@pytest.mark.parametrize(
    ("source", "architecture", "expected"),
    [
        ("diffusers (shipped)", "FluxTransformer2DModel", True),
        ("transformers 5.24.0, diffusers 0.42.1", "StableDiffusionXLPipeline", True),
        ("names of a single file", "FluxPipeline", True),
        ("tensor names", "SanaTransformer2DModel", True),
        ("tensor names", "UNet2DConditionModel", True),
        ("transformers 5.24.0", "LlamaForCausalLM", False),
        ("tensor names", "MyModel", False),
        ("tensor names", None, False),
    ],
)
def test_a_base_of_diffusers_is_known_also_by_the_name_of_its_class(
    source: str, architecture: str | None, expected: bool
) -> None:
    assert of_diffusers(source, architecture) is expected


def test_every_list_is_a_table_and_a_data_frame() -> None:
    """What Python gives of a listing of the table of operations is one, whoever adds the next."""
    plain = {
        name
        for name, method in inspect.getmembers(Registry, inspect.isfunction)
        if not name.startswith("_") and get_origin(get_type_hints(method).get("return")) is tuple
    }
    # answers of single requests, and what became of each folder
    assert plain == {"drop_materialisation", "factors", "protect_tag", "where"} | {
        "apply_import", "copy_all", "publish_folders", "publish_tree",
    }  # fmt: skip


def test_jobs_and_what_is_materialised_as_tables() -> None:
    job = JobSummary(
        id="0123456789abcdef", kind="gc", state="failed", subject=None, actor="<b>ann</b>", token=None, stage="",
        done=0, total=0, created_at=TIME, updated_at=NOW, code="unavailable", detail="The store is away.",
    )  # fmt: skip
    cells = Cells(Jobs((job,))._repr_html_())
    assert cells.rows[1] == [
        "0123456789ab", moment(TIME), "gc", "failed", "everything", "<b>ann</b>", "", "The store is away.",
    ]  # fmt: skip
    assert "b" not in cells.tags
    frame = Jobs((job,)).to_pandas()
    assert frame.loc[0, "id"] == job.id
    assert (frame["updated_at"] - frame["created_at"])[0] == NOW - TIME
    kept = Materialisation(
        id="ab12", reference="llama/support@3", digest=DIGEST, kind="merged", rendering=DIGEST, numerics=None,
        size=2_000_000, files=3, created_at=TIME, created_by="ann", expires_at=NOW,
    )  # fmt: skip
    assert Cells(Materialisations((kept,))._repr_html_()).rows[1] == [
        "ab12", "2.00 MB", moment(NOW), "llama/support@3", "merged",
    ]  # fmt: skip
    frame = Materialisations((kept,)).to_pandas()
    assert list(frame["size"]) == [2_000_000]
    assert set(frame.columns) == set(Materialisation.model_fields) - {"fidelity"}
