"""What others rely on is what it was before the table of operations: bytes, names of bytes, answers, codes, routes.

``digests.json`` and ``faces.json`` were made with the commit 8efe8eb, the last one before it. They are made again by
``python -m tests.unchanged.write``, with that commit by copying this folder into a checkout of it. A change that is
meant (an upgrade of a format, another notice) is made again with the program that has it; the review then sees in the
difference of the two files what it changed, and that nothing else did. The sentences of refusals are not compared,
since they may be worded better: of a problem its code, status and fields are, of a screen its exit code and stdout.
``--show NAME`` prints what a digest is one of.

The bytes are those of any machine: see `tests.unchanged.exact`. What depends on the machine's arithmetic, or on the
version of transformers, is compared where that is the recorded one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Final

import pytest

from registry.app import service_app
from registry.services.local import LocalRegistry
from tests.kit.library import running
from tests.unchanged.digests import AUTHOR, Digests, digests
from tests.unchanged.faces import Faces, faces
from tests.unchanged.planting import plant
from tests.unchanged.write import DIGESTS, FACES

ADDED: Final[dict[str, tuple[str, ...]]] = {
    "commands": (
        "registry publish: --resume",
        "registry publish: --sampled",
        "registry publish: --trained-quantised",
        "registry publish [OPTIONS] DIR [PATH]",
        "registry card ",
        "registry untag: --if ",
        "registry tags ",
        "registry tags: ",
        "registry card: ",
        "registry health ",
        "registry health: ",
        "registry jobs ",
        "registry jobs: ",
        "registry du ",
        "registry du: ",
        "registry search: --sort ",
        "registry search: --stat ",
        "registry search: --all-revisions",
        "registry search: --limit ",
        "registry search: --path ",
        "registry search: --depth ",
        "registry search: --author ",
        "registry search: --parent-known-by ",
        "registry: --install-completion",
        "registry: --show-completion",
        "registry search: --all",
        "registry base list: --all",
        "registry tree: --all",
        "registry copy: --all",
        "registry rename ",
        "registry rename: ",
        "registry base rename ",
        "registry base rename: ",
        "registry base also-known-as ",
        "registry base also-known-as: ",
        "registry retract: --dry-run",
        "registry delete: --dry-run",
        "registry base delete: --dry-run",
        "registry diff ",
        "registry diff: ",
        "registry stats ",
        "registry stats: ",
        "registry check ",
        "registry check: ",
        "registry identify ",
        "registry identify: ",
        "registry import ",
        "registry import: ",
        "registry export ",
        "registry export: ",
        "registry publish: --find-parent",
        "registry publish: --look-in ",
        "registry publish: --full",
        "registry publish: --rank ",
        "registry publish: --max-error ",
        "registry publish: --svd ",
        "registry combine ",
        "registry combine: ",
        "registry rebase ",
        "registry rebase: ",
        "registry tree: --behind",
        "registry fetch: --for ",
        "registry fetch: --max-lora-rank ",
        "registry fetch: --fidelity ",
        "registry fetch: --onto ",
        "registry fetch: --min-fidelity ",
        "registry materialise: --fidelity ",
        "registry log: --all",
        "registry log: --limit ",
        "registry events: --after ",
        "registry events: --actor ",
        "registry events: --kind ",
        "registry events: --follow",
        "registry tag: --if ",
        "registry tag: --undo",
        "registry tree: --depth ",
        "registry tree: --limit ",
        "registry tree: --after ",
        "registry serve: --workers ",
        "registry publish: --strict ",
        "registry base list: --figures",
        "registry base measure ",
        "registry base measure: ",
        "registry retention ",
        "registry retention: ",
    ),
    "database": (
        "CREATE TABLE adapters: renamed_to ",
        "CREATE TABLE base_models: renamed_to ",
        "CREATE TABLE base_norms: ",
        "CREATE TABLE base_repo_ids: ",
        "CREATE TABLE loads: ",
        "CREATE INDEX ix_base_repo_ids_base_id ",
        "CREATE TABLE fingerprints: ",
        "CREATE TABLE retention_rules: ",
        "CREATE TABLE revision_sources: ",
        "CREATE INDEX ix_loads_hour ",
        "CREATE INDEX ix_revision_sources_source_id ",
        "CREATE TABLE revisions: combined ",
        "CREATE TABLE cards: ",
        "CREATE TABLE pushed_files: ",
        "CREATE INDEX ix_pushed_files_",
        "CREATE TABLE uses: ",
        "CREATE INDEX ix_uses_day ",
        "CREATE INDEX ix_events_",
        "CREATE INDEX ix_adapters_in_order ",
        "CREATE INDEX ix_adapters_children ",
        "CREATE INDEX ix_adapters_new_names ",
        "CREATE INDEX ix_revisions_children ",
        "CREATE INDEX ix_metrics_name_value_revision_id ",
        "CREATE INDEX ix_revision_targets_name_revision_id ",
        "CREATE INDEX ix_revisions_rank_id ",
        "CREATE INDEX ix_tags_name_revision_id ",
        "CREATE TABLE 'adapter_texts_",
        "CREATE TABLE 'revision_texts_",
        "CREATE TRIGGER adapter_texts_",
        "CREATE TRIGGER revision_texts_",
        "CREATE VIRTUAL TABLE adapter_texts ",
        "CREATE VIRTUAL TABLE revision_texts ",
        "CREATE INDEX ix_adapters_old_names ",
        "CREATE INDEX ix_commits_",
        "CREATE TABLE adapters: live_revisions ",
        "CREATE TABLE base_models: live_adapters ",
        "CREATE TABLE commits: ",
        "CREATE TRIGGER revisions_",
        "CREATE TABLE engine_answers: ",
        "CREATE TABLE statistics: ",
        "CREATE TABLE replicas: ",
        "CREATE INDEX ix_blobs_created_at_size ",
        "CREATE INDEX ix_revisions_sizes ",
        "CREATE TABLE sessions: ",
        "CREATE INDEX ix_sessions_",
        "CREATE INDEX ix_operations_asked_for ",
        "CREATE INDEX ix_operations_kind_",
        "CREATE TABLE operations: subject ",
        "CREATE TABLE materialised_fidelity: ",
        "CREATE TABLE sketches: ",
        "CREATE TABLE notices: ",
        "CREATE INDEX ix_notices_",
        "CREATE TABLE statistic_values: ",
        "CREATE INDEX ix_statistic_values_name_value_revision_id ",
    ),
    "errors": (
        "not_representable",
        "undeclared_orientation",
        "changed_since",
        "card_changed",
        "not_newest",
        "client_only",
        "model_changed",
        "unsupported_model",
        "not_combinable",
        "not_rebasable",
        "bad_exact",
        "no_change",
        "incomplete_model",
        "grown_vocabulary",
        "other_version: HTTP ",
        "renamed",
        "tag_moved",
        "zero_delta",
        "one_direction",
        "duplicate",
        "larger_than_base",
        "like_sibling",
        "undoes_parent",
        "low_fidelity",
        "repo_taken",
        "names_inside",
        "foreign_files",
        "cross_site",
        "bad_archive",
    ),
    "python": tuple(
        f"{where}.{name}(" for where in ("local", "remote") for name in ("copy_all", "rename", "rename_base")
    ),
    "routes": (
        "GET /api/v1/artifacts takes onto ",
        "GET /api/v1/artifacts/{rendering}/{path} takes onto ",
        "HEAD /api/v1/artifacts/{rendering}/{path} takes onto ",
        "GET /api/v1/artifacts takes min_fidelity ",
        "GET /api/v1/artifacts/{rendering}/{path} takes min_fidelity ",
        "HEAD /api/v1/artifacts/{rendering}/{path} takes min_fidelity ",
        "GET /api/v1/cards ",
        "PUT /api/v1/cards ",
        "GET /api/v1/cards/export ",
        "GET /api/v1/usage ",
        "GET /api/v1/operations ",
        "GET /api/v1/health ",
        "GET /api/v1/bases takes figures ",
        "GET /api/v1/search takes sort ",
        "GET /api/v1/search takes path ",
        "GET /api/v1/search takes depth ",
        "GET /api/v1/search takes author ",
        "GET /api/v1/search takes parent_known_by ",
        "GET /api/v1/search takes stat ",
        "DELETE /api/v1/tags takes expected ",
        "GET /api/v1/search takes all_revisions ",
        "GET /api/v1/search takes old_names ",
        "GET /api/v1/tree takes old_names ",
        "GET /api/v1/tree takes depth ",
        "GET /api/v1/tree takes limit ",
        "GET /api/v1/tree takes after ",
        "GET /api/v1/subtree takes after ",
        "GET /api/v1/subtree takes limit ",
        "GET /api/v1/bases takes old_names ",
        "POST /api/v1/combinations ",
        "GET /api/v1/combinations ",
        "POST /api/v1/rebases ",
        "POST /api/v1/parents ",
        "POST /api/v1/renames ",
        "POST /api/v1/bases/rename ",
        "PUT /api/v1/bases/also-known-as ",
        "POST /api/v1/bases/measure ",
        "POST /api/v1/statistics/dense ",
        "DELETE /api/v1/revisions takes dry_run ",
        "GET /api/v1/events takes path ",
        "GET /api/v1/events takes after ",
        "GET /api/v1/events takes actor ",
        "GET /api/v1/events takes kind ",
        "GET /api/v1/diff ",
        "GET /api/v1/diff/children ",
        "GET /api/v1/statistics ",
        "GET /api/v1/checks ",
        "GET /api/v1/log/deleted ",
        "POST /api/v1/tags/undo ",
        "GET /api/v1/tags ",
        "GET /api/v1/retention ",
        "PUT /api/v1/retention ",
        "DELETE /api/v1/retention ",
        "POST /api/v1/retention/run ",
    ),
    "settings": (
        "REGISTRY_WORKERS: ",
        "REGISTRY_PUBLIC_URL: ",
        "REGISTRY_PUBLISH_",
        "REGISTRY_UPSTREAM: ",
        "REGISTRY_OUTGOING_NETWORKS: ",
    ),
    "schemas": (
        "BaseRequest.small",
        "Fitting.weights",
        "FolderCompared.near",
        "FolderCompared.order",
        "FolderCompared.proof",
        "FolderCompared.retracted",
        "FolderCompared.searched",
        "FolderCompared.covered",
        "FolderCompared.equal",
        "FolderCompared.others",
        "FolderCompared.recorded",
        "FolderCompared.rule",
        "FolderCompared.times",
        "FolderCompared.whole",
        "NarrowRequest.",
        "NearPath.",
        "WeightedLink",
        "PathsLeft.",
        "PublishRequest.cached",
        "PublishRequest.find_parent",
        "PublishRequest.extracted",
        "Published.extracted",
        "Shown.extracted",
        "ExtractedModule.",
        "Extraction.",
        "Card.",
        "Collected.unlisted_",
        "CardState.",
        "SetCardRequest.",
        "Shown.card",
        "BaseFigures.",
        "BaseSummary.figures",
        "Health.",
        "JobCounts.",
        "JobSummary.",
        "Replica.",
        "ReplicaFigures.",
        "StoredWeek.",
        "Page_JobSummary_.",
        "Taken.",
        "Usage.",
        "ArtifactPlan.renamed_to",
        "BaseSummary.renamed_to",
        "BaseSummary.also_known_as",
        "AlsoKnownAs.",
        "AlsoKnownAsRequest.",
        "BaseMeasured.",
        "MeasureBaseRequest.",
        "DenseMatrix.",
        "DenseStatistics.",
        "DenseStatisticsRequest.",
        "MagnitudeRatios.",
        "OperationResult.dense",
        "OperationResult.measured",
        "ProtectedTagLeft.",
        "RenameBaseRequest.",
        "RenameRequest.",
        "Renamed.",
        "Rebased.",
        "RebasedValue.",
        "RebaseRequest.",
        "Resolved.renamed_to",
        "RevisionSummary.renamed_to",
        "ChildAdapter.",
        "Children.",
        "TagHistory.",
        "TagMove.",
        "TagState.",
        "Page_TagState_.",
        "Use.",
        "RevisionUse.",
        "Shown.children:",
        "Shown.tag_history:",
        "Shown.materialisations:",
        "Shown.use:",
        "Deleted.done:",
        "Deleted.use:",
        "DeletedTree.use",
        "RetractRequest.dry_run:",
        "Retracted.done:",
        "Retracted.use",
        "DeletedRevision.",
        "DeltaStatistics.",
        "EngineAnswer.",
        "EngineCheck.",
        "Shown.engines:",
        "EstimatedFigure.",
        "Fidelity.",
        "LinkFidelity.",
        "Materialisation.fidelity",
        "MaterialiseRequest.fidelity",
        "ModelFidelity.",
        "PathFidelity.",
        "Receipt.fidelity",
        "TensorFidelity.",
        "UnmeasuredTensor.",
        "EngineReason.",
        "ExportCard.",
        "GivenReceipt.own",
        "GivenReceipt.covered",
        "GivenReceipt.given",
        "GivenReceipt.times",
        "Receipt.exported",
        "ExpertStatistics.",
        "GroupStatistics.",
        "LinkStatistics.",
        "ModuleStatistics.",
        "OtherChange.",
        "Looked.",
        "Notice.",
        "OperationResult.looked",
        "PublishRequest.strict",
        "Published.notices",
        "Shown.notices",
        "Statistics.",
        "ChildDelta.",
        "ComparedDelta.",
        "DeltaMatrix.",
        "Deltas.",
        "Difference.",
        "ExpertDifference.",
        "GroupDifference.",
        "ModuleDifference.",
        "OtherDifference.",
        "FileDifference.",
        "LineageDifference.",
        "MetricDifference.",
        "TargetDifference.",
        "ValueDifference.",
        "Page_DeletedRevision_.",
        "CombineRequest.",
        "Combined.",
        "CombinedOf.",
        "CombinedSource.",
        "SourceWeight.",
        "SourceClaim.",
        "Truncated.",
        "Replayed.",
        "ReplayedCombination.",
        "LineageEntry.combined",
        "LinkEntry.sources",
        "OperationResult.combined",
        "OperationResult.retained",
        "KeptFor.",
        "Retention.",
        "RetentionRule.",
        "RunRetentionRequest.",
        "SetRetentionRequest.",
        "PublishRequest.sources",
        "PublishRequest.truncated",
        "PublishRequest.trained_quantised",
        "FourBits.",
        "ReceiptPlan.onto",
        "Shown.trained_quantised",
        "RevisionSummary.sources",
        "LineageEntry.retracted",
        "Published.tagged",
        "RevisionSummary.statistics",
        "TagRequest.expected",
        "UndoTagRequest.",
        "Tree.next",
        "TreeNode.more",
    ),
    "metrics": ("registry_damage", "registry_last_success_timestamp_seconds"),
}
"""How the lines begin that came since, by section. Nothing that was there may be missing or another."""

_DTYPES: Final = "'bf16' | 'fp16' | 'fp32' | null", "'bf16' | 'fp16' | 'fp32' | 'keep' | 'fp8' | null"
_ONE_FILE: Final = "/api/v1/artifacts/{rendering}/{path} takes dtype (query, optional): "

WIDENED: Final[dict[str, dict[str, str]]] = {
    "commands": {
        "registry fetch: --dtype <bf16|fp16|fp32>": "registry fetch: --dtype <bf16|fp16|fp32|keep|fp8>",
        "registry tag [OPTIONS] REF TAG": "registry tag [OPTIONS] REF [TAG]",  # without it they are listed
    },
    "routes": {
        begin + _DTYPES[0]: begin + _DTYPES[1]
        for begin in (
            "GET /api/v1/artifacts takes dtype (query, optional): ",
            f"GET {_ONE_FILE}",
            f"HEAD {_ONE_FILE}",
        )
    },
    "schemas": {  # a client meets the kinds and dtypes that it asks for
        "Operation.kind: 'publish' | 'base' | 'materialise' | 'gc' | 'fsck' | 'retable', required": (
            "Operation.kind: 'publish' | 'base' | 'materialise' | 'gc' | 'fsck' | 'retable' | 'measure' | 'dense' | "
            "'notice' | 'combine' | 'retention', "
            "required"
        ),
        f"DerivedFrom.dtype: {_DTYPES[0]}": f"DerivedFrom.dtype: {_DTYPES[1]}",
        f"ReceiptPlan.dtype: {_DTYPES[0]}, required": f"ReceiptPlan.dtype: {_DTYPES[1]}, required",
    },
}
"""Lines that name more values than they did, by section: what each was, and is."""

MEANING: Final = re.compile(r"^([a-z_]+): (?!exit |HTTP ).*")

Made = tuple[Digests, Faces]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("unchanged").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGISTRY_AUTHOR", AUTHOR)
        plant(root / "registry", root)
        with (
            closing(LocalRegistry.open(root / "registry")) as opened,
            running(service_app(opened, anonymous="open")) as url,
        ):
            found = faces(root / "registry", url)
            return digests(root / "registry", url, root)[0], found


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DIGESTS.read_text(encoding="utf-8"))
    return found


def wordless(section: str, lines: list[str]) -> set[str]:
    """The lines, those of error codes without their meanings: these are sentences, which may be worded better."""
    return {MEANING.sub(r"\1", line) if section == "errors" else line for line in lines}


def differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def test_what_is_handed_out_is_what_it_was(made: Made, recorded: dict[str, Any]) -> None:
    assert differing(recorded["anywhere"], made[0].anywhere) == []


def test_names_of_computed_bytes_are_what_they_were(made: Made, recorded: dict[str, Any]) -> None:
    assert sorted(recorded["arithmetic"]) == sorted(made[0].arithmetic)
    if recorded["numerics"] != made[0].numerics:
        pytest.skip(f"the arithmetic here is {made[0].numerics}, the names are those of {recorded['numerics']}")
    assert differing(recorded["arithmetic"], made[0].arithmetic) == []


def test_names_below_a_base_that_transformers_knows_are_what_they_were(made: Made, recorded: dict[str, Any]) -> None:
    assert sorted(recorded["table"]) == sorted(made[0].table)
    if recorded["transformers"] != made[0].transformers:
        pytest.skip(f"the table here is made by {made[0].transformers}, the names are of {recorded['transformers']}")
    assert differing(recorded["table"], made[0].table) == []


@pytest.mark.parametrize("section", json.loads(FACES.read_text(encoding="utf-8")))
def test_every_name_that_others_rely_on_is_there(made: Made, section: str) -> None:
    widened = WIDENED.get(section, {})
    lines = [widened.get(line, line) for line in json.loads(FACES.read_text(encoding="utf-8"))[section]]
    before = wordless(section, lines)
    now = wordless(section, made[1][section])
    assert sorted(before - now) == []
    added = ADDED.get(section, ())
    assert sorted(line for line in now - before if not line.startswith(added)) == []
    assert [begin for begin in added if not any(line.startswith(begin) for line in now - before)] == []


def test_no_section_is_left_out(made: Made) -> None:
    assert set(made[1]) == set(json.loads(FACES.read_text(encoding="utf-8"))) >= set(ADDED)
