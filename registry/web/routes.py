"""All pages."""

from __future__ import annotations

from typing import Final

from registry.http.request.errors import Face
from registry.web import home, lists, nodes
from registry.web.frame import figures, sign_in, visit
from registry.web.frame.errors import error_page, is_for_people
from registry.web.revision import commits, compare, edit, files, history, tensors, use
from registry.web.tree import search
from registry.web.upkeep import activity, admin, jobs

_MODULES: Final = (
    *(home, nodes, lists, history, figures, search, files, tensors, use, commits),
    *(edit, compare, activity, jobs, admin, sign_in, visit),
)
PAGES: Final = Face(tuple(module.router for module in _MODULES), is_for_people, error_page)
"""The pages, and errors as pages."""
