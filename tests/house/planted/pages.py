"""The web pages: who may send a form, what an ended session leaves, and where signing in leads."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

PAGES: Final = (
    Mutant(
        "a-form-that-says-nothing-of-its-page",
        "require_own_form",
        'if "origin" not in request.headers:',
        "if False:",
        "test_forms_of_other_sites_are_refused",
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
        "error_page",
        "ended=signing_in",
        "ended=False",
        "test_the_form_after_a_session_ended_signs_in",
    ),
    Mutant(
        "signing-in-leads-anywhere",
        "_to",
        'path.startswith("/") and not path.startswith("//")',
        'path.startswith("/")',
        "test_signing_in_leads_to_our_own_pages_only",
    ),
    Mutant(
        "a-form-that-nobody-looks-at",
        "posted",
        "FormTokens(request).check(sent.token)",
        "FormTokens(request)",
        "test_forms_need_the_token_of_this_session",
    ),
    Mutant(
        "a-form-that-nobody-asks-where-from",
        "visit:_sent",
        "    require_own_form(request)\n",
        "",
        "test_forms_of_other_sites_are_refused",
    ),
    Mutant(
        "what-a-session-saw-is-kept",
        "_Response._kept",
        "self._context.by_session and",
        "False and",
        "test_what_a_session_saw_is_not_kept_and_what_a_token_saw_is",
    ),
    Mutant(
        "an-older-session-of-a-browser-goes-on",
        "sign_in:sign_in",
        "        if older is not None:",
        "        if older is None:",
        "test_signing_in_again_ends_the_older_session_of_that_browser",
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
        "kept:keep",
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
        "head-of-a-page-is-refused",
        "PageRoute.__init__",
        '{"HEAD"} if "GET" in given else set()',
        "set()",
        "test_a_page_keeps_the_rules[sessions]",
    ),
    Mutant(
        "a-token-of-no-days",
        "admin:_Token",
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
