"""What every answer carries, and what is counted and logged of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

log = logging.getLogger("medclf.serve")

_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_DRAIN_SECONDS = 1.0
_CLIENT_LEFT = 499
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@\s]+)(?::\d{0,5})?", re.IGNORECASE)  # RFC 9110 7.2, RFC 3986 3.2.2


class Meters:
    """The service's Prometheus metrics, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("medclf_requests", "Answers by route and status", ["route", "status"], **made)
        self.seconds = Histogram("medclf_request_seconds", "From header to answer", ["route"], **made)
        self.decode_seconds = Histogram("medclf_decode_seconds", "Waiting for a decoder, and decoding", **made)
        self.predict_seconds = Histogram("medclf_predict_seconds", "Waiting for the model, and predicting", **made)
        self.batch_size = Histogram("medclf_batch_size", "Images in a batch", buckets=(1, 2, 4, 8, 16, 32), **made)
        self.labels = Counter("medclf_predictions", "Predictions by label", ["label"], **made)
        self.flags = Counter("medclf_flags", "Predictions that carry a flag", ["flag"], **made)
        self.waiting = Gauge("medclf_waiting_uploads", "Uploads that wait for an answer", **made)
        self.lost_sketches = Counter("medclf_lost_sketches", "Sketches that could not be written", **made)
        self.restarts = Gauge("medclf_decoder_restarts", "Decoding processes replaced so far", **made)


class Observed:
    """The outermost layer: names the hosts that may ask, adds headers, counts, logs, and closes gently.

    Args:
        app: the application.
        meters: where the answers are counted.
        hosts: host names that requests may carry; empty for any. Without a token this keeps web pages that
            point their own name at this machine from reading answers.
    """

    def __init__(self, app: App, meters: Meters, hosts: Collection[str] = ()) -> None:
        self._app, self._meters, self._hosts = app, meters, frozenset(hosts)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        scope = _absolute(scope)
        exchange = _Exchange(scope, receive, send)
        method = scope["method"]
        if method == "HEAD":  # answered as GET; the server below leaves the content out
            scope = {**scope, "method": "GET"}
        status = 500  # what the framework answers for an exception
        try:
            if self._hosts and exchange.host not in self._hosts:
                await _refuse_host(exchange, self._hosts)
            else:
                await self._app(scope, exchange.receive, exchange.send)
            status = exchange.status or _CLIENT_LEFT
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._meters.requests.labels(route, status).inc()
            seconds = (exchange.ended or time.monotonic()) - exchange.started
            self._meters.seconds.labels(route).observe(seconds)
            milliseconds, received = 1000 * seconds, exchange.received
            shown = method if method in _METHODS else "OTHER"
            log.info("%s %s %d %.0f ms %d bytes", shown, route, status, milliseconds, received)


class _Exchange:
    """One request and its answer, watched from outside."""

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.started, self.ended = time.monotonic(), 0.0
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.host = _host_name(headers.get("host", ""))
        self._body_left = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self.status, self.received = 0, 0

    async def receive(self) -> Message:
        message = await self._receive()
        self.received += len(message.get("body", b""))
        self._body_left = self._body_left and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            extra = {**_SECURITY_HEADERS, **({"Connection": "close"} if self._body_left else {})}
            own = {name.lower() for name, _ in message["headers"]}
            encoded = [(name.lower().encode(), value.encode()) for name, value in extra.items()]
            message["headers"] = [*message["headers"], *(pair for pair in encoded if pair[0] not in own)]
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last:
            self.ended = time.monotonic()
        if last and self._body_left:  # closing on a client that still sends would lose it the answer
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _drain(self) -> None:
        async def drain() -> None:
            while self._body_left:
                await self.receive()

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(drain(), _DRAIN_SECONDS)


def _absolute(scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A request for http://HOST/PATH, as proxies send it, is one for /PATH at that HOST: RFC 9112 3.2.2."""
    found = re.match(r"https?://([^/?#]*)(.*)", scope["path"], re.IGNORECASE | re.DOTALL)
    if not found:
        return scope
    headers = [pair for pair in scope["headers"] if pair[0] != b"host"]
    path = found[2] or "/"
    host = (b"host", found[1].encode("latin-1", "replace"))
    return {**scope, "path": path, "raw_path": path.encode(), "headers": [host, *headers]}


def _host_name(header: str) -> str:
    """The name of a Host header, without the port: "[::1]:80" -> "[::1]"; "" where it is none."""
    found = _HOST.fullmatch(header)
    return found[1].lower() if found else ""


async def _refuse_host(exchange: _Exchange, hosts: Collection[str]) -> None:
    names = ", ".join(sorted(hosts))
    remedy = f"ask it as one of: {names}; or start it with a token"
    body = json.dumps({"error": "this service does not answer to that host name", "remedy": remedy}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await exchange.send({"type": "http.response.start", "status": 421, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": body})
