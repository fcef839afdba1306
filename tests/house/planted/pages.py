"""The web pages: who may send a form, what an ended session leaves, and where signing in leads."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

PAGES: Final = (
    Mutant(
        "a-form-that-says-nothing-of-its-page",
        "FormTokens.check",
        'if "origin" not in self._request.headers:',
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
        "FormTokens(request).check(token)",
        "FormTokens(request)",
        "test_forms_of_other_sites_are_refused",
    ),
)
