"""One table from errors to statuses."""

from __future__ import annotations

import inspect

import pytest

from registry import errors
from registry.errors import CODES, RegistryError
from registry.http.errors import BY_CODE, STATUSES, headers_of, problem, status_of


def classes() -> list[type[RegistryError]]:
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RegistryError)]
    return [kind for kind in found if kind is not RegistryError]


def test_every_class_of_errors_has_a_status() -> None:
    assert set(STATUSES) == set(classes())


def test_every_code_of_its_own_exists() -> None:
    assert set(BY_CODE) <= set(CODES)


@pytest.mark.parametrize("kind", classes())
def test_every_error_can_be_told(kind: type[RegistryError]) -> None:
    for code in CODES:
        error = kind("Something is not as it should be.", code=code)
        told = problem(error, "request-1")
        assert told.status == status_of(error) == BY_CODE.get(code, STATUSES[kind])
        assert told.kind == kind.__name__
        assert ("Retry-After" in headers_of(told)) == (told.status in {429, 503})
        assert ("WWW-Authenticate" in headers_of(told)) == (told.status == 401)


def test_a_subclass_is_told_as_the_class_that_clients_know() -> None:
    class LostError(errors.NotFoundError):
        pass

    told = problem(LostError("There is no such thing."))
    assert (told.kind, told.status) == ("NotFoundError", 404)
