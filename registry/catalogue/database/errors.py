"""Error mapping of the database: the one place where drivers' errors are read."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError

from registry import errors
from registry.folders.local_files import FORBIDDEN, FULL, reason

_BROKEN: Final = frozenset(["SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT"])
_UNLOCKABLE: Final = frozenset(
    f"SQLITE_IOERR_{what}"
    for what in (
        "LOCK",
        "UNLOCK",
        "RDLOCK",
        "CHECKRESERVEDLOCK",
        "BLOCKED",
        "SHMOPEN",
        "SHMSIZE",
        "SHMLOCK",
        "SHMMAP",
    )
)
_OUTSIDE: Final = {
    "unavailable": "The database of this registry can't be reached or used now: try again; the service's log says why.",
    "busy": "The database of this registry is busy: try again.",
    "disk_full": "There is no space left for the database of this registry: its operator has to free some.",
    "read_only": "The database of this registry can't be written now; the service's log says why.",
    "corrupt": "The database of this registry is damaged; the service's log says more.",
    "schema_older": "The database of this registry has an older schema than the service: its operator upgrades it.",
    "schema_newer": "The database of this registry has a newer schema than the service: its operator upgrades that.",
}
"""What a service says of an error of its database, by code."""
Error = TypeVar("Error", bound=errors.RegistryError)
_LEAST_FREE: Final = 1 << 20  # bytes; with less, a failed growth of SQLite's shared memory file means a full disk


@contextmanager
def translated(where: str, folder: Path | None = None) -> Iterator[None]:
    """Map every error of the database within the block to a `RegistryError`.

    Args:
        where: the database as messages show it.
        folder: the folder it is in, if it is in one.
    """
    try:
        yield
    except DBAPIError as error:
        raise placeless(_from_driver(error, where, folder)) from error
    except sqlite3.Error as error:
        raise placeless(_from_sqlite(error, where, folder)) from error
    except StaleDataError as error:
        raise placeless(_refused(error, where)) from error
    except PoolTimeout as error:
        raise placeless(_busy(where)) from error


def placeless(error: Error) -> Error:
    """The error of a database, with what is shown to strangers: neither its address nor its driver's message."""
    error.outside = _OUTSIDE.get(error.code, _OUTSIDE["unavailable"])
    return error


def sqlstate(error: DBAPIError) -> str | None:
    """PostgreSQL's SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html."""
    state: str | None = getattr(error.orig, "sqlstate", None)
    return state


def committing(error: DBAPIError, where: str) -> errors.RegistryError | None:
    """The error for a connection lost during a commit; None for any other."""
    if not error.connection_invalidated:
        return None
    sentence = (
        "The connection to the database{} was lost while a change was committed: it is not known whether the change "
        "was made. Run it again; nothing is done twice."
    )
    found = errors.UnavailableError(sentence.format(f" {where}"))
    found.outside = sentence.format("")
    return found


def _from_driver(error: DBAPIError, where: str, folder: Path | None) -> errors.RegistryError:
    if isinstance(error.orig, sqlite3.Error):
        return _from_sqlite(error.orig, where, folder)
    if isinstance(error, IntegrityError):
        return _refused(error.orig, where)
    state = sqlstate(error)
    if state in _BY_STATE:
        return _BY_STATE[state](where)
    if state is None and isinstance(error, OperationalError):
        return errors.UnavailableError(f"The database {where} can't be reached: {_line(error.orig)}")
    return errors.UnavailableError(f"The database {where} can't be used: {_line(error.orig)}")


def _from_sqlite(error: sqlite3.Error, where: str, folder: Path | None) -> errors.RegistryError:
    name: str = getattr(error, "sqlite_errorname", None) or ""
    kind = "_".join(name.split("_")[:2])
    if kind == "SQLITE_IOERR" and folder is not None and _is_full(folder):
        kind = "SQLITE_FULL"
    elif name in _UNLOCKABLE:
        kind = "SQLITE_PROTOCOL"
    if kind in _SHORT:
        return _SHORT[kind](where)
    if kind == "SQLITE_CONSTRAINT":
        return _refused(error, where)
    if kind in _BROKEN:
        return errors.IntegrityError(
            f"The database {where} is damaged or is not an SQLite database ({_line(error)}): restore it from a backup."
        )
    return errors.UnavailableError(f"The database {where} can't be used: {_line(error)}.")


def from_system(where: str, error: OSError) -> errors.RegistryError:
    """The error for an `OSError` of the database's folder."""
    return placeless(_from_system(where, error))


def _from_system(where: str, error: OSError) -> errors.RegistryError:
    if error.errno in FULL:
        return _full(where)
    if error.errno in FORBIDDEN:
        return _read_only(where)
    return errors.UnavailableError(f"The database {where} can't be used: {reason(error)}.")


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _LEAST_FREE
    except OSError:
        return False


def _busy(where: str) -> errors.RegistryError:
    return errors.UnavailableError(
        f"The database {where} is busy: another process locked it for too long. Try again.", code="busy"
    )


def _full(where: str) -> errors.RegistryError:
    return errors.UnavailableError(
        f"There is no space left for the database {where}: free some and try again.", code="disk_full"
    )


def _read_only(where: str) -> errors.RegistryError:
    return errors.NotAllowedError(
        f"The database {where} can't be written: the file or its folder is read-only for this user.", code="read_only"
    )


def _unlockable(where: str) -> errors.RegistryError:
    return errors.UnavailableError(
        f"The database {where} can't be locked: its folder seems to be on a network file system without file locks. "
        "Use a local folder, or a PostgreSQL database."
    )


def _closed(where: str) -> errors.RegistryError:
    return errors.UnavailableError(
        f"The database {where} can't be opened: check that its folder exists and may be read and written."
    )


def _refused(error: BaseException | None, where: str) -> errors.RegistryError:
    return errors.UnavailableError(
        f"The database {where} rejected a change, because the data it refers to was changed in the meantime "
        f"({_line(error)}). Try again."
    )


def _line(error: BaseException | None) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


_SHORT: Final = {
    "SQLITE_BUSY": _busy,
    "SQLITE_LOCKED": _busy,
    "SQLITE_FULL": _full,
    "SQLITE_READONLY": _read_only,
    "SQLITE_PERM": _read_only,
    "SQLITE_AUTH": _read_only,
    "SQLITE_PROTOCOL": _unlockable,
    "SQLITE_CANTOPEN": _closed,
}

_BY_STATE: Final = {  # PostgreSQL: locks not available, deadlock, serialisation, cancelled for time, too many clients
    **dict.fromkeys(("55P03", "40P01", "40001", "57014", "53300"), _busy),
    "53100": _full,
    **dict.fromkeys(("25006", "42501"), _read_only),
}
