"""What another Hub is asked, and what of its answers is passed on."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

UPSTREAM: Final = (
    Mutant(
        "own-names-told-to-another-hub",
        "RepoRoute.refusal",
        "asked is not None and not await _is_private(request, asked)",
        "asked is not None",
        "test_names_of_ours_never_leave",
    ),
    Mutant(
        "clients-led-to-where-they-send-tokens",
        "_to_their_store",
        'found.scheme not in {"http", "https"} or found.hostname in {*_TRUSTED_BY_CLIENTS, request.url.hostname}',
        'found.scheme not in {"http", "https"}',
        "test_what_it_should_not_say[hub]",
    ),
    Mutant(
        "cookies-sent-back",
        "Upstream._answer",
        "client.cookies.clear()",
        "pass",
        "test_clients_get_what_they_get_there[model-gpt-two]",
    ),
    Mutant(
        "a-bare-name-is-taken-for-a-path",
        "base_answering",
        'if "/" in repo_id and begins_with_a_base',
        "if begins_with_a_base",
        "test_a_source_without_an_organisation",
    ),
)
