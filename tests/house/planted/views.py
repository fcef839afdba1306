"""The views, the memory of a service, and what is kept in the store."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

COMMITS: Final = "test_commits.py"
DIGITS: Final = "test_commit_digits.py"
KEPT: Final = "services:test_materialising.py"

VIEWS: Final = (
    Mutant(
        "prepared-without-rights",
        "statement",
        "filtered(query.make(rights), rights, ignore_rights=query.ignore_rights)",
        "filtered(query.make(rights), rights, ignore_rights=True)",
        "test_resolution.py",
    ),
    Mutant(
        "newest-of-a-hidden-adapter",
        "resolution:_lineage",
        "newest_number(Adapter.id)",
        "newest_number(_OF_LINK.id)",
        "test_resolution.py",
    ),
    Mutant("commit-of-any-revision", "RepoNames.meaning", "self._document(revision)", "self._document(None)", COMMITS),
    Mutant("digits-of-any-table", "_hashed", "_BASES.c.table_digest", "_BASES.c.digest", "test_commit_digits.py"),
    Mutant(
        "commit-without-record-lost",
        "candidates",
        "_recorded(kind)",
        "_recorded(kind)[:1]",
        "test_commit_digits.py",
    ),
    Mutant(
        "commit-of-any-arithmetic",
        "RepoNames.commit",
        "return self.meaning(revision) + self.making",
        "return self.meaning(revision) + self.made_by(None)",
        "test_a_team_has_the_same_views_and_clients_are_sent_to_its_store",
    ),
    Mutant(
        "commit-of-any-view",
        "RepoNames._document",
        '"base" if self.path.is_base else self.kind',
        '"base"',
        COMMITS,
    ),
    Mutant(
        "adapter-config-in-a-model",
        "is_hidden",
        "return is_model and path.rpartition",
        "return not is_model and path.rpartition",
        "test_contract.py",
    ),
    Mutant(
        "missing-file-without-commit",
        "_no_file",
        '"EntryNotFound", commit=pinned.commit)',
        '"EntryNotFound")',
        "test_a_team_has_the_same_views_and_clients_are_sent_to_its_store",
    ),
    Mutant(
        "factors-of-another-plan",
        "SharedFactors.get",
        '"factors", (self._plan, key)',
        '"factors", ("", key)',
        "test_kept_factors.py",
    ),
    Mutant(
        "rows-of-another-blob",
        "CachedReader._piece",
        'self._memory.get("rows", (self._key, index)',
        'self._memory.get("rows", ("", index)',
        "test_caching.py",
    ),
    Mutant(
        "kept-bytes-collected",
        "nothing_refers",
        ", aliased(MaterialisedFile).digest)",
        ")",
        KEPT,
    ),
    Mutant(
        "kept-for-ever",
        "_of_plan",
        'MaterialisationRecord.expires_at > bindparam("now", type_=UtcTime())',
        'MaterialisationRecord.created_at <= bindparam("now", type_=UtcTime())',
        KEPT,
    ),
    Mutant(
        "parent-by-a-moving-name",
        "hub_parent:_by_name",
        "if len(named) == 1 and",
        "if named and",
        "test_hub_parent.py",
    ),
    Mutant(
        "bytes-of-another-piece",
        "CachedReader.held",
        "[start - index * PIECE : stop - index * PIECE]",
        "[: stop - start]",
        "test_caching.py",
    ),
    Mutant(
        "wake-up-for-who-has-left",
        "Admission._ask_to_yield",
        "if slot.held and not wish.done():",
        "if not wish.done():",
        "test_yielding.py",
    ),
    Mutant(
        "page-of-a-portal-in-a-file",
        "RangeReader._check_extent",
        'elif answer.headers.get("content-length") != str(self._size):',
        "elif length > self._size:",
        "client:test_ranges.py",
    ),
    Mutant(
        "body-cut-short-taken",
        "_Body.readinto",
        "if not count and self._left:",
        "if self._left < 0:",
        "client:test_direct.py",
    ),
    Mutant(
        "connection-with-a-rest-kept",
        "_Body.close",
        "self._answer.isclosed() or self._left == 0",
        "True",
        "client:test_direct.py",
    ),
    Mutant(
        "temporary-folder-open-to-others",
        "temporary_folder",
        "place.mkdir(mode=0o700)",
        "place.mkdir()",
        "test_temporary_folder.py",
    ),
    Mutant(
        "failed-write-unseen",
        "write_files",
        "future.result()",
        "future.exception()",
        "folders:test_writer.py",
    ),
    Mutant(
        "written-after-the-end",
        "_Target.put",
        "self._fd is None",
        "self._waiting < 0",
        "folders:test_writer.py",
    ),
    Mutant(
        "foreign-folders-in-the-cache-removed",
        "FetchCache._used",
        "self.folder.glob(_NAMES)",
        'self.folder.glob("*")',
        "folders:test_cache.py",
    ),
    Mutant(
        "a-token-in-one-form-only",
        "tokens:digest_of",
        "own_form(secret)",
        "secret",
        "test_a_token_in_the_form_for_hub_clients_is_taken_everywhere_and_shown_nowhere",
    ),
    Mutant(
        "a-session-in-the-form-of-a-token",
        "own_form",
        "secret.startswith(HUB_TOKEN_PREFIX + TOKEN_PREFIX)",
        'secret.startswith("hf_reg")',
        "test_the_form_for_hub_clients_is_the_same_token",
    ),
    Mutant(
        "the-form-for-hub-clients-for-any-service",
        "for_hub_clients",
        "return token if status == httpx.codes.UNAUTHORIZED else form",
        "return form",
        "test_a_service_of_before_is_given_the_form_that_it_knows",
    ),
    Mutant(
        "no-revision-head",
        "RepoQuery.revision",
        "return MAIN if found == _HEAD else found",
        "return found",
        "test_head_is_the_newest_commit[hf]",
    ),
    Mutant(
        "a-pointer-of-any-weights",
        "pointer_of",
        'f"oid {file.digest}"',
        'f"oid {file.etag}"',
        "test_raw_files_are_as_git_keeps_them[hf-published]",
    ),
    Mutant(
        "raw-shows-what-is-hidden",
        "files:raw",
        "file is None or is_hidden(pinned, query.path)",
        "file is None",
        "test_raw_files_are_as_git_keeps_them[hf]",
    ),
)
