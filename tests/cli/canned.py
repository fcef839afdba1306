"""Canned answers, and a registry that gives them: to see how rare answers look, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from registry.schemas import (
    BaseAdded,
    BaseSummary,
    Event,
    Fetched,
    FileEntry,
    FolderOutcome,
    Identity,
    LeftOut,
    LineageEntry,
    Log,
    Materialisation,
    OutputFile,
    Published,
    PublishPreview,
    Resolved,
    Retraction,
    RevisionSummary,
    Schema,
    SearchResult,
    Shown,
    Tagged,
    TargetGroup,
    TensorMismatch,
    Token,
    TokenCreated,
    Tree,
    TreeNode,
    Verified,
)
from registry.schemas.difference import (
    Difference,
    FileDifference,
    LineageDifference,
    MetricDifference,
    TargetDifference,
    ValueDifference,
)
from registry.schemas.jobs import Health, JobCounts, JobSummary, Replica, ReplicaFigures, StoredWeek
from registry.schemas.tags import ChildAdapter, Children, TagHistory, TagMove, TagState
from registry.schemas.usage import Use

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def digest_of(letter: str) -> str:
    return "sha256:" + (letter * 64)


def revision_of(path: str, number: int, parent: str, **changes: Any) -> RevisionSummary:
    fields: dict[str, Any] = {
        "reference": f"{path}@{number}",
        "path": path,
        "number": number,
        "digest": digest_of(f"{number:x}"),
        "parent": parent,
        "behind": False,
        "rank": 8,
        "parameters": 1_572_864,
        "size": 6_291_456,
        "message": "",
        "author": "anna",
        "created_at": WHEN,
        "tags": (),
        "metrics": {},
        "annotations": {},
        "trained_on": None,
        "notices": (),
        "parent_known_by": "receipt",
    }
    return RevisionSummary.model_validate(fields | changes)


BASE = BaseSummary(
    name="llama-1b",
    digest=digest_of("a"),
    table_digest=digest_of("b"),
    architecture="LlamaForCausalLM",
    table_source="transformers 5.24.0",
    parameters=1_100_048_384,
    tensors=201,
    size=2_200_119_864,
    files=(FileEntry(path="config.json", size=608, digest=digest_of("c")),),
    adapters=4,
    created_at=WHEN,
    notices=(),
)
SUPPORT = revision_of(
    "llama-1b/support",
    3,
    "llama-1b",
    rank=16,
    tags=("prod", "stable"),
    metrics={"acc": 0.8125, "f1": 0.79},
    message="Trained on the tickets of April, cleaned by hand, and on the answers that the second line gave to them."
    "\nMore.",
)
FRENCH = revision_of(
    "llama-1b/support/french",
    2,
    "llama-1b/support@2",
    behind=True,
    tags=("prod",),
    annotations={
        "team": "nlp",
        "data": "tickets of April and May, without those of the pilot customers, see the data sheet",
    },
    trained_on="./output/merged",
    notices=("base_model_name_or_path names a quantised copy, unsloth/llama-bnb-4bit.",),
    metrics={"acc": 0.9},
    message="French tickets",
)
RETRACTION = Retraction(reference="llama-1b/support/french@2", reason="trained on test data", actor="boss", at=WHEN)
TAKEN_BACK = FRENCH.model_copy(update={"retracted": RETRACTION})
LEGAL = revision_of("llama-1b/support/french/legal", 1, "llama-1b/support/french@2", behind=True)
LONG = revision_of(
    "llama-1b/a-name-that-is-as-long-as-names-can-be-and-then-a-little-more-0123",
    12,
    "llama-1b",
    tags=("a-very-long-tag-with-many-words-in-it", "and-another-one", "third"),
)


def node(revision: RevisionSummary, *children: TreeNode) -> TreeNode:
    return TreeNode(path=revision.path, name=revision.path.rpartition("/")[2], revision=revision, children=children)


TREE = Tree(
    roots=(
        TreeNode(
            path=BASE.name,
            name=BASE.name,
            revision=None,
            children=(node(LONG), node(SUPPORT, node(FRENCH, node(LEGAL)))),
        ),
    )
)
LINEAGE = (
    LineageEntry(reference="llama-1b", digest=digest_of("a"), number=None, rank=None, newest=None),
    LineageEntry(reference="llama-1b/support@2", digest=digest_of("2"), number=2, rank=16, newest=3),
    LineageEntry(reference="llama-1b/support/french@2", digest=digest_of("2"), number=2, rank=8, newest=2),
)
SHOWN = Shown(
    revision=FRENCH,
    base=BASE,
    lineage=LINEAGE,
    targets=(
        TargetGroup(name="q_proj", modules=22, ranks=(8,), scalings=(2.0,)),
        TargetGroup(name="down_proj", modules=1, ranks=(4, 8), scalings=(1.4142135623, 2.0)),
    ),
    files=(
        FileEntry(path="adapter_config.json", size=712, digest=digest_of("d")),
        FileEntry(path="adapter_model.safetensors", size=6_291_456, digest=digest_of("e")),
    ),
    share_of_model=0.00286,
    repo_id="llama-1b/support.french",
    children=Children(
        total=21,
        adapters=(
            ChildAdapter(path=f"{FRENCH.path}/legal", revisions=2, newest=f"{FRENCH.path}/legal@3"),
            ChildAdapter(path=f"{FRENCH.path}/tone", revisions=1, newest=f"{FRENCH.path}/tone@1"),
        ),
    ),
    tag_history=(
        TagHistory(
            tag="prod",
            points_at=FRENCH.reference,
            moves=(
                TagMove(at=WHEN, actor="anna", old=f"{FRENCH.path}@1", new=FRENCH.reference),
                TagMove(at=WHEN, actor="ben \x1b[31m", old=None, new=f"{FRENCH.path}@1"),
            ),
        ),
        TagHistory(
            tag="stage",
            points_at=None,
            moves=(TagMove(at=WHEN, actor="anna", old=FRENCH.reference, new=None),),
        ),
        TagHistory(tag="old", points_at=FRENCH.reference, moves=()),
    ),
    materialisations=(
        Materialisation(
            id="mat_0123456789ab",
            reference=FRENCH.reference,
            digest=FRENCH.digest,
            kind="merged",
            rendering=digest_of("f"),
            numerics="0123456789abcdef",
            size=2_200_000_000,
            files=9,
            created_at=WHEN,
            created_by="anna",
            expires_at=WHEN,
        ),
    ),
    use=Use(last_used_at=WHEN, uses=12, by_interface={"fetch": 4, "hub": 7, "vllm": 1}, tokens=2),
)
SHOWN_BASE = Shown(
    revision=None,
    base=BASE,
    lineage=LINEAGE[:1],
    targets=(),
    files=BASE.files,
    share_of_model=0.0,
    repo_id="llama-1b/_",
)
RESOLVED = Resolved(
    reference=FRENCH.reference, digest=FRENCH.digest, base=BASE.name, base_digest=BASE.digest, lineage=LINEAGE
)
PUBLISHED = Published(
    revision=FRENCH,
    created=True,
    parent_digest=digest_of("2"),
    parent_reason="the receipt in ./output/merged says so",
    left_out=(LeftOut(path="training_args.bin", reason="a pickle"),),
    bytes_stored=6_292_168,
    registry="/data/registry",
)
PREVIEW = PublishPreview(
    path=FRENCH.path,
    reference=None,
    digest=FRENCH.digest,
    parent=FRENCH.parent,
    parent_digest=digest_of("2"),
    parent_reason="the receipt in ./output/merged says so",
    rank=8,
    parameters=1_572_864,
    size=6_292_168,
    files=SHOWN.files,
    left_out=PUBLISHED.left_out,
    missing=(digest_of("e"),),
    bytes_missing=6_291_456,
    notices=FRENCH.notices,
    unchecked=("whether all weights are finite: torch is not installed here",),
    source=None,
    registry="/data/registry",
)
OUTCOME = FolderOutcome(folder="support/french", path=FRENCH.path, state="published", published=PUBLISHED)
REFUSED = FolderOutcome(
    folder="Old Runs",
    path=None,
    state="refused",
    code="bad_name",
    kind="UsageError",
    message="Adapter name 'Old Runs' is not allowed. Give it another one: --rename 'Old Runs=old-runs'.",
)
BLOCKED = FolderOutcome(
    folder="Old Runs/a", path=None, state="blocked", message="its parent, the folder Old Runs, is not published"
)
SKIPPED = FolderOutcome(folder="checkpoint-10", path=None, state="skipped", message="trainer checkpoint")
FETCHED = Fetched(
    reference=FRENCH.reference,
    kind="lora",
    folder="/data/out",
    rendering=digest_of("f"),
    fresh=True,
    files=(OutputFile(path="adapter_model.safetensors", size=6_291_456, blake3="0" * 64),),
    notices=("Rank 24 is above what some engines take.",),
)
VERIFIED = Verified(
    folder="/data/out", reference=FRENCH.reference, kind="lora", equal=True, exact=True, files=2, mismatches=()
)
DIFFERS = VERIFIED.model_copy(
    update={
        "equal": False,
        "mismatches": (
            TensorMismatch(
                file="adapter_model.safetensors", tensor="base_model.model.q_proj.lora_A.weight", reason="other bytes"
            ),
            TensorMismatch(file="README.md", tensor=None, reason="is missing"),
        ),
    }
)
TAGS = (
    TagState(
        path="llama-1b/support",
        tag="prod",
        reference="llama-1b/support@2",
        newest="llama-1b/support@3",
        retracted=False,
        at=datetime(2026, 11, 25, 10, 12, tzinfo=UTC),
        actor="ada",
        previous="llama-1b/support@1",
        metrics={"acc": 0.87, "bleu": 31.5, "f1": 0.8, "loss": 0.4, "wer": 0.1},
        previous_metrics={"acc": 0.81},
        changes={"acc": 0.06},
    ),
    TagState(
        path="llama-1b/support/french",
        tag="release-2026-11",
        reference="llama-1b/support/french@1",
        newest="llama-1b/support/french@1",
        retracted=True,
        at=None,
        actor=None,
        previous=None,
        metrics={},
        previous_metrics={},
        changes={},
    ),
)
EVENTS = (
    Event(
        at=WHEN,
        action="publish",
        subject="llama-1b/support@3",
        actor="anna",
        detail={"bytes": 12, "tags": ["prod"]},
        token="6f1c0a9e",
        source="10.0.0.7",
    ),
    Event(at=WHEN, action="base add", subject="llama-1b", actor="anna", detail={}),
)
RUNNING = JobSummary(
    id="0f5c2e9a7d1b40c8a3c2d4e5f6a7b8c9",
    kind="materialise",
    state="running",
    subject="llama-1b/support@3",
    actor="anna",
    token="6f1c0a9e",
    stage="writing",
    done=1_100_000_000,
    total=2_200_000_000,
    created_at=WHEN,
    updated_at=WHEN,
    code=None,
    detail=None,
)
FAILED = RUNNING.model_copy(
    update={
        "id": "1a2b3c4d5e6f40c8a3c2d4e5f6a7b8c9",
        "kind": "gc",
        "state": "failed",
        "subject": None,
        "code": "unavailable",
        "detail": "The store does not answer.",
    }
)
REPLICA = Replica(
    id="5f2c9a7d1e400b6f",
    host="registry-0",
    process=17,
    worker=1,
    version="0.1.1",
    processor="AMD EPYC 7B13",
    numerics="0123456789abcdef",
    started_at=WHEN,
    seen_at=WHEN,
    answers=True,
    figures=ReplicaFigures(cache_hits=12, cache_misses=3, cache_bytes=1_000_000, pool_in_use=2, bodies=1, jobs=1),
)
SILENT = REPLICA.model_copy(
    update={
        "process": 18,
        "worker": None,
        "version": "0.1.0",
        "answers": False,
        "processor": None,
        "numerics": None,
        "figures": ReplicaFigures(),
    }
)
HEALTH = Health(
    version="0.1.1",
    migration="0016",
    newest_migration="0016",
    replicas=(REPLICA, SILENT),
    jobs=JobCounts(pending=2, running=1, failed=3, oldest_pending_at=WHEN),
    notices=JobCounts(pending=0, running=0, failed=0, oldest_pending_at=None),
    bytes=12_000_000_000,
    growth=(StoredWeek(week=date(2026, 2, 23), bytes=1_000), StoredWeek(week=date(2026, 3, 2), bytes=2_000_000_000)),
    last_gc=Event(at=WHEN, action="gc", subject="registry", actor="nightly", detail={"blobs": 2}),
    last_fsck=None,
)
TOKEN = Token(
    id="6f1c0a9e",
    name="anna",
    role="writer",
    scopes=("llama-1b/support", "llama-1b/legal"),
    created_at=WHEN,
    created_by="boss",
    expires_at=WHEN + timedelta(days=90),
    revoked_at=None,
    last_used_at=WHEN + timedelta(hours=1),
)
REVOKED = TOKEN.model_copy(update={"id": "0b2d4f68", "scopes": (), "revoked_at": WHEN, "last_used_at": None})
PLAIN = TOKEN.model_copy(update={"id": "1c3e5a7b", "name": "", "role": "admin", "scopes": (), "expires_at": None})
TOKENS = (TOKEN, PLAIN, REVOKED)
CREATED = TokenCreated(token=TOKEN, secret="reg_6f1c0a9e_9dKx4VtR0mJb7QyW2uLs8ZpE")
IDENTITY = Identity(
    url="https://registry.team",
    name="anna",
    role="writer",
    scopes=("llama-1b/support", "llama-1b/legal"),
    token="6f1c0a9e",
    expires_at=WHEN + timedelta(days=90),
    version="0.1.0",
    service_version="0.1.1",
)


@dataclass
class CannedRegistry:
    """Gives the answers above, whatever is asked; or raises ``error``. Keeps what it was called with."""

    url: str = "/data/registry"
    error: BaseException | None = None
    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...], Mapping[str, Any]]] = field(default_factory=list)
    closed: bool = False

    def close(self) -> None:
        self.closed = True

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in ANSWERS:
            raise AttributeError(name)

        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, args, options))
            if self.error is not None:
                raise self.error
            answer = self.answers.get(name, ANSWERS[name])
            if name == "publish_folders":
                for item in answer:
                    options["told"](item)
            return answer

        return call


DIFFERENCE = Difference(
    a=SUPPORT.model_copy(update={"reference": "llama-1b/support@2", "number": 2}),
    b=SUPPORT,
    identical=False,
    bases=(),
    about=(
        ValueDifference(name="message", a="Trained on the tickets of March, as they came in, all of them", b=""),
        ValueDifference(name="tags", a=["stable"], b=["prod"]),
        ValueDifference(name="size", a=6_291_456, b=12_582_912),
    ),
    config=(
        ValueDifference(name="target_modules", a=["q_proj", "v_proj"], b=["v_proj", "q_proj"]),
        ValueDifference(name="rank_pattern.down_proj", b=4, in_a=False),
        ValueDifference(name="use_rslora", a=None, in_b=False),
    ),
    targets=(TargetDifference(name="q_proj", a=SHOWN.targets[0], b=SHOWN.targets[1]),),
    metrics=(
        MetricDifference(name="acc", a=0.8, b=0.8125, difference=0.0125),
        MetricDifference(name="f1", a=None, b=0.79, difference=None),
    ),
    annotations=(ValueDifference(name="data", a="tickets", in_b=False),),
    files=(FileDifference(path="README.md", a=None, b=FileEntry(path="README.md", size=9, digest=digest_of("f"))),),
    lineage=LineageDifference(
        common=LINEAGE[0],
        a=(LINEAGE[1],),
        b=(LINEAGE[2],),
        pinned=(ValueDifference(name="llama-1b/support", a="llama-1b/support@2", b="llama-1b/support@3"),),
    ),
)
ANSWERS: dict[str, Schema | tuple[Schema, ...]] = {
    "add_base": BaseAdded(
        base=BASE, created=True, bytes_stored=2_200_119_864, stored_by="copy", left_out=(), registry="/data/registry"
    ),
    "bases": (BASE,),
    "publish": PUBLISHED,
    "preview": PREVIEW,
    "publish_folders": (OUTCOME, SKIPPED),
    "tree": TREE,
    "log": Log(path="llama-1b/support", revisions=(SUPPORT, SUPPORT.model_copy(update={"number": 2}))),
    "show": SHOWN,
    "diff": DIFFERENCE,
    "resolve": RESOLVED,
    "search": SearchResult(revisions=(LONG, SUPPORT, FRENCH)),
    "tag": Tagged(path="llama-1b/support", tag="prod", reference="llama-1b/support@3", previous="llama-1b/support@2"),
    "untag": Tagged(path="llama-1b/support", tag="prod", reference=None, previous="llama-1b/support@3"),
    "annotate": SUPPORT,
    "fetch": FETCHED,
    "verify": VERIFIED,
    "events": EVENTS,
    "tags": TAGS,
    "jobs": (RUNNING, FAILED),
    "health": HEALTH,
    "whoami": IDENTITY,
    "create_token": CREATED,
    "tokens": TOKENS,
    "revoke_token": REVOKED,
}

# One command line for each command that asks the registry something, and the method that answers it.
COMMANDS: dict[str, tuple[list[str], str]] = {
    "base add": (["base", "add", "llama-1b", "dir"], "add_base"),
    "base list": (["base", "list"], "bases"),
    "publish": (["publish", "dir", "llama-1b/support/french"], "publish"),
    "publish --dry-run": (["publish", "dir", "llama-1b/support/french", "--dry-run"], "preview"),
    "publish -r": (["publish", "-r", "dir", "llama-1b"], "publish_folders"),
    "tree": (["tree"], "tree"),
    "log": (["log", "llama-1b/support"], "log"),
    "show": (["show", "llama-1b/support/french"], "show"),
    "diff": (["diff", "llama-1b/support@2", "llama-1b/support"], "diff"),
    "resolve": (["resolve", "llama-1b/support/french"], "resolve"),
    "search": (["search", "tickets"], "search"),
    "tag": (["tag", "llama-1b/support@3", "prod"], "tag"),
    "untag": (["untag", "llama-1b/support", "prod"], "untag"),
    "annotate": (["annotate", "llama-1b/support", "--metric", "acc=0.8"], "annotate"),
    "fetch": (["fetch", "llama-1b/support/french"], "fetch"),
    "verify": (["verify", "dir"], "verify"),
    "events": (["events"], "events"),
    "tags": (["tags"], "tags"),
    "jobs": (["jobs"], "jobs"),
    "health": (["health"], "health"),
    "whoami": (["whoami"], "whoami"),
    "token create": (["token", "create", "--role", "writer", "--scope", "llama-1b/support"], "create_token"),
    "token list": (["token", "list"], "tokens"),
    "token revoke": (["token", "revoke", "0b2d4f68"], "revoke_token"),
}
