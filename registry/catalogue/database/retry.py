"""Retries of transactions that lost a race, with backoff and jitter."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.exc import StaleDataError

from registry.catalogue.database.errors import sqlstate

T = TypeVar("T")

TRIES: Final = 12
_FIRST_PAUSE: Final = 0.01  # seconds, at most; it doubles
_LONGEST_PAUSE: Final = 0.5

# Of PostgreSQL: serialisation failure, deadlock, violated keys. SQLite has one writer at a time: no lost races.
_LOST_RACES: Final = frozenset(["40001", "40P01", "23505", "23503"])


def retried(attempt: Callable[[], T]) -> T:
    """The result of ``attempt``, which is called again after lost races, and once after a lost connection.

    Its transaction must not have been committed when it raises an error of the database.
    """
    connection_lost = False
    for tried in range(1, TRIES):
        try:
            return attempt()
        except StaleDataError:  # a row that was read is gone
            pass
        except DBAPIError as error:
            if error.connection_invalidated and not connection_lost:
                connection_lost = True
            elif sqlstate(error) not in _LOST_RACES:
                raise
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**tried)
        time.sleep(random.uniform(0, longest))  # noqa: S311 - jitter, nothing secret
    return attempt()
