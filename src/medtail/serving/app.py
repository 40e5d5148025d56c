"""The application: the page, and the JSON interface behind it.

A request's way: let in or told to come back, body read within its limit, opened by a decoder process, answered by the
one thread that holds the model. Nothing is written to disk and nothing is kept when the answer has gone.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, TypeVar, final

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import medtail
from medtail.errors import MedtailError, UsageError
from medtail.pixels.letterbox import Box
from medtail.serving.decoders import Decoders, Prepared
from medtail.serving.diagnosis import HEAT_CAUTION, Diagnosis, heat_picture, png_bytes
from medtail.serving.guard import Guard
from medtail.serving.journal import Journal
from medtail.serving.limits import Gate, read_body
from medtail.serving.page import MEDIA_TYPES, page_file
from medtail.serving.refusals import Refusal
from medtail.serving.settings import ServeSettings, default_threads
from medtail.serving.similar import SimilarCases

T = TypeVar("T")
MOST_FRAMES: Final = 100_000
FILE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of one image or DICOM file. What it is, is told by its content.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "The request is wrong."},
    401: {"description": "A token is needed."},
    403: {"description": "From a page of another site, or without the header X-Medtail."},
    413: {"description": "The file has too many bytes."},
    422: {"description": "The file is no image that can be read, or has too many pixels."},
    429: {"description": "Too many requests from one address; see Retry-After."},
    503: {"description": "Too many requests are waiting; see Retry-After."},
    504: {"description": "The request took too long."},
}

FrameParameter = Annotated[int, Query(ge=0, le=MOST_FRAMES, description="Frame of a file with several, from 0.")]
RoiParameter = Annotated[
    str | None, Query(max_length=80, description="Region of interest in pixels of the image: x,y,width,height.")
]


@final
class Service:
    """What answers requests: the model, the decoders, the limits; a context manager that stops all of it.

    Args:
        diagnosis: The model.
        settings: The limits.
        cases: Similar cases to show; None shows none.
        journal: Where to log; standard error if None.
    """

    def __init__(
        self,
        diagnosis: Diagnosis,
        settings: ServeSettings,
        *,
        cases: SimilarCases | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.diagnosis, self.settings, self.cases = diagnosis, settings, cases
        self.journal = journal if journal is not None else Journal()
        self.gate = Gate(settings.queue)
        self.decoders = Decoders(settings.decoders, max_pixels=settings.max_pixels, max_bytes=settings.max_bytes)
        self._openers = ThreadPoolExecutor(settings.decoders, thread_name_prefix="medtail-open")
        self._model = ThreadPoolExecutor(1, thread_name_prefix="medtail-model", initializer=self._set_threads)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop threads and processes."""
        self.decoders.close()
        self._openers.shutdown(wait=True, cancel_futures=True)
        self._model.shutdown(wait=True, cancel_futures=True)

    def _set_threads(self) -> None:
        if self.settings.engine == "onnx" and not self.settings.heat_maps and self.cases is None:
            return  # nothing here needs torch
        import torch

        torch.set_num_threads(self.settings.threads or default_threads())

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Let a request in for at most the time limit.

        Raises:
            Refusal: Too many are in already, or the time is over.
        """
        with self.gate:
            try:
                async with asyncio.timeout(self.settings.timeout_s):
                    yield
            except TimeoutError:
                raise Refusal.timeout() from None

    async def answer(
        self,
        request: Request,
        work: Callable[[Prepared], T],
        *,
        roi: Box | None = None,
        frame: int = 0,
        with_square: bool = True,
        with_preview: bool = False,
        with_model: bool = True,
    ) -> T:
        """Read a request's body, have it opened as an image, and do something with it.

        From the thread that had it opened it goes straight to the model's: every hand-over between threads makes the
        request wait, and the one that reads the network has nothing to say in between.

        Args:
            request: Whose body holds the file.
            work: What to do, in the model's thread.
            roi: Region of interest.
            frame: Of a file with several.
            with_square: Have it prepared for the model.
            with_preview: Have it prepared to be looked at.
            with_model: False does the work in the thread that had the file opened.

        Raises:
            Refusal: The file is too large, empty or no image, or what is asked is impossible for this model.
        """
        state, started = request.state, time.perf_counter()
        body = await self._body(request)
        state.body_ms, started = _ms_since(started), time.perf_counter()
        until = time.monotonic() + self.settings.timeout_s
        done: Future[T] = Future()

        def open_file() -> None:
            if done.cancelled():  # the time was over before its turn came
                return
            try:
                prepared = self.decoders.prepare(
                    body,
                    self.diagnosis.pixels if with_square else None,
                    timeout_s=max(0.0, until - time.monotonic()),
                    roi=roi,
                    frame=frame,
                    with_preview=with_preview,
                )
                state.decoder_ms, state.open_ms = prepared.ms, _ms_since(started)
                if with_model:
                    self._model.submit(do_work, prepared)
                else:
                    do_work(prepared)
            except BaseException as error:
                if done.set_running_or_notify_cancel():
                    done.set_exception(error)

        def do_work(prepared: Prepared) -> None:
            if not done.set_running_or_notify_cancel():
                return
            begun = time.perf_counter()
            try:
                found = work(prepared)
            except BaseException as error:
                done.set_exception(error)
            else:
                state.work_ms = _ms_since(begun)
                done.set_result(found)

        self._openers.submit(open_file)
        try:
            return await asyncio.wrap_future(done)
        except MedtailError as error:
            raise Refusal.wrong(str(error)) from error

    async def _body(self, request: Request) -> bytes:
        length = request.headers.get("content-length", "")
        max_bytes = self.settings.max_bytes
        if length.isdigit() and int(length[:20]) > max_bytes:
            raise Refusal.too_large(self.settings.max_mb)
        try:
            body = await read_body(request.stream(), max_bytes=max_bytes)
        except ClientDisconnect:
            raise Refusal.gone() from None
        if body is None:
            raise Refusal.too_large(self.settings.max_mb)
        request.state.bytes = len(body)
        if not body:
            raise Refusal.wrong("The body is empty; expected the bytes of an image or DICOM file.")
        return body

    def region(self, text: str | None) -> Box | None:
        """Read a region of interest and check that the model takes one.

        Raises:
            Refusal: It is no region, or the model takes none, or needs one.
        """
        if text is None:
            if self.diagnosis.needs_roi:
                raise Refusal(
                    400, "roi", "This model reads a region of interest, never a whole image; give roi=x,y,width,height."
                )
            return None
        if not self.diagnosis.takes_roi:
            raise Refusal(400, "roi", "This model reads whole images; leave roi out.")
        words = text.split(",")
        if len(words) != 4 or not all(word.strip().isdecimal() and len(word.strip()) <= 6 for word in words):
            raise Refusal(400, "roi", "roi: expected four whole numbers, x,y,width,height, in pixels of the image.")
        x, y, width, height = (int(word) for word in words)
        if not width or not height:
            raise Refusal(400, "roi", "roi: expected a width and a height of at least 1 pixel.")
        return x, y, width, height


def _ms_since(started: float) -> float:
    return round(1000 * (time.perf_counter() - started), 2)


def build_app(service: Service) -> Guard:
    """Return the guarded application.

    Args:
        service: What answers; the caller closes it.
    """
    return Guard(_application(service), service.settings, journal=service.journal)


def _application(service: Service) -> FastAPI:
    app = FastAPI(
        title="medtail",
        version=medtail.__version__,
        description=service.diagnosis.facts()["note"],
        docs_url=None,  # the usual pages for it come from a server of somebody else
        redoc_url=None,
    )
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _not_here)
    app.add_exception_handler(Exception, _broken)
    _add_page(app)
    _add_facts(app, service)
    _add_answers(app, service)
    if service.cases is not None:
        _add_cases(app, service, service.cases)
    return app


def _add_page(app: FastAPI) -> None:
    def deliver(name: str) -> Callable[[], Awaitable[Response]]:
        async def send() -> Response:
            return Response(page_file(name), media_type=MEDIA_TYPES[name])

        return send

    app.add_api_route("/", deliver("index.html"), include_in_schema=False, response_model=None)
    for name in MEDIA_TYPES:
        if name != "index.html":
            app.add_api_route(f"/static/{name}", deliver(name), include_in_schema=False, response_model=None)


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the server answers, and how busy it is")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "inside": service.gate.inside, "queue": service.gate.limit}

    facts = dict(service.diagnosis.facts())
    settings = service.settings

    @app.get("/api/model", summary="The model, its classes and the server's limits", responses=REFUSALS)
    async def model() -> dict[str, Any]:
        limits = {
            "max_mb": settings.max_mb,
            "max_bytes": settings.max_bytes,
            "max_pixels": settings.max_pixels,
            "timeout_s": settings.timeout_s,
        }
        return {**facts, "similar_cases": 0 if service.cases is None else len(service.cases), "limits": limits}


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/api/preview", summary="A file as a picture", openapi_extra=FILE_BODY, responses=REFUSALS)
    async def preview(request: Request, frame: FrameParameter = 0) -> dict[str, Any]:
        def show(opened: Prepared) -> dict[str, Any]:
            assert opened.preview is not None
            return {
                "height": opened.height,
                "width": opened.width,
                "frames": opened.frames,
                "frame": frame,
                "png": base64.b64encode(png_bytes(opened.preview)).decode(),
            }

        async with service.admitted():
            return await service.answer(
                request, show, frame=frame, with_square=False, with_preview=True, with_model=False
            )

    @app.post("/api/predict", summary="What the model finds in a file", openapi_extra=FILE_BODY, responses=REFUSALS)
    async def predict(
        request: Request,
        frame: FrameParameter = 0,
        roi: RoiParameter = None,
        size_mm: Annotated[
            float | None, Query(gt=0, le=300, allow_inf_nan=False, description="Largest dimension of the nodule, mm.")
        ] = None,
        system: Annotated[str, Query(max_length=20, description="TI-RADS system: acr, c, eu or k.")] = "acr",
    ) -> JSONResponse:
        region = service.region(roi)

        def find(opened: Prepared) -> dict[str, Any]:
            assert opened.square is not None
            assert opened.box is not None
            name = f"sha256:{opened.sha256[:16]}"
            found = service.diagnosis.findings(
                opened.square, opened.box, image_id=name, size_mm=size_mm, system=system
            ).to_json()
            found["image"] = {"height": opened.height, "width": opened.width, "frame": frame, "sha256": opened.sha256,
                              "roi": None if region is None else list(region)}  # fmt: skip
            return found

        async with service.admitted():
            found = await service.answer(request, find, roi=region, frame=frame)
        # plain values already: looking through them again would take as long as making them
        return JSONResponse({**found, "request": request.state.request})

    @app.post("/api/heat", summary="Where the evidence for a class lies", openapi_extra=FILE_BODY, responses=REFUSALS)
    async def heat(
        request: Request,
        class_name: Annotated[str, Query(max_length=200, description="Full name of a class.")],
        method: Annotated[str | None, Query(max_length=20, description="One of the model's heat_methods.")] = None,
        branch: Annotated[str, Query(max_length=10, description="One of the model's heat_branches.")] = "joint",
        frame: FrameParameter = 0,
        roi: RoiParameter = None,
    ) -> dict[str, Any]:
        region = service.region(roi)
        diagnosis = service.diagnosis
        try:
            diagnosis.check_heat(class_name, method=method, branch=branch)
        except UsageError as error:
            raise Refusal.wrong(str(error)) from error

        def draw(opened: Prepared) -> bytes:
            assert opened.square is not None
            assert opened.box is not None
            assert opened.preview is not None
            found = diagnosis.heat(opened.square, opened.box, class_name=class_name, method=method, branch=branch)
            return png_bytes(
                heat_picture(
                    opened.preview, found, height=opened.height, width=opened.width, pixels=diagnosis.pixels, roi=region
                )
            )

        async with service.admitted():
            picture = await service.answer(request, draw, roi=region, frame=frame, with_preview=True)
        return {
            "class_name": class_name,
            "method": method or diagnosis.methods[0],
            "branch": branch,
            "caution": HEAT_CAUTION,
            "png": base64.b64encode(picture).decode(),
        }


def _add_cases(app: FastAPI, service: Service, cases: SimilarCases) -> None:
    @app.post("/api/similar", summary="Training cases that look alike", openapi_extra=FILE_BODY, responses=REFUSALS)
    async def similar(request: Request, frame: FrameParameter = 0, roi: RoiParameter = None) -> dict[str, Any]:
        region = service.region(roi)

        def find(opened: Prepared) -> list[dict[str, Any]]:
            assert opened.square is not None
            assert opened.box is not None
            features = service.diagnosis.features(opened.square[None], np.array([opened.box]))[0]
            return [
                {**cases.describe(row, likeness), "png": base64.b64encode(png_bytes(cases.picture(row))).decode()}
                for row, likeness in cases.nearest(features)
            ]

        async with service.admitted():
            found = await service.answer(request, find, roi=region, frame=frame)
        return {"cases": found}


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    request.state.kind = error.kind
    headers = {} if error.retry_s is None else {"Retry-After": str(error.retry_s)}
    return JSONResponse(error.to_json(request=request.state.request), status_code=error.status, headers=headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{entry['loc'][-1]}: {entry['msg']}" for entry in error.errors()[:5])
    return await _refused(request, Refusal.wrong(told[:400]))


async def _not_here(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    words = {404: "There is nothing here.", 405: "This address is not asked that way."}
    return await _refused(request, Refusal(error.status_code, "request", words.get(error.status_code, "Refused.")))


async def _broken(request: Request, error: Exception) -> JSONResponse:
    refusal = Refusal.broken()  # the guard logs what it was
    return JSONResponse(refusal.to_json(request=request.state.request), status_code=refusal.status)
