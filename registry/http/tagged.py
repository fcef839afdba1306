"""JSON answers with a tag of their content, so that a client that has them already is told so."""

from __future__ import annotations

import hashlib

from fastapi import Request, Response

from registry.http.payloads import JSON
from registry.http.ranges import names
from registry.schemas import Schema

JsonAnswer = Response


def tagged(request: Request, answer: Schema) -> JsonAnswer:
    """The answer as JSON, or 304 where the client named its tag."""
    body = answer.model_dump_json().encode()
    etag = hashlib.sha256(body).hexdigest()
    headers = {"ETag": f'"{etag}"', "Cache-Control": "private, no-cache"}
    if names(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=JSON)
