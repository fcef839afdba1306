"""Whatever a client sends, the service answers as it says: no 5xx, nothing that is not described."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from registry.api.openapi import describe
from registry.app import service_app
from tests.api.rights_table import TABLE
from tests.kit.library import Library, fill, running, with_tokens

_WAITS: Final = (False, 0, *("0", "off", "f", "false", "n", "no"))
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@dataclass(frozen=True)
class Target:
    """A service to send anything to, and its description."""

    url: str
    library: Library
    schema: Any


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A registry of its own: what is sent here changes it."""
    library = with_tokens(fill(tmp_path_factory.mktemp("target")))
    app = service_app(library.registry)
    with running(app) as url:
        yield Target(url, library, schemathesis.openapi.from_dict(describe(app)))
    library.shelf.close()


def send_anything(target: Target, method: str, path: str, who: str, examples: int) -> None:
    operation = target.schema[path][method]
    session = requests.Session()
    session.trust_env = False
    modes = [operation.as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)]

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(modes))
    def run(case: Case[Any]) -> None:
        if path.endswith("/stream") and (case.query or {}).get("once", False) in _WAITS:
            case.query = {**(case.query or {}), "once": True}  # else it ends when the client does
        response = case.call(base_url=target.url, session=session, headers=target.library.headers(who), timeout=120)
        # Too large is a refusal, too, and not one that the check of refusals knows; what is wrong with a query may be
        # a parameter whose value is written as nothing at all.
        judged = response.status_code != 413 and _is_all_sent(case, response)
        checks = [check for check in CHECKS if judged or check is not negative_data_rejection]
        case.validate_response(response, checks=checks)

    run()
    session.close()


def _is_all_sent(case: Case[Any], response: Any) -> bool:
    sent = parse_qs(urlsplit(response.request.url).query, keep_blank_values=True)
    return set(case.query or {}) <= set(sent)


@pytest.mark.parametrize("who", ["admin", pytest.param("reader", marks=pytest.mark.long)])
@pytest.mark.parametrize(("method", "path"), sorted(TABLE))
def test_anything_is_answered_as_described(target: Target, method: str, path: str, who: str) -> None:
    send_anything(target, method, path, who, 4)


@pytest.mark.long
@pytest.mark.parametrize("who", ["admin", "reader", "writer of a"])
@pytest.mark.parametrize(("method", "path"), sorted(TABLE))
def test_much_more_of_anything_is_answered_as_described(target: Target, method: str, path: str, who: str) -> None:
    send_anything(target, method, path, who, 15)
