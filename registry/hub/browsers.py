"""What a browser finds at the address of a repo, which on the Hub is its page: the way to the page of its path.

Nothing is looked up: it leads to a page for whoever asks, and the page knows what its visitor may see.
"""

from __future__ import annotations

from typing import Final

from fastapi import Request

from registry.errors import UsageError
from registry.http.addresses import page_path, prefix_of
from registry.reference import MAIN, Path, Reference, check_tag, number_in_view
from registry.services.artifacts.commits import is_commit

_NAMING: Final = frozenset({"tree", "blob", "commit", "commits"})
"""Words of the Hub's addresses after which the name of a revision comes."""


def page_of(request: Request, view: str) -> str | None:
    """The address of the page of the repo that a browser asks for; None: not a browser, or no repo."""
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return None
    rest = str(request.path_params.get("path", "")).removeprefix("models/")
    namespace, _, below = rest.partition("/")
    name, word, revision, *_ = [*below.split("/"), "", "", ""]
    try:
        path = Path.of_repo_id(f"{namespace}/{name}")
    except UsageError:
        return None
    if word in _NAMING and is_commit(revision) and not path.is_base:
        page = f"/commit/{view}/{revision}/{path}"
    else:
        page = page_path(str(_reference(path, revision if word in _NAMING else MAIN)))
    return f"{prefix_of(request.app)}{page}"


def _reference(path: Path, revision: str) -> Reference:
    """What the name of a revision means; the newest where it is no name that one can have."""
    number = number_in_view(revision)
    if path.is_base or revision == MAIN:
        return Reference(path)
    if number is not None:
        return Reference(path, number=number)
    try:
        return Reference(path, tag=check_tag(revision))
    except UsageError:
        return Reference(path)
