"""Taking uploads in: their size, their pace and their number are bounded, and every refusal says why."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from medclf.errors import MedclfError, argument
from medclf.files import is_number


class Refused(MedclfError):
    """A request that the service turns away; `status` is the HTTP status of the answer."""

    def __init__(self, status: int, message: str, remedy: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(message, remedy)
        self.status, self.retry_after = status, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """What the answer's head says beside the status."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


@dataclass(frozen=True)
class Limits:
    """What one client, and all together, may ask of the service.

    Args:
        max_bytes: of one upload.
        max_megapixels: rows x columns x samples that an upload may declare, in millions; of a volume, all its voxels.
        max_queue: uploads that wait for an answer at once; more are answered 429.
        max_held_bytes: of all uploads in memory at once; more are answered 429.
        decode_seconds: decoding one upload may cost this much processor time, thrice as much by the clock.
        decode_memory_mb: and this much memory, in MiB.
        read_seconds: a client may pause this long within an upload.
        min_rate: bytes a second that an upload must keep up within any `read_seconds`.
        upload_seconds: an upload may take this long in all.
        answer_seconds: an upload that waits longer than this for its answer gets 503.
    """

    max_bytes: int = 64 * 2**20
    max_megapixels: float = 150.0
    max_queue: int = 128
    max_held_bytes: int = 512 * 2**20
    decode_seconds: float = 10.0
    decode_memory_mb: int = 2048
    read_seconds: float = 10.0
    min_rate: float = 16 * 2**10
    upload_seconds: float = 300.0
    answer_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():  # beyond NaN and infinity nothing is too large, or too slow
            if not (is_number(value) and value > 0):
                raise MedclfError(f"{argument(name)} must be a number above 0, not {value!r}", "see docs/serving.md")


class Gate:
    """Counts the uploads that wait and the bytes they hold, and turns away what would be too much."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.waiting = 0
        self.held_bytes = 0

    def check(self) -> None:
        """Refuse at once where the queue is full, before a body is read.

        Raises:
            Refused: 429.
        """
        if self.waiting >= self._limits.max_queue:
            raise Refused(429, "too many uploads wait already", "try again in a moment", retry_after=1)

    @contextlib.contextmanager
    def queued(self) -> Iterator[None]:
        """Count one upload that waits for its answer.

        Raises:
            Refused: 429 where the queue is full.
        """
        self.check()
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    @contextlib.asynccontextmanager
    async def body(self, chunks: AsyncIterator[bytes], declared: int | None) -> AsyncIterator[bytearray]:
        """Read a body, at most so large and at least so fast, and count its bytes while it is held.

        Args:
            chunks: the body as it comes.
            declared: its Content-Length, where there is one.

        Raises:
            Refused: 413 (too large), 408 (too slow), 429 (too much is held already), 400 (empty).
        """
        if declared is not None and declared > self._limits.max_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async for chunk in self._paced(chunks):
                self.held_bytes += len(chunk)
                body += chunk
                if len(body) > self._limits.max_bytes:
                    raise self._too_large()
                if self.held_bytes > self._limits.max_held_bytes:
                    raise Refused(429, "too many bytes wait already", "try again in a moment", retry_after=2)
            if not body:
                raise Refused(400, "the request has no body", "send the file itself as the body")
            yield body
        finally:
            self.held_bytes -= len(body)

    async def _paced(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        pace = _Pace(self._limits)
        while True:
            try:
                chunk = await asyncio.wait_for(anext(chunks), pace.deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise Refused(408, "the upload is too slow", "send it over a faster connection") from None
            except StopAsyncIteration:
                return
            pace.received(len(chunk))
            yield chunk

    def _too_large(self) -> Refused:
        limit = f"{self._limits.max_bytes / 2**20:g} MiB"
        return Refused(
            413, f"the upload is larger than {limit}", "send one image, or start the service with a larger --max-mb"
        )


class _Pace:
    """Until when an upload must send more: what came fast earlier is no credit for trickling later."""

    def __init__(self, limits: Limits) -> None:
        self._window, self._least = limits.read_seconds, limits.min_rate * limits.read_seconds
        now = time.monotonic()
        self._end, self._total = now + limits.upload_seconds, 0
        self._arrived = collections.deque([(now, 0)])  # when, and how many bytes there were then

    def received(self, n: int) -> None:
        self._total += n
        self._arrived.append((time.monotonic(), self._total))

    @property
    def deadline(self) -> float:
        """When the window will hold too few bytes if none come."""
        while self._arrived[0][1] <= self._total - self._least:
            self._arrived.popleft()
        return min(self._arrived[0][0] + self._window, self._end)
