"""What a reference names: a base model has its tree, an adapter and a revision have a page of their own."""

from __future__ import annotations

from fastapi import APIRouter, Response

from registry.http.addresses import TREE
from registry.reference import Reference
from registry.web.frame.visit import PageRoute, PageVisit
from registry.web.revision.adapter import adapter_page
from registry.web.tree.tree import tree_page

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get(TREE + "/{reference:path}", response_model=None)
def node(visit: PageVisit, reference: str) -> Response:
    """The page of a reference; raises `NotFoundError`, `UsageError`."""
    parsed = Reference.parse(reference)
    return tree_page(visit, parsed.path.base) if parsed.path.is_base else adapter_page(visit, reference)
