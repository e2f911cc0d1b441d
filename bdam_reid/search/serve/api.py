"""Search as JSON over HTTP."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from bdam_kernels import __version__
from bdam_reid.config import ConfigError
from bdam_reid.data.images import ImageError
from bdam_reid.data.printable import printable, shortened
from bdam_reid.data.records import QueryError
from bdam_reid.engine.checkpoint import CheckpointError
from bdam_reid.search.serve.asking import Answer, Ask, answer
from bdam_reid.search.serve.guard import refused
from bdam_reid.search.serve.live import Live
from bdam_reid.search.serve.photographs import NotThere, jpeg_of

log = logging.getLogger("bdam_reid")
CLOSED = "the index cannot be searched now: the server's log says why"


class Health(BaseModel):
    """What is served."""

    images: int
    generation: int
    columns: list[str]
    parts: dict[str, float]
    """Names and default weights of the parts of embeddings."""


class Problem(BaseModel):
    """Why there is no answer."""

    error: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 404, 413, 422, 429, 503)
}


def make_api(live: Live) -> FastAPI:
    """The application that answers programs; its description is at /docs."""
    app = FastAPIOffline(
        "/docs", None, title="Search of photographs", version=__version__, responses=PROBLEMS, favicon_url="data:,"
    )

    @app.post("/search")
    def search(ask: Ask) -> Answer:
        """The photographs that fit a sentence, pictures of a person, or both, the best first."""
        return answer(ask, live.now())

    @app.get("/image/{path:path}", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
    def image(
        path: Annotated[str, Path(description="Within the folder of the index, as results have it.")],
        side: Annotated[int, Query(ge=16, le=2048, description="Pixels that it is long and wide at most.")] = 1024,
    ) -> Response:
        """A photograph of the index, as JPEG."""
        jpeg = jpeg_of(live.now(), path, side)
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=60"})

    @app.get("/health")
    def health() -> Health:
        """What is served."""
        index = live.now().index
        return Health(
            images=len(index),
            generation=index.manifest.generation,
            columns=list(index.columns),
            parts=dict(index.manifest.weights["same"]),
        )

    _say_errors(app)
    return app


def _say_errors(app: FastAPI) -> None:
    """Answer all errors by one sentence."""

    @app.exception_handler(RequestValidationError)
    def other_form(_: Request, error: RequestValidationError) -> Response:
        return refused(422, first_problem(error))

    @app.exception_handler(HTTPException)
    def http(_: Request, error: HTTPException) -> Response:
        return refused(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(NotThere)
    def not_there(_: Request, error: NotThere) -> Response:
        return refused(404, str(error))

    @app.exception_handler(QueryError)
    @app.exception_handler(ImageError)
    def question(_: Request, error: Exception) -> Response:
        return refused(400, printable(str(error)))

    @app.exception_handler(CheckpointError)
    @app.exception_handler(ConfigError)
    def index(_: Request, error: Exception) -> Response:
        log.error(f"the index cannot be searched: {error}")
        return refused(503, CLOSED)

    @app.exception_handler(Exception)
    def other(_: Request, error: Exception) -> Response:
        return refused(500, "the server has failed: its log says why")


def first_problem(error: RequestValidationError | ValidationError) -> str:
    """The first thing that a question has in another form than it must."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    return f"{shortened('.'.join(place))}: {printable(first['msg'])}" if place else printable(first["msg"])
