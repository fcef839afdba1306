"""Links between the pages. Nothing else makes one: each begins with the prefix under which users reach the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from registry.http.addresses import page_path


@dataclass(frozen=True)
class Links:
    """Addresses of the pages.

    Args:
        prefix: path before all of them, such as ``/registry``; empty where there is none.
    """

    prefix: str

    def __call__(self, path: str, /, **query: object) -> str:
        """The page at a path, with the parameters that have a value."""
        return f"{self.prefix}{quote(path, safe='/@:')}{_query(query)}"

    def ref(self, reference: str, /, **query: object) -> str:
        """The page of a base model, an adapter or a revision."""
        return f"{self.prefix}{page_path(reference)}{_query(query)}"

    def of(self, part: str, reference: str, /, **query: object) -> str:
        """A page about a reference, such as its files: ``/files/llama/support@3``."""
        return self(f"/{part}/{reference}", **query)


def _query(query: Mapping[str, object]) -> str:
    given = {name: str(value) for name, value in query.items() if value is not None and value is not False}
    text = urlencode({name: value for name, value in given.items() if value})
    return f"?{text}" if text else ""
