"""HTTP connections that wait for nobody for ever, and a log that names no file and quotes no header."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import logging
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
READ_ANSWER_SECONDS = 30.0
_HEADERS = [(b"content-type", b"application/json"), (b"cache-control", b"no-store"), (b"connection", b"close")]
MAX_CONNECTIONS = 512  # below the 1024 files that a process may usually open
_ROOM = 64  # of these, kept free of connections that wait for nothing
_NEW_SECONDS = 0.1  # a connection that has not asked yet may be about to


class ImpatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, with a deadline for the peer's header and for reading the answer.

    uvicorn alone keeps a connection that sends half a header, or that never reads its answer, until the
    peer goes away; it counts idle connections like work in hand, and refuses in plain text.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection: its first header is awaited."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        if self._make_room() > MAX_CONNECTIONS:
            self.app = _too_busy
        self._header = _Deadline(self.loop, HEADER_SECONDS, transport.abort)
        self._reading = _Deadline(self.loop, READ_ANSWER_SECONDS, transport.abort)
        self._header.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and so are its deadlines."""
        self._header.stop()
        self._reading.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came: either they complete a header, or the rest of it is awaited."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._header.stop()
        else:
            self._header.start()

    def on_response_complete(self) -> None:
        """The answer is written; a peer that does not read it must not hold a closing connection."""
        super().on_response_complete()
        self._idle_since = self.loop.time()
        if self.transport.is_closing():
            self._reading.start()

    def eof_received(self) -> None:
        """The peer sends no more: in the middle of a body, it is told so, as it may still read."""
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_started:
            self.cycle.disconnected = True  # what the application answers goes nowhere
            self._refuse("the upload broke off", "send it again")

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is refused as everything is."""
        self._refuse("the request is not valid HTTP", "see /docs")

    def _refuse(self, error: str, remedy: str) -> None:
        body = _problem(error, remedy)
        headers = [*_HEADERS, (b"content-length", str(len(body)).encode())]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            with contextlib.suppress(h11.LocalProtocolError):  # an answer was under way
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _make_room(self) -> int:
        """Close the connections that have been idle longest, so that there is always room for one that asks.

        Returns:
            How many stay open.
        """
        peers = [one for one in self.connections if isinstance(one, ImpatientProtocol)]
        kept = [one for one in peers if not one.transport.is_closing()]
        surplus = len(kept) - (MAX_CONNECTIONS - _ROOM)
        if surplus <= 0:
            return len(kept)
        others = [one for one in kept if one is not self and one.is_idle]
        closed = heapq.nsmallest(surplus, others, key=lambda one: one._idle_since)
        for one in closed:
            one.shutdown()
        return len(kept) - len(closed)

    @property
    def is_idle(self) -> bool:
        """Whether nothing was asked that is not answered, nor is about to be."""
        if self.cycle is None:
            return bool(self.loop.time() - self._idle_since > _NEW_SECONDS)
        return bool(self.cycle.response_complete)

    def timeout_keep_alive_handler(self) -> None:
        """An idle connection is closed, even where its last answer was never read."""
        super().timeout_keep_alive_handler()
        self._reading.start()

    def pause_writing(self) -> None:
        """The peer reads more slowly than it is answered."""
        super().pause_writing()
        self._reading.start()

    def resume_writing(self) -> None:
        """It read on."""
        super().resume_writing()
        self._reading.stop()


def _problem(error: str, remedy: str) -> bytes:
    return json.dumps({"error": error, "remedy": remedy}).encode()


async def _too_busy(scope: Any, receive: Any, send: Any) -> None:
    """The application of a connection that is one too many."""
    body = _problem("too many connections are open", "try again in a moment")
    headers = [*_HEADERS, (b"retry-after", b"1"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Deadline:
    """Calls `action` so many seconds after the first `start`, unless stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, action: Callable[[], None]) -> None:
        self._loop, self._seconds, self._action = loop, seconds, action
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._handle is None:  # a peer that sends a byte now and then gets no new deadline
            self._handle = self._loop.call_later(self._seconds, self._action)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class DiscreetFormatter(logging.Formatter):
    """Logs where an exception came from and its kind, but not its message: that may quote the file."""

    def formatException(self, ei: Any) -> str:
        """The stack and the exception's class."""
        kind: type[BaseException] = ei[0]
        frames: TracebackType | None = ei[2]
        return "".join(traceback.format_tb(frames)) + kind.__name__


def log_config(level: str) -> dict[str, Any]:
    """What uvicorn and the service log, to stderr: no client address, no file name, no header."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "discreet": {"()": DiscreetFormatter, "fmt": "%(asctime)s %(levelname)s %(message)s"},
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "discreet",
                "stream": "ext://sys.stderr",
            },
        },
        "loggers": {
            "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
            "medclf.serve": {"handlers": ["stderr"], "level": level.upper(), "propagate": False},
        },
    }
