"""What commands print: results on stdout, talk on stderr, one JSON document, lines that fit."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry.schemas import (
    CopiedFrom,
    Event,
    FolderOutcome,
    Log,
    Schema,
    SearchResult,
    TensorMismatch,
    Tree,
    Verified,
)
from registry.schemas.artifacts import BesideFile
from registry.schemas.usage import BaseFigures
from tests.cli.canned import (
    ANSWERS,
    BASE,
    BLOCKED,
    COMMANDS,
    CREATED,
    DIFFERS,
    EVENTS,
    FRENCH,
    HEALTH,
    IDENTITY,
    LEGAL,
    OUTCOME,
    PREVIEW,
    PUBLISHED,
    REFUSED,
    RETRACTION,
    SHOWN,
    SHOWN_BASE,
    SKIPPED,
    SUPPORT,
    TAKEN_BACK,
    TREE,
    VERIFIED,
    WHEN,
    CannedRegistry,
    node,
)
from tests.cli.conftest import Run

ESCAPE = "\x1b"


def text_without_layout(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_one_document_that_reads_back_into_its_schema(name: str, canned: CannedRegistry, run: Run) -> None:
    args, method = COMMANDS[name]
    ended = run(*args, "--json")
    assert (ended.code, ended.err) == (0, "")
    document = json.loads(ended.out)
    expected = (PUBLISHED,) if name == "publish -r" else ANSWERS[method]
    if isinstance(expected, Schema):
        assert type(expected).model_validate_json(ended.out) == expected
    else:
        assert (
            tuple(
                type(item).model_validate_json(json.dumps(given))
                for item, given in zip(expected, document, strict=True)
            )
            == expected
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_lines_for_people_fit_80_columns_and_are_plain_in_a_pipe(
    name: str, canned: CannedRegistry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ended = run(*COMMANDS[name][0])
    assert ended.code == 0
    assert ended.out.strip()
    for line in (ended.out + ended.err).splitlines():
        assert len(line) <= 80
        assert line == line.rstrip()
        assert line.isprintable()
    assert not re.search("[│├└─┃━╭╮]", ended.out)


# Rows that are too wide for columns have no use for heads.
HEADS = {"REV", "PUBLISHED", "(UTC)", "RANK", "SIZE", "PARENT", "AUTHOR", "REMARKS"} | {
    *("NAME", "DIGEST", "PARAMETERS", "ARCHITECTURE", "TIME", "ACTION", "ACTOR", "SUBJECT"),
    *("REPLICA", "VERSION", "SEEN"),
    *("BEGUN", "KIND", "STATE", "ABOUT"),
    *("TAG", "NAMES", "SINCE", "NEWEST,", "BEFORE,", "BY,", "METRICS"),
    *("ID", "ROLE", "CREATED", "LAST", "USED", "NAME,", "SCOPES"),
}


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "publish -r"])
def test_every_width_says_the_same(
    name: str, columns: int, canned: CannedRegistry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlimited = run(*COMMANDS[name][0])
    monkeypatch.setenv("COLUMNS", str(columns))
    narrow = run(*COMMANDS[name][0])

    def words(text: str) -> list[str]:
        return sorted(word for word in text.split() if word not in HEADS)

    assert words(narrow.out) == words(unlimited.out)


def test_in_a_pipe_a_record_is_one_line(canned: CannedRegistry, run: Run) -> None:
    assert len(run("search").out.splitlines()) == 3
    assert len(run("resolve", "llama-1b/support/french").out.splitlines()) == 3
    assert len(run("tree").out.splitlines()) == 5


def test_publish_prints_the_reference_alone_first(canned: CannedRegistry, run: Run) -> None:
    ended = run("publish", "dir", "llama-1b/support/french")
    first, *rest = ended.out.splitlines()
    assert first == "llama-1b/support/french@2"
    said = text_without_layout("\n".join(rest))
    for part in (
        FRENCH.digest,
        "llama-1b/support@2 222222222222 proven (the receipt in ./output/merged says so)",
        "training_args.bin (a pickle)",
        "stored 6.29 MB",
        "registry /data/registry",
    ):
        assert part in said
    assert "unsloth/llama-bnb-4bit" in ended.err


def test_publishing_again_says_that_nothing_was_stored(canned: CannedRegistry, run: Run) -> None:
    canned.answers["publish"] = PUBLISHED.model_copy(update={"created": False, "bytes_stored": 0})
    assert "nothing, the adapter already has this revision" in run("publish", "dir", "llama-1b/support/french").out


def test_publish_passes_every_option_on(canned: CannedRegistry, run: Run) -> None:
    run(
        *(
            "publish",
            "dir",
            "llama-1b/x",
            "--parent",
            "llama-1b",
            "--skip-parent-check",
            "-m",
            "first",
            "--metric",
            "acc=0.5",
            "--metric",
            "f1=1e-2",
        ),
        *("--tag", "prod", "--tag", "best", "--annotation", "team=nlp=x", "--url", "/somewhere"),
    )
    opened, published = canned.calls
    assert opened == ("open", ("/somewhere",), {"create": False})
    options = dict(published[2])
    del options["progress"]
    assert published[:2] == ("publish", ("dir", "llama-1b/x"))
    assert options == {
        "parent": "llama-1b",
        "receipt": None,
        "skip_parent_check": True,
        "sampled": False,
        "find_parent": False,
        "look_in": (),
        "full": False,
        "rank": None,
        "max_error": None,
        "svd": "randomised",
        "message": "first",
        "metrics": {"acc": 0.5, "f1": 0.01},
        "tags": ("prod", "best"),
        "annotations": {"team": "nlp=x"},
        "strict": False,
        "trained_quantised": None,
        "component": None,
    }
    assert canned.closed


def test_publish_recursively_prints_one_reference_a_line(canned: CannedRegistry, run: Run) -> None:
    ended = run("publish", "-r", "dir", "llama-1b")
    assert ended.out == "llama-1b/support/french@2\n"
    assert "parent llama-1b/support@2, proven (the receipt" in text_without_layout(ended.err)
    assert "skipped: checkpoint-10: trainer checkpoint" in text_without_layout(ended.err)


def test_publish_keep_going_reports_every_folder(canned: CannedRegistry, run: Run) -> None:
    canned.answers["publish_folders"] = (OUTCOME, REFUSED, BLOCKED, SKIPPED)
    ended = run("publish", "-r", "dir", "llama-1b", "--keep-going", "--rename", "Old Runs=old")
    assert (ended.code, ended.out) == (9, "llama-1b/support/french@2\n")
    told = text_without_layout(ended.err)
    assert "refused: Old Runs (bad_name): Adapter name 'Old Runs' is not allowed" in told
    assert "not published because its parent was not: Old Runs/a" in told
    assert "4 folders: 1 published, 1 refused, 1 not published because its parent was not, 1 skipped." in told
    options = canned.calls[-1][2]
    assert (options["rename"], options["keep_going"], options["dry_run"]) == ({"Old Runs": "old"}, True, False)
    as_json = run("publish", "-r", "dir", "llama-1b", "--keep-going", "--json")
    lines = [FolderOutcome.model_validate_json(line) for line in as_json.out.splitlines()]
    assert (as_json.code, as_json.err, lines) == (9, "", [OUTCOME, REFUSED, BLOCKED, SKIPPED])
    canned.answers["publish_folders"] = (REFUSED, BLOCKED, SKIPPED)
    assert run("publish", "-r", "dir", "llama-1b", "--keep-going").code == 4
    canned.answers["publish_folders"] = (OUTCOME, SKIPPED)
    assert run("publish", "-r", "dir", "llama-1b", "--keep-going").code == 0


def test_publish_dry_run_prints_a_table_and_ends_as_publishing_would(canned: CannedRegistry, run: Run) -> None:
    planned = FolderOutcome(folder="support/french", path="llama-1b/support/french", state="planned", preview=PREVIEW)
    canned.answers["publish_folders"] = (planned, REFUSED, BLOCKED, SKIPPED)
    ended = run("publish", "-r", "dir", "llama-1b", "--dry-run")
    assert ended.code == 2  # bad_name is a UsageError
    table = text_without_layout(ended.out)
    assert "support/french llama-1b/support/french planned rank 8 6.29 MB" in table
    assert "Old Runs - refused bad_name Adapter name" in table
    assert "checkpoint-10 - skipped trainer checkpoint" in table
    assert run("publish", "-r", "dir", "llama-1b", "--dry-run", "--keep-going").code == 9
    one = run("publish", "dir", "llama-1b/support/french", "--dry-run", "-m", "new")
    assert one.out.splitlines()[0] == "llama-1b/support/french"
    assert "to store 6.29 MB in 1 file" in text_without_layout(one.out)
    assert "not checked whether all weights are finite" in text_without_layout(one.out)
    assert canned.calls[-1][2]["message"] == "new"


def test_publish_says_what_a_revision_that_is_there_did_not_take(canned: CannedRegistry, run: Run) -> None:
    there = {"created": False, "bytes_stored": 0, "applied": ("tag prod",), "not_applied": ("message",)}
    canned.answers["publish"] = PUBLISHED.model_copy(update=there)
    ended = run("publish", "dir", "llama-1b/support/french", "-m", "new")
    said = text_without_layout(ended.out + ended.err)
    assert "applied tag prod" in said
    assert "not applied message: the revision keeps its current one" in said
    assert "`registry annotate llama-1b/support/french@2 -m TEXT` changes its message." in said


def test_fetch_prints_the_folder_alone(canned: CannedRegistry, run: Run) -> None:
    ended = run(
        "fetch",
        "llama-1b/support/french",
        "-o",
        "out",
        "--as",
        "merged",
        "--since",
        "llama-1b",
        "--dtype",
        "fp16",
        "--base-dir",
        "/models/llama",
        "--force",
    )
    assert ended.out == "/data/out\n"
    assert "1 file, 6.29 MB, written" in ended.err
    assert "Rank 24" in ended.err
    name, args, options = canned.calls[-1]
    assert (name, args) == ("fetch", ("llama-1b/support/french", "out"))
    assert {key: value for key, value in options.items() if key != "progress"} == {
        "kind": "merged",
        "since": "llama-1b",
        "rank": None,
        "max_error": None,
        "uniform": False,
        "dtype": "fp16",
        "onto": None,
        "min_fidelity": None,
        "force": True,
        "base_dir": "/models/llama",
        "engine": None,
        "weights": None,
        "dense_as_diff": False,
        "max_lora_rank": None,
        "fidelity": "sample",
    }


def test_only_base_add_and_a_first_token_make_a_registry(canned: CannedRegistry, run: Run) -> None:
    for args, _ in COMMANDS.values():
        run(*args)
    made = [options["create"] for name, _, options in canned.calls if name == "open"]
    assert made == [name in {"base add", "token create"} for name in COMMANDS]


def test_url_and_json_may_stand_before_the_command(canned: CannedRegistry, run: Run) -> None:
    ended = run("--url", "/before", "--json", "tree")
    assert Tree.model_validate_json(ended.out) == TREE
    run("--url", "/before", "tree", "--url", "/after")
    run("--url", "/before", "base", "list")
    places = [args[0] for name, args, _ in canned.calls if name == "open"]
    assert places == ["/before", "/after", "/before"]


def test_tree_says_what_is_behind_and_why(canned: CannedRegistry, run: Run) -> None:
    lines = [text_without_layout(line).strip() for line in run("tree").out.splitlines()]
    assert lines[0] == "llama-1b LlamaForCausalLM 1.10 B parameters 2.20 GB"
    assert lines[2] == "support @3 [prod] [stable] rank 16 6.29 MB parent proven"
    assert lines[3] == "french @2 [prod] rank 8 6.29 MB parent proven behind: pinned to support@2, newest is @3"
    assert lines[4] == "legal @1 rank 8 6.29 MB parent proven behind: french@2 is behind"


def test_show_has_lineage_targets_files_and_shares(canned: CannedRegistry, run: Run) -> None:
    said = text_without_layout(run("show", "llama-1b/support/french").out)
    for part in (
        "behind pinned to llama-1b/support@2, newest is @3",
        "metrics acc=0.9",
        "data=tickets of April and May",
        "team=nlp",
        "2026-03-04 05:06 UTC by anna",
        "trained on ./output/merged",
        "parent llama-1b/support@2 proven (receipt)",
        "6.29 MB, 1.57 M parameters (0.29 % of the model)",
        "repo id llama-1b/support.french",
        "llama-1b aaaaaaaaaaaa base model llama-1b/support@2 222222222222 rank 16 newest is @3",
        "q_proj 22 modules rank 8 scaling 2 down_proj 1 module rank 4, 8 scaling 1.41421, 2",
        "6.29 MB eeeeeeeeeeee adapter_model.safetensors",
        "notice base_model_name_or_path names a quantised copy",
    ):
        assert part in said


def test_what_is_retracted_says_so_everywhere(canned: CannedRegistry, run: Run) -> None:
    below = LEGAL.model_copy(update={"retracted": RETRACTION})
    canned.answers |= {
        "log": Log(path=TAKEN_BACK.path, revisions=(TAKEN_BACK,)),
        "search": SearchResult(revisions=(below,)),
        "show": SHOWN.model_copy(update={"revision": below}),
        "tree": Tree(roots=(node(TAKEN_BACK, node(below)),)),
    }
    assert " retracted " in run("log", TAKEN_BACK.path).out
    assert " retracted " in run("search").out
    said = text_without_layout(run("show", below.reference).out)
    assert "retracted llama-1b/support/french@2: trained on test data (2026-03-04 05:06 UTC by boss)" in said
    first, second = run("tree").out.splitlines()
    assert " retracted " in first
    assert " french@2 is retracted " in second


def test_a_copy_names_its_original(canned: CannedRegistry, run: Run) -> None:
    original = CopiedFrom(registry="https://far", reference="llama/support@7", author="eve", created_at=WHEN)
    copy = SUPPORT.model_copy(update={"copied_from": original})
    canned.answers |= {
        "log": Log(path=copy.path, revisions=(copy,)),
        "show": SHOWN.model_copy(update={"revision": copy}),
    }
    words = "from llama/support@7 of https://far, published there by eve on 2026-03-04 05:06 UTC"
    for said in (run("log", copy.path).out, run("show", copy.reference).out):
        assert words in text_without_layout(said)


def test_the_secret_of_a_token_is_alone_on_stdout(canned: CannedRegistry, run: Run) -> None:
    ended = run(
        *("token", "create", "--role", "writer", "--scope", "llama-1b/support", "--scope", "llama-1b/legal"),
        *("--expires", "90d", "--name", "anna"),
    )
    assert ended.out == f"{CREATED.secret}\n"
    assert CREATED.secret not in ended.err
    assert "6f1c0a9e (anna): writer of llama-1b/support and llama-1b/legal, until 2026-06-02 05:06 UTC" in ended.err
    name, args, options = canned.calls[-1]
    assert (name, args) == ("create_token", ("writer",))
    assert options == {
        "name": "anna",
        "scopes": ("llama-1b/support", "llama-1b/legal"),
        "expires_in": 90 * 86400,
    }


def test_no_list_shows_what_a_token_is_worth_longer_than_it_is(canned: CannedRegistry, run: Run) -> None:
    head, first, plain, revoked = run("token", "list").out.splitlines()
    assert head.split() == ["ID", "ROLE", "CREATED", "(UTC)", "LAST", "USED", "NAME,", "SCOPES"]
    assert "expires 2026-06-02 05:06" in first
    assert plain.split() == ["1c3e5a7b", "admin", "2026-03-04", "05:06", "2026-03-04", "06:06", "everything"]
    assert "revoked 2026-03-04 05:06" in revoked
    assert "never" in revoked


def test_whoami_says_where_who_and_what(canned: CannedRegistry, run: Run) -> None:
    said = text_without_layout(run("whoami").out)
    assert said.startswith("https://registry.team name anna role writer scopes llama-1b/support llama-1b/legal token")
    assert "versions client 0.1.0, service 0.1.1" in said
    canned.answers["whoami"] = IDENTITY.model_copy(
        update={"url": "/data/registry", "scopes": (), "token": None, "expires_at": None, "service_version": None}
    )
    said = text_without_layout(run("whoami").out)
    assert "scopes everything version 0.1.0" in said


def test_events_say_from_where_and_with_which_token(canned: CannedRegistry, run: Run) -> None:
    first, second = run("events").out.splitlines()[1:]
    assert "anna llama-1b/support@3 from 10.0.0.7 token 6f1c0a9e bytes=12 tags=prod" in text_without_layout(first)
    assert "from" not in second


def test_jobs_say_how_far_they_are_and_why_they_failed(canned: CannedRegistry, run: Run) -> None:
    first, second = run("jobs", "--state", "failed", "--kind", "gc").out.splitlines()[1:]
    assert canned.calls[-1] == ("jobs", (), {"state": "failed", "kind": "gc", "limit": 100})
    assert "running llama-1b/support@3 by anna writing: 1.10 GB of 2.20 GB" in text_without_layout(first)
    assert "gc failed everything by anna The store does not answer." in text_without_layout(second)
    canned.answers["jobs"] = ()
    assert run("jobs").err == "No operations match.\n"


def test_health_says_what_is_known_and_what_is_not(canned: CannedRegistry, run: Run) -> None:
    said = text_without_layout(run("health").out)
    for part in (
        "registry-0:17 answers 0.1.1 2026-03-04 05:06 worker 1 cache 1.00 MB, 12 hits, 3 misses 2 connections in use",
        "1 body 1 operation AMD EPYC 7B13 numerics 0123456789abcdef",
        "registry-0:18 silent 0.1.0 2026-03-04 05:06 processor not known",
        "operations 2 pending since 2026-03-04 05:06, 1 running, 3 failed in a week",
        "notices 0 pending, 0 running, 0 failed in a week",
        "stored 12.0 GB, 2.00 GB of them since 2026-03-02",
        "last gc 2026-03-04 05:06 UTC by nightly last fsck not known",
        "schema 0016, this program has 0016",
    ):
        assert part in said
    damage = Event(at=WHEN, action="fsck", subject="registry", actor="ada", detail={"damaged": 1, "unreadable": 0})
    canned.answers["health"] = HEALTH.model_copy(update={"replicas": (), "last_fsck": damage})
    said = text_without_layout(run("health").out)
    assert said.startswith("replicas none is known")
    assert "last fsck 2026-03-04 05:06 UTC by ada, which found damage" in said


def test_figures_of_base_models(canned: CannedRegistry, run: Run) -> None:
    figures = BaseFigures(
        revisions=9,
        published=1_000_000,
        full_checkpoints=9_000_000_000,
        newest="llama-1b/support@3",
        last_published_at=WHEN,
    )
    canned.answers["bases"] = (BASE.model_copy(update={"figures": figures}),)
    said = text_without_layout(run("base", "list", "--figures").out)
    assert canned.calls[-1][2] == {"old_names": False, "figures": True}
    assert (
        "adapters 9 revisions of 1.00 MB, as full checkpoints 9.00 GB llama-1b/support@3 on 2026-03-04 05:06 UTC"
        in said
    )


def test_show_of_a_base_model(canned: CannedRegistry, run: Run) -> None:
    canned.answers["show"] = SHOWN_BASE
    said = text_without_layout(run("show", "llama-1b").out)
    assert "2.20 GB, 1.10 B parameters in 201 tensors" in said
    assert "from transformers 5.24.0" in said


def test_what_differs_is_listed_and_ends_with_6(canned: CannedRegistry, run: Run) -> None:
    canned.answers["verify"] = DIFFERS
    ended = run("verify", "dir")
    assert ended.code == 6
    assert "adapter_model.safetensors base_model.model.q_proj.lora_A.weight: other bytes" in text_without_layout(
        ended.out
    )
    assert "2 differences" in ended.err
    as_json = run("verify", "dir", "--json")
    assert as_json.code == 6
    assert type(DIFFERS).model_validate_json(as_json.out) == DIFFERS
    assert json.loads(as_json.err)["code"] == "verify_failed"


def test_files_of_something_else_end_with_6_and_what_to_do(canned: CannedRegistry, run: Run) -> None:
    trained = ("adapter_config.json", "adapter_model.safetensors")
    foreign = tuple(TensorMismatch(file=name, tensor=None, reason="read") for name in trained)
    beside = (*(BesideFile(path=name, loaded=True) for name in trained), BesideFile(path="runs/", loaded=False))
    found = VERIFIED.model_copy(update={"equal": False, "mismatches": foreign, "beside": beside})
    canned.answers["verify"] = found
    ended = run("verify", "dir", "--json")
    problem = json.loads(ended.err)
    assert (ended.code, problem["code"]) == (6, "foreign_files")
    assert Verified.model_validate_json(ended.out) == found
    said = (
        f"/data/out contains adapter_config.json and adapter_model.safetensors, which are not of {FRENCH.reference} as "
        "lora, and programs that load the folder read them, an adapter on top of the weights: move the adapter into a "
        "folder of its own."
    )
    assert problem["message"] == said
    assert "beside runs/ (not loaded with it)" in text_without_layout(run("verify", "dir").out)
    canned.answers["verify"] = found.model_copy(update={"mismatches": (*foreign, *DIFFERS.mismatches)})
    both = json.loads(run("verify", "dir", "--json").err)
    assert both["code"] == "verify_failed"
    assert both["message"].startswith(
        f"{said} It does not match {FRENCH.reference} as lora either: 2 differences; then "
    )


def test_closeness_says_why_bytes_were_not_compared(canned: CannedRegistry, run: Run) -> None:
    why = "made with the arithmetic a, and the registry's is b"
    canned.answers["verify"] = VERIFIED.model_copy(update={"exact": False, "not_exact": why})
    assert f"2 files, within the rounding bound ({why})" in text_without_layout(run("verify", "dir").out)


def test_nothing_found_is_no_error(canned: CannedRegistry, run: Run) -> None:
    canned.answers |= {"search": SearchResult(revisions=()), "tree": Tree(roots=()), "bases": ()}
    for args in (["search", "x"], ["tree"], ["base", "list"]):
        ended = run(*args)
        assert (ended.code, ended.out) == (0, "")
        assert ended.err


HOSTILE = "\x1b[31mred\x07 [bold]not markup[/bold] \u202eback\n\x1b]0;title"


@pytest.mark.parametrize("name", ["log", "search", "show", "tree", "publish", "events"])
def test_text_of_strangers_cannot_reach_the_terminal(name: str, canned: CannedRegistry, run: Run) -> None:
    canned.answers = _with_text(HOSTILE)
    ended = run(*COMMANDS[name][0])
    for char in (ESCAPE, "\x07", "\u202e"):
        assert char not in ended.out + ended.err
    if name in {"log", "search", "show"}:
        assert "[bold]not markup[/bold]" in ended.out


def _with_text(text: str) -> dict[str, Any]:
    hostile = FRENCH.model_copy(
        update={
            "message": text,
            "author": text,
            "annotations": {text: text},
            "metrics": {text: 1.0},
            "trained_on": text,
            "notices": (text,),
            "copied_from": CopiedFrom(registry=text, reference="a/b@1", author=text, created_at=WHEN),
        }
    )
    answers: dict[str, Any] = dict(ANSWERS)
    answers["log"] = answers["log"].model_copy(update={"revisions": (hostile,)})
    answers["search"] = SearchResult(revisions=(hostile,))
    answers["show"] = answers["show"].model_copy(update={"revision": hostile})
    answers["publish"] = PUBLISHED.model_copy(update={"revision": hostile, "parent_reason": text, "registry": text})
    answers["events"] = tuple(
        event.model_copy(update={"actor": text, "subject": text, "detail": {text: text}}) for event in EVENTS
    )
    return answers


def test_the_demo_needs_its_packages_before_it_makes_anything(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("registry.demo.main.find_spec", lambda name: None)
    ended = run("demo", "--json")
    assert ended.code == 1
    assert json.loads(ended.err)["code"] == "missing_package"
    assert "pip install 'adapter-registry[demo]'" in ended.err
    assert not list(tmp_path.iterdir())


def test_what_the_demo_tells_is_printed_by_kind(
    canned: CannedRegistry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Check:
        links: int

    @dataclass(frozen=True)
    class Outcome:
        revisions = (FRENCH,)
        trained = (FRENCH.path,)
        check = Check(3)
        commands = ("registry tree",)

    def told(registry: Any, report: Any, *, base: Path) -> Outcome:
        report.heading("What the registry holds")
        report.tree(registry.tree())
        report.lineage(registry.resolve("x"))
        report.say("Comparing.")
        report.steps.begin("Training", 2)
        report.steps.advance(1)
        report.lines(["registry tree --url /data/registry"])
        return Outcome()

    monkeypatch.setattr("registry.demo.main.bundled_base_model", lambda: Path("base"))
    monkeypatch.setattr("registry.demo.main.run", told)
    ended = run("demo", "--url", "/data/registry")
    assert (ended.code, ended.err) == (0, "")
    assert "What the registry holds" in ended.out
    assert "support  @3" in ended.out
    assert FRENCH.digest in ended.out
    assert ended.out.endswith("Comparing.\nregistry tree --url /data/registry\n")
    as_json = run("demo", "--json")
    assert as_json.err == ""
    document = json.loads(as_json.out)
    assert document["revisions"] == [FRENCH.model_dump(mode="json")]
    assert document["check"] == {"links": 3}
    assert [call[1:] for call in canned.calls if call[0] == "open"] == [
        (("/data/registry",), {"create": True}),
        (("demo-registry",), {"create": True}),
    ]


def test_annotate_passes_message_and_names_to_unset_on(canned: CannedRegistry, run: Run) -> None:
    assert run("annotate", "llama-1b/x", "-m", "", "--unset", "acc", "--unset", "team", "--metric", "f1=1").code == 0
    options = {"metrics": {"f1": 1.0}, "annotations": {}, "message": "", "unset": ("acc", "team")}
    assert canned.calls[-1] == ("annotate", ("llama-1b/x",), options)
