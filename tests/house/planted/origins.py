"""What browsers send for pages of other sites: the guard before all routes."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

_ALL: Final = "test_pages_of_other_sites_change_nothing_at_any_address_with_any_type_of_body"
_PUBLISH: Final = "test_what_would_publish_is_refused_to_pages_of_other_sites"
_PROXY: Final = "test_behind_a_proxy_our_pages_are_those_of_the_public_address"
_SECRET: Final = "test_an_address_with_a_secret_takes_what_comes_with_it"

ORIGINS: Final = (
    Mutant(
        "no-guard-before-the-routes",
        "OriginGuard.__call__",
        "require_own_page(request)",
        "pass",
        _PUBLISH,
    ),
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
        "any-request-to-a-part-is-free",
        "origins:_is_free",
        'one.method == scope["method"] and one.is_one(scope["path"])',
        'one.is_one(scope["path"])',
        _SECRET,
    ),
    Mutant(
        "this-machine-is-ours-everywhere",
        "own_origins",
        "if used is not None and is_loopback(host_of(address)):",
        "if used is not None:",
        _PROXY,
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
