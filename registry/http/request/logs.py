"""Structured logging: one JSON object a line on stderr."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

_REQUESTS: Final = logging.getLogger("registry.requests")
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, default=str).encode  # made once: `dumps` makes one for each line
_KNOWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Formats a record with its extra fields as one line; with the number of the worker, where there are several."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._worker,
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _KNOWN}
        if record.exc_info is not None and record.exc_info[1] is not None:
            line["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        return _ENCODE(line)


def log_request(fields: Mapping[str, object]) -> None:
    """Write the line of a request."""
    if _REQUESTS.isEnabledFor(logging.INFO):  # without looking for the caller, which is known
        _REQUESTS.handle(
            _REQUESTS.makeRecord(_REQUESTS.name, logging.INFO, __file__, 0, "request", (), None, extra=fields)
        )


def log_to_stderr(worker: int | None = None) -> None:
    """Log to stderr, with the number of a worker; uvicorn's access log is off, since the request log has more."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(worker))
    for name in {"registry", __name__.partition(".")[0]}:  # the package may have been imported as `adapter_registry`
        own = logging.getLogger(name)
        own.handlers, own.propagate = [handler], False
        own.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
