"""The peer of a virtual file: a folder of stored files behind Starlette's FileResponse, one worker of uvicorn.

python -m benchmarks.hub_files FOLDER PORT
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route


def app(folder: Path) -> Starlette:
    """Answers ``/NAME`` with the file of that name."""

    def answer(request: Request) -> FileResponse:
        return FileResponse(folder / request.path_params["path"])

    return Starlette(routes=[Route("/{path:path}", answer)])


if __name__ == "__main__":
    uvicorn.run(app(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", http="h11")
