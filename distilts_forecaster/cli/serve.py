"""``distilts serve``: a student behind HTTP, on FastAPI and uvicorn (extra ``serve``).

``POST /predict`` forecasts, ``GET /health`` says that the service is up and what it expects,
``GET /docs`` shows both. Every size is bounded before anything is computed; what is refused gets
an answer of status 4xx that says why.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Union

import numpy as np

from distilts_forecaster.runtime import Forecaster, load_student
from distilts_forecaster.runtime.checks import LARGEST, extra_for

with extra_for("distilts serve", "serve"):
    import uvicorn
    from anyio import CapacityLimiter, to_thread
    from fastapi import FastAPI, HTTPException, Request, Response
    from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, create_model
    from pydantic import ValidationError as InvalidRequest

__all__ = ["Limits", "create_app", "serve"]

#: Bytes of a request that are parsed at once; for longer ones others need not wait.
_SMALL_BODY = 64 * 1024

#: Windows times steps that are forecast at once, likewise; with sample paths, a thousand times.
_SMALL_FORECAST = 100_000

#: Problems of a request that are told.
_MOST_TOLD = 3

_COVARIATES = ("past_covariates", "future_covariates", "static_covariates")
_EXAMPLE = {"context": [[1.0, 2.0, None, 4.0]], "horizon": 2}


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes
    ----------
    body_bytes : int
        Size of a request.
    windows : int
        Contexts in one request.
    horizon : int
        Steps.
    seconds : float
        Time for a request to arrive.
    connections : int
        Open at once; more get status 503.
    """

    body_bytes: int = 2**20
    windows: int = 1024
    horizon: int = 1000
    seconds: float = 10.0
    connections: int = 256


def create_app(student: Forecaster, limits: Limits | None = None) -> FastAPI:
    """Return the application that serves a student.

    Parameters
    ----------
    student : Forecaster
    limits : Limits, optional

    Returns
    -------
    fastapi.FastAPI

    Examples
    --------
    >>> from distilts_forecaster.runtime import LinearForecaster
    >>> app = create_app(LinearForecaster(np.full((1, 4, 2), 0.25, np.float32)))
    >>> sorted(path for path in app.openapi()["paths"])
    ['/health', '/predict']
    """
    limits = limits or Limits()
    asked_of, answer_of = _request_model(student, limits), _answer_model()
    app = FastAPI(title="distilts", description="Forecasts of a distilled student.")
    facts = {
        "status": "ok",
        "input_chunk_length": student.input_chunk_length,
        "output_chunk_length": student.output_chunk_length,
        "n_components": student.n_components,
        "n_covariates": list(student.n_covariates),
        "quantile_levels": None
        if student.error_quantiles is None
        else list(student.error_quantiles.levels),
        "largest_horizon": limits.horizon,
        "most_windows": limits.windows,
    }
    workers = CapacityLimiter(max(1, os.cpu_count() or 1))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Say that the service is up, and what requests it expects."""
        return facts

    async def predict(request: Request) -> Response:
        """Forecast what follows one context or several."""
        body = await _read(request, limits)
        run = partial(_answer, student, asked_of, body)
        if len(body) <= _SMALL_BODY:
            asked = _parse(asked_of, body)
            if _work(student, asked) <= _SMALL_FORECAST:
                return _answer_to(student, asked)
            run = partial(_answer_to, student, asked)
        return await to_thread.run_sync(run, limiter=workers)

    schema = {"schema": asked_of.model_json_schema(), "example": _EXAMPLE}
    app.post(
        "/predict",
        responses={200: {"model": answer_of}, 413: {}, 422: {}},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": schema}}},
    )(predict)
    return app


def _request_model(student: Forecaster, limits: Limits) -> type[BaseModel]:
    """Return what a request for a student may hold."""
    number = Annotated[float, Field(strict=True, ge=-LARGEST, le=LARGEST)]

    def listed(item: Any, most: int) -> Any:
        # The first fault of a list ends it: a million of them would be a gigabyte of messages.
        return Annotated[list[item], Field(min_length=1, max_length=most, fail_fast=True)]

    def nested(item: Any, ending: Any = None) -> Any:
        wide = listed(item, limits.body_bytes)
        by_depth = {"2": listed(wide, limits.body_bytes)}
        by_depth["3"] = listed(by_depth["2"], limits.windows)
        if ending is not None:
            by_depth["1"] = ending
        tagged = tuple(Annotated[kind, Tag(depth)] for depth, kind in by_depth.items())
        chosen = Discriminator(
            _depth,
            custom_error_type="nesting",
            custom_error_message=f"must be numbers in {' or '.join(sorted(by_depth))} nested lists",
        )
        return Annotated[Union[tagged], chosen]  # noqa: UP007

    values = nested(number | None, listed(number | None, limits.body_bytes))
    shape = "one context (steps), (steps, components) or several (windows, steps, components)"
    fields: dict[str, Any] = {
        "context": (values, Field(description=f"{shape}; null is missing.")),
        "horizon": (
            Annotated[int, Field(strict=True, ge=1, le=limits.horizon)] | None,
            Field(None, description=f"Steps; by default {student.output_chunk_length}."),
        ),
    }
    if student.error_quantiles is not None:
        level = Annotated[float, Field(strict=True, gt=0, lt=1)]
        fields["quantile_levels"] = (
            listed(level, 99) | None,
            Field(None, description="Increasing, between 0 and 1."),
        )
    for name, count in zip(_COVARIATES, student.n_covariates, strict=True):
        if count:
            steps = "components" if name.startswith("static") else "steps"
            told = f"({steps}, {count}), or (windows, {steps}, {count})."
            fields[name] = (nested(number), Field(description=told))
    return create_model("PredictRequest", __config__=ConfigDict(extra="forbid"), **fields)


def _depth(value: Any) -> str:
    """Return how many lists are around the first number, at most 4."""
    depth = 0
    while isinstance(value, list) and depth < 4:
        depth += 1
        value = value[0] if value else None
    return str(depth)


def _answer_model() -> type[BaseModel]:
    """Return what an answer holds."""
    return create_model(
        "PredictAnswer",
        forecast=(
            list[Any],
            Field(description="Steps, as nested as the context; null where nothing is known."),
        ),
        quantiles=(
            list[Any] | None,
            Field(None, description="With one more axis, of the levels asked for."),
        ),
    )


async def _read(request: Request, limits: Limits) -> bytes:
    """Return the body of a request, unless it is too long or too slow."""
    # What is left of a request must not be taken for the next one.
    close = {"Connection": "close"}
    too_long = HTTPException(413, f"A request may have {limits.body_bytes} bytes.", close)
    told = request.headers.get("content-length", "0")
    if not told.isdecimal() or int(told) > limits.body_bytes:
        raise too_long
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.body_bytes:
                    raise too_long
                parts.append(part)
    except TimeoutError as error:
        told = f"No whole request in {limits.seconds:g} seconds."
        raise HTTPException(408, told, close) from error
    return b"".join(parts)


def _parse(model: type[BaseModel], body: bytes) -> Any:
    """Return a request that is what it must be, or raise one error that says what is wrong."""
    try:
        return model.model_validate_json(body)
    except InvalidRequest as error:
        told = []
        for one in error.errors(include_url=False, include_input=False, include_context=False):
            where = [str(part) for part in one["loc"][:1] + one["loc"][2:]]  # without the depth
            told.append(f"{'.'.join(where)}: {one['msg']}".removeprefix(": "))
        raise HTTPException(422, "; ".join(told[:_MOST_TOLD])[:1000]) from error


def _work(student: Forecaster, asked: Any) -> int:
    """Return about how many numbers must be forecast."""
    context = asked.context
    windows = len(context) if _depth(context) == "3" else 1
    horizon = asked.horizon or student.output_chunk_length
    paths = 1
    if getattr(asked, "quantile_levels", None) and horizon > student.output_chunk_length:
        paths = 1000
    return windows * horizon * paths


def _answer(student: Forecaster, model: type[BaseModel], body: bytes) -> Response:
    """Parse a request and answer it."""
    return _answer_to(student, _parse(model, body))


def _answer_to(student: Forecaster, asked: Any) -> Response:
    """Answer a request."""
    levels = getattr(asked, "quantile_levels", None)
    try:
        covariates = {
            name: _array(name, getattr(asked, name)) for name in _COVARIATES if hasattr(asked, name)
        }
        context = _array("context", asked.context)
        made = {"forecast": student.predict(context, asked.horizon, **covariates)}
        if levels:
            made["quantiles"] = student.predict_quantiles(
                context, asked.horizon, levels, **covariates
            )
    except (TypeError, ValueError) as error:
        raise HTTPException(422, str(error)[:1000]) from error
    content = {name: _listed(values) for name, values in made.items()}
    return Response(json.dumps(content, allow_nan=False), media_type="application/json")


def _array(name: str, nested: list[Any]) -> np.ndarray:
    """Return nested lists as an array; None is NaN."""
    try:
        return np.array(nested, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{name}: all lists at one depth must be of one length.") from error


def _listed(values: np.ndarray) -> list[Any]:
    """Return nested lists, with None for NaN: JSON has none."""
    unknown = np.isnan(values)
    if unknown.any():
        values = values.astype(object)
        values[unknown] = None
    return values.tolist()


def serve(args: argparse.Namespace) -> int:
    """Serve a student until the process is told to stop; requests under way are answered."""
    limits = Limits(
        args.max_bytes, args.max_windows, args.max_horizon, args.timeout, args.max_connections
    )
    student = load_student(args.student)
    if limits.horizon < student.output_chunk_length:
        raise ValueError(
            f"--max-horizon {limits.horizon}: the student forecasts "
            f"{student.output_chunk_length} steps at once."
        )
    config = uvicorn.Config(
        create_app(student, limits),
        http=_protocol(limits.seconds),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=10,
    )
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    with socket.create_server((args.host, args.port), family=family, backlog=2048) as listening:
        # Connections inherit it: otherwise each answer waits 40 ms for the client's receipt.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = listening.getsockname()[1]
        host = f"[{args.host}]" if family == socket.AF_INET6 else args.host
        print(f"Serving {args.student} at http://{host}:{port}, see /docs", file=sys.stderr)
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _protocol(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol that bounds the size of headers, with a bound on their time."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        """Close a connection whose headers do not arrive in time."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._check, None)

        def _check(self, before: Any) -> None:
            now = self.cycle
            waits = now is None or (now.response_complete and self.conn.trailing_data[0])
            if waits and now is before:
                self.transport.close()
            elif not self.transport.is_closing():
                self.loop.call_later(seconds, self._check, now)

    return Impatient
