"""The service's HTTP interface: what is asked, what is answered, and the pages."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from medclf.errors import DataError, MedclfError, MissingDecoder, ReadError, TooLarge, UnsupportedFormat, did_you_mean
from medclf.images.heatmap import coloured, png_uri
from medclf.results.wording import counted_as
from medclf.serving.limits import Refused
from medclf.serving.service import Answer, Prediction, Service, UnitAnswer

TYPES = (
    *("image/png", "image/jpeg", "image/tiff", "image/bmp", "image/webp", "application/dicom"),
    "application/octet-stream",  # of NIfTI, and of any of the others
)
_PACKED = ("application/gzip", "application/x-gzip")  # what browsers call a .nii.gz
ZIP = "application/zip"
_ZIPS = (ZIP, "application/x-zip-compressed", "application/octet-stream")  # as Windows and simple clients call it
PARAMETERS = ("field", "preview", "saliency", "sketch")
_OF_THE_MODEL = ("frame", "label", "operating_point", "positive", "resize", "size", "threshold", "unit", "window")
_DIGITS = 30  # of a Content-Length; with as many it is too large in any case
_SEND = "send the file itself as the body, with Content-Type one of: " + ", ".join(TYPES)
_STATUS: tuple[tuple[type[MedclfError], int], ...] = (
    (TooLarge, 413),
    (UnsupportedFormat, 415),
    (MissingDecoder, 415),
    (ReadError, 422),
)


FieldValues = Annotated[Sequence[str], Query(max_length=200, description="NAME=VALUE, such as age=60; repeatable")]


class Problem(BaseModel):
    """Why there is no answer, and what to do about it."""

    error: str
    remedy: str


class Model(BaseModel):
    """Which model answered."""

    name: str
    hash: str = Field(description="of the bundle's weights and settings")


class Located(BaseModel):
    """A box that a detector found."""

    label: str
    prob: float = Field(description="in [0, 1]")
    x_min: float = Field(description="in pixels of the file, as all four")
    y_min: float
    x_max: float
    y_max: float


class _Answer(BaseModel):
    label: str | list[str] = Field(description="the chosen name; of a multi-label model, all that are present")
    probs: dict[str, float] = Field(description="by label, each in [0, 1]")
    flags: list[str] = Field(description='"unsure", "not like the training images", or none')
    model: Model


class Predicted(_Answer):
    """The answer for one image."""

    boxes: list[Located] | None = Field(None, description="of a detector: the boxes from its threshold on")
    preview: str | None = Field(None, description="what the model saw, as a data: URL of a PNG; where asked for")
    saliency: str | None = Field(None, description="where it looked, likewise; where asked for and offered")
    saliency_problem: str | None = Field(None, description="why it is not shown where it looked, though asked for")
    note: str | None = Field(None, description="which frame of a file of several was looked at")
    sketch: str | None = Field(None, description="the id under which `medclf watch` speaks of this image; where kept")


class PredictedUnit(_Answer):
    """The answer for the images of one patient, study or series."""

    images: dict[str, float] = Field(description="by name in the zip file: what each image contributed, in [0, 1]")
    decided_by: str = Field(description="the image that contributed most")
    problems: dict[str, str] = Field(description="images that could not be read, and why")
    notes: dict[str, str] = Field(description="files of several frames, and which one was looked at")
    note: str | None = Field(None, description="that the files name several patients, studies or series, where they do")


_REASONS = {
    400: "the body is empty or broke off",
    401: "the token is missing or wrong",
    408: "the upload is too slow",
    413: "too many bytes, or pixels declared",
    415: "not a PNG, JPEG, TIFF, BMP, WebP, DICOM or NIfTI file, or one that needs a decoder which this service lacks",
    422: "the file is broken, or costs too much to decode",
    429: "too much waits already; Retry-After says for how many seconds",
    503: "not ready, or too busy; Retry-After says for how many seconds",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": _REASONS[status]} for status in statuses}


def _body(*kinds: str) -> dict[str, Any]:
    """That a route takes a file of one of these kinds, for the interface's description."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    return {"requestBody": {"required": True, "content": content}}


def _kind(request: Request) -> str:
    packed = request.headers.get("content-encoding", "identity").strip().lower()
    if packed not in ("", "identity"):
        raise Refused(415, f"the body is packed (Content-Encoding: {packed[:40]})", "send the file as it is")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _said(found: Prediction) -> dict[str, Any]:
    label = found.label if isinstance(found.label, str) else list(found.label)
    return {"label": label, "probs": dict(found.probs), "flags": list(found.flags)}


def api(service: Service, token: str | None, trained: str = "") -> APIRouter:
    """The routes under /v1 and /metrics, which ask for the token where there is one."""
    router = APIRouter(dependencies=[Depends(_guard(token))] if token else [])
    model = Model(name=service.bundle.name, hash=service.bundle.hash)

    @router.post(
        "/v1/predict",
        response_description="the answer",
        response_model_exclude_none=True,
        responses=_problems(400, 401, 408, 413, 415, 422, 429, 503),
        openapi_extra=_body(*TYPES),
    )
    async def predict(
        request: Request, preview: bool = False, saliency: bool = False, field: FieldValues = (), sketch: bool = True
    ) -> Predicted:
        """Classify one image: the body is the PNG, JPEG, TIFF, BMP, WebP, DICOM or NIfTI file itself.

        What is known of the image besides, where the model takes fields (see /v1/model), comes as `field=NAME=VALUE`;
        what is left out, or `unknown`, is unknown. Of an image to try the service with, `sketch=false` keeps no sketch.
        """
        _check_query(request, service.fields)
        kind = _kind(request)
        if not kind.startswith("image/") and kind not in (*TYPES, *_PACKED):  # its first bytes tell which one it is
            raise Refused(415, "the Content-Type is not that of an image", _SEND)
        gone, fields = partial(_gone, request), _fields(field)
        try:
            asked: dict[str, Any] = {"saliency": saliency, "fields": fields, "keep": sketch}
            answer = await service.answer(request.stream(), _declared(request), gone, **asked)
        except DataError as error:
            raise Refused(422, error.message, error.remedy) from error
        return await _predicted(answer, model, preview)

    @router.post(
        "/v1/predict_unit",
        response_description="the answer",
        response_model_exclude_none=True,
        responses=_problems(400, 401, 408, 413, 415, 422, 429, 503),
        openapi_extra=_body(ZIP),
    )
    async def predict_unit(request: Request) -> PredictedUnit:
        """Classify a patient, study or series: the body is a zip file of its images. Of a model trained with a unit."""
        if _kind(request) not in _ZIPS:
            raise Refused(415, "the Content-Type is not that of a zip file", f"send it with Content-Type {ZIP}")
        if getattr(service.bundle, "unit_rule", None) is None:
            raise Refused(422, "this model answers each image alone", "send images to /v1/predict")
        if asked := next((name for name in (*PARAMETERS, *_OF_THE_MODEL) if name in request.query_params), None):
            raise Refused(422, f"there is no query parameter {asked!r} for a unit", "leave it out")
        try:
            found = await service.answer_unit(request.stream(), _declared(request), partial(_gone, request))
        except DataError as error:
            raise Refused(422, error.message, error.remedy or "see /docs") from error
        return _predicted_unit(found, model)

    @router.get("/v1/model", response_description="the description", responses=_problems(401))
    async def describe() -> dict[str, Any]:
        """The model's name, hash, labels and card, of what it was made to answer for, and what an upload may be."""
        return _described(service, trained)

    @router.get("/metrics", response_class=Response, responses=_problems(401))
    async def metrics() -> Response:
        """What was asked and answered, for Prometheus."""
        return Response(generate_latest(service.meters.registry), media_type=CONTENT_TYPE_LATEST)

    return router


async def _predicted(answer: Answer, model: Model, preview: bool) -> Predicted:
    return Predicted(
        **_said(answer.prediction),
        model=model,
        boxes=_boxes(answer.prediction),
        preview=await asyncio.to_thread(png_uri, answer.pixels) if preview else None,
        saliency=None if answer.heat is None else await asyncio.to_thread(png_uri, coloured(answer.heat)),
        saliency_problem=answer.no_heat,
        note=answer.note,
        sketch=answer.sketch,
    )


def _predicted_unit(found: UnitAnswer, model: Model) -> PredictedUnit:
    answer, names = found.prediction.answer, found.names
    counted = zip(names, found.prediction.contributions, strict=True)
    return PredictedUnit(
        **_said(answer),
        model=model,
        images={name: value for name, value in counted if value is not None},
        decided_by=names[found.prediction.decided_by],
        problems={names[place]: reason for place, reason in found.prediction.problems.items()},
        notes=found.notes,
        note=found.note,
    )


def _described(service: Service, trained: str) -> dict[str, Any]:
    bundle, rule = service.bundle, getattr(service.bundle, "unit_rule", None)
    return {
        "name": bundle.name,
        "hash": bundle.hash,
        "vocab": list(bundle.vocab),
        "card": bundle.card,
        "trained": trained,
        "accepts": TYPES,
        "max_bytes": service.limits.max_bytes,
        "saliency": service.saliency is not None,
        "fields": list(service.fields),
        "threshold": getattr(bundle, "threshold", None),  # of a detector's boxes
        "unit": None if rule is None else counted_as(rule.unit, 1),
    }


def _boxes(prediction: Any) -> list[Located] | None:
    shown = getattr(prediction, "shown", None)
    return None if shown is None else [Located(**asdict(box)) for box in shown]


def health(service: Service) -> APIRouter:
    """The probes of a load balancer, open to all."""
    router = APIRouter()

    @router.get("/healthz", response_description="it does")
    async def healthz() -> dict[str, str]:
        """Health check: OK."""
        return {"status": "ok"}

    @router.get("/readyz", response_description="it does", responses=_problems(503))
    async def readyz() -> dict[str, str]:
        """It answers uploads."""
        if not service.ready:
            raise Refused(503, "the service is starting, stopping or has no decoder", "try again", retry_after=1)
        return {"status": "ready"}

    return router


def pages(app: FastAPI) -> APIRouter:
    """The page that people use and the one that describes the interface; both hold nothing of the model."""
    router = APIRouter(include_in_schema=False)
    for path, name, media_type in (
        ("/", "service.html", "text/html"),
        ("/service.css", "service.css", "text/css"),
        ("/service.js", "service.js", "text/javascript"),
        ("/answer.js", "answer.js", "text/javascript"),
    ):
        router.add_api_route(path, _static(_template(name), media_type), methods=["GET"])

    @router.get("/docs")
    async def docs() -> HTMLResponse:
        import jinja2

        template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(_template("interface.html"))
        return HTMLResponse(template.render(spec=app.openapi()))

    return router


def add_error_handlers(app: FastAPI) -> None:
    """Every refusal and failure as `{"error", "remedy"}`."""

    @app.exception_handler(MedclfError)
    async def known(request: Request, error: MedclfError) -> Response:
        if isinstance(error, Refused):
            return _problem(error.status, error.message, error.remedy, error.headers)
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        text = error.reason if isinstance(error, ReadError) else error.message
        return _problem(status, text, error.remedy or "send another copy of the file, or save it again as PNG")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return _problem(error.status_code, str(error.detail), "see /docs", error.headers)

    @app.exception_handler(RequestValidationError)
    async def parameters(request: Request, error: RequestValidationError) -> Response:
        names = ", ".join(str(problem["loc"][-1]) for problem in error.errors())
        return _problem(422, f"a query parameter is wrong: {names}", "see /docs")

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return _problem(400, "the upload broke off", "send it again")

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        closing = {"Connection": "close"}  # the exception goes on to the server, which closes
        return _problem(500, "the service failed", "its log says where", closing)


def _check_query(request: Request, fields: Sequence[Mapping[str, Any]]) -> None:
    """A misspelt parameter that is passed over, or one of two values, gives the answer to another question."""
    for name in set(PARAMETERS) - {"field"}:
        if len(set(request.query_params.getlist(name))) > 1:
            raise Refused(422, f"{name} is given twice, with different values", "give it once")
    for name in set(request.query_params) - set(PARAMETERS):
        remedy = did_you_mean(name, PARAMETERS)
        if name in _OF_THE_MODEL:
            remedy = "leave it out: the model reads and decides as it was trained to"
        if any(name == field["name"] for field in fields):
            remedy = f"give it as field={name}=VALUE"
        if remedy:
            raise Refused(422, f"there is no query parameter {name[:80]!r}", remedy)


def _fields(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name or len(text) > 500:
            raise Refused(422, f"field must be NAME=VALUE, not {text[:80]!r}", "for example field=age=60")
        if found.setdefault(name, value) != value:
            raise Refused(422, f"field gives {name!r} twice, with different values", "give it once")
    return found


def _declared(request: Request) -> int | None:
    """The bytes that the body is said to have; None where nothing is said."""
    length = request.headers.get("content-length", "")
    return int(length[:_DIGITS]) if length.isascii() and length.isdecimal() else None


async def _gone(request: Request) -> None:
    """Return once the client has hung up; only after its body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _problem(status: int, error: str, remedy: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": error, "remedy": remedy}, status, headers)


def _guard(token: str) -> Callable[..., Any]:
    wanted = hashlib.sha256(token.encode()).digest()
    Given = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]

    async def guard(given: Given) -> None:
        digest = hashlib.sha256((given.credentials if given else "").encode()).digest()
        if not hmac.compare_digest(digest, wanted):  # digests: neither length nor content shows in the time
            raise Refused(401, "the token is missing or wrong", "send the header 'Authorization: Bearer TOKEN'")

    guard.__annotations__["given"] = Given  # not a string: it names what only this call knows
    return guard


def _template(name: str) -> str:
    return (resources.files("medclf.serving") / "templates" / name).read_text(encoding="utf-8")


def _static(text: str, media_type: str) -> Callable[[], Any]:
    async def static() -> Response:
        return Response(text, media_type=media_type)

    return static
