"""JSON responses with an ETag of their content, for conditional requests."""

from __future__ import annotations

import hashlib

from fastapi import Request, Response

from registry.http.payloads import JSON
from registry.http.wire.ranges import has
from registry.schemas import Schema

JsonAnswer = Response


def with_etag(request: Request, answer: Schema) -> JsonAnswer:
    """The answer as JSON, or 304 where ``If-None-Match`` has its ETag."""
    body = answer.model_dump_json().encode()
    etag = hashlib.sha256(body).hexdigest()
    headers = {"ETag": f'"{etag}"', "Cache-Control": "private, no-cache"}
    if has(request.headers, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=JSON)
