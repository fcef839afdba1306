"""What is served: views, pages, guards against other sites, and drawings."""

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
        "commit-of-any-arithmetic",
        "RepoNames.commit",
        "return self.meaning(revision) + self.making",
        "return self.meaning(revision) + self.made_by(None)",
        "test_a_team_has_the_same_views_and_clients_are_sent_to_its_store",
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
        "a-pointer-of-any-weights",
        "pointer_of",
        'f"oid {file.digest}"',
        'f"oid {file.etag}"',
        "test_raw_files_are_as_git_keeps_them[hf-published]",
    ),
)
PAGES: Final = (
    Mutant(
        "pictures-beside-each-other-by-number",
        "paired",
        "one.made.is_whole and other.made == one.made",
        "other.number == one.number",
        "test_pictures_are_paired_by_prompt_and_seed_else_by_number",
    ),
    Mutant(
        "the-seed-of-any-sampler",
        "_of_graph",
        "found.pop() if len(found) == 1 else",
        "found.pop() if found else",
        "test_prompt_and_seed_are_what_the_programs_write",
    ),
    Mutant(
        "a-form-of-any-session",
        "FormTokens.check",
        "self._new is not None or not hmac",
        "self._new is not None and not hmac",
        "test_forms_need_the_token_of_this_session",
    ),
    Mutant(
        "a-form-of-the-session-that-ended",
        "_error_page",
        "ended=signing_in",
        "ended=False",
        "test_the_form_after_a_session_ended_signs_in",
    ),
    Mutant(
        "a-form-that-nobody-looks-at",
        "posted",
        "FormTokens(request).check(sent.token)",
        "FormTokens(request)",
        "test_forms_need_the_token_of_this_session",
    ),
    Mutant(
        "what-a-session-saw-is-kept",
        "_Response._kept",
        "self._context.by_session and",
        "False and",
        "test_what_a_session_saw_is_not_kept_and_what_a_token_saw_is",
    ),
    Mutant(
        "sessions-of-other-tokens-end",
        "sessions:end",
        "SessionRecord.token_id == principal.token, which",
        "which",
        "test_somebody_sees_and_ends_their_sessions",
    ),
    Mutant(
        "a-wrong-token-is-written-into-the-page",
        "forms:keep",
        'path == "/sign-in"',
        'path == "/sign"',
        "test_what_was_written_when_the_session_ended_is_sent_after_signing_in",
    ),
    Mutant(
        "what-was-written-is-read-too-late",
        "form_visit",
        "_: Annotated[_Sent, Depends(_sent)], visit",
        "visit",
        "test_what_was_written_when_the_session_ended_is_sent_after_signing_in",
    ),
    Mutant(
        "a-token-of-no-days",
        "upkeep:_Token",
        "ge=1, ",
        "",
        "test_a_wrong_value_is_corrected_where_the_page_says_so",
    ),
    Mutant(
        "the-methods-of-one-route",
        "errors:_allowed",
        "found |= route.methods",
        "found |= set()",
        "test_other_methods_are_refused_with_those_that_are_allowed[TRACE]",
    ),
)
_ALL: Final = "test_pages_of_other_sites_change_nothing_at_any_address_with_any_type_of_body"
_PUBLISH: Final = "test_what_would_publish_is_refused_to_pages_of_other_sites"
_SECRET: Final = "test_an_address_with_a_secret_takes_what_comes_with_it"

ORIGINS: Final = (
    Mutant(
        "a-page-in-a-sandbox-is-ours",
        "foreign_page",
        "if origin not in own:",
        'if origin not in own and origin != "null":',
        _PUBLISH,
    ),
    Mutant(
        "another-port-is-ours",
        "_OWN_SITES",
        '{"same-origin", "none"}',
        '{"same-origin", "same-site", "none"}',
        _PUBLISH,
    ),
    Mutant(
        "only-the-origin-is-looked-at",
        "foreign_page",
        "if site not in _OWN_SITES:",
        "if origins and site not in _OWN_SITES:",
        _PUBLISH,
    ),
    Mutant(
        "any-header-is-a-token",
        "origins:_is_free",
        "if shown[: len(_BEARER)].lower() == _BEARER:",
        "if shown:",
        _PUBLISH,
    ),
    Mutant(
        "only-known-methods-change-something",
        "OriginGuard.__call__",
        'scope["method"] in _READING',
        'scope["method"] not in ("POST", "PUT", "DELETE")',
        _ALL,
    ),
    Mutant(
        "deleting-needs-no-page-of-ours",
        "_READING",
        '"OPTIONS"}',
        '"OPTIONS", "DELETE"}',
        _ALL,
    ),
    Mutant(
        "an-address-like-that-of-a-part-is-free",
        "is_part",
        "_PART.fullmatch(path)",
        "_PART.match(path)",
        _SECRET,
    ),
    Mutant(
        "our-page-by-one-name-only",
        "_LOOPBACK",
        '"127.0.0.1", "[::1]")',
        '"127.0.0.1")',
        "test_programs_and_our_own_pages_change_what_they_did",
    ),
    Mutant(
        "pages-of-other-sites-flood-the-events",
        "DenialLog.note",
        "if not self._takes(self._cross_site):",
        "if not self._cross_site:",
        "test_a_page_that_goes_on_for_days_fills_no_database_and_hides_no_other_denial",
    ),
    Mutant(
        "a-challenge-is-noted",
        "DenialLog.note",
        'if token is None and error.code == "bad_token"',
        'if principal is None and error.code == "bad_token"',
        "test_reading_writes_nothing_but_what_it_computed",
    ),
    Mutant(
        "what-another-site-reads-is-a-use",
        "registry_for",
        "principal.token is not None or foreign_page(request) is None",
        "principal.token is not None or request is not None",
        "test_what_another_site_only_reads_is_no_use",
    ),
)
DRAWINGS: Final = (
    Mutant(
        "a-contour-without-its-offset",
        "_apportion",
        "outer_left._mod += moved_inner_right - moved_outer_left",
        "outer_left._mod += 0.0",
        "test_a_deep_child_after_a_shallow_one_is_tidy",
    ),
    Mutant(
        "folded-without-what-is-below",
        "nodes:_only",
        "hidden.get(row.parent, 0) + 1 + more",
        "hidden.get(row.parent, 0) + 1",
        "test_every_node_is_drawn_or_counted_once",
    ),
    Mutant(
        "a-line-through-a-name",
        "_lanes",
        "if end > start",
        "if end > start + 40",
        "test_names_of_marks_touch_neither_each_other_nor_lines_of_others",
    ),
    Mutant(
        "points-of-any-number",
        "Scatter._gathered",
        "len(groups) <= _MOST",
        "len(groups) >= 0",
        "test_ten_thousand_points_fit_into_a_page",
    ),
    Mutant(
        "characters-that-xml-lacks",
        "_printable",
        "not value.isprintable()",
        "not value",
        "test_drawing.py",
    ),
)
