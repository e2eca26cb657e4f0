"""The pool of processes that decode uploads: so many at a time, each file with a time and a memory limit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medclf.errors import MedclfError, MissingDecoder, ReadError, TooLarge, UnsupportedFormat
from medclf.serving.decoder_worker import ANSWER, MOST_PIXEL_BYTES, REQUEST
from medclf.serving.limits import Refused

# The parent's own module path, without the current folder: a file there must not stand in for a module.
_BOOT = "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); from {module} import main; main()"
_START_SECONDS = 120.0
_TRIES = 2
_ERRORS = {kind.__name__: kind for kind in (ReadError, UnsupportedFormat, TooLarge, MissingDecoder)}


class Decoded(NamedTuple):
    """A file's pixels (H, W, C), uint8, and what else its decoder says: frames, width, height and, of DICOM, some tags.

    Where each frame is an image, those of a file of several are (n, H, W, C).
    """

    pixels: np.ndarray
    facts: dict[str, Any]


class DecoderPool:
    """Decodes files in worker processes; one that is slow, dies or runs out of memory is replaced.

    Args:
        settings: `preprocessing` as its `as_dict` gives it, `max_megapixels` of a file, whether to `describe` each
            file, and the `unit` that answers are for.
        workers: processes, and so files decoded at once.
        seconds: a file may cost this much processor time, and three times as much by the clock: on a busy
            machine a sound file takes long, too.
        memory_mb: and this much memory, in MiB (on Linux, where it can be limited).
        module: where the worker's `main` is.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        workers: int = 1,
        seconds: float = 10.0,
        memory_mb: int = 2048,
        module: str = "medclf.serving.decoder_worker",
    ) -> None:
        limits = {"seconds": seconds, "memory_mb": memory_mb}
        self._command = [_BOOT.format(module=module), os.pathsep.join(map(os.path.abspath, sys.path))]
        self._command.append(json.dumps({"prepare": dict(settings), "limits": limits}))
        self._n_workers, self._patience = workers, 3 * seconds
        self._workers: set[_Worker] = set()
        self._replacing: set[asyncio.Task[None]] = set()
        self._decoding: set[asyncio.Task[Decoded]] = set()
        self.restarts = 0

    @property
    def alive(self) -> bool:
        """True while at least one worker can take files."""
        return any(not worker.ended for worker in self._workers)

    async def start(self) -> None:
        """Start all workers, maybe again after a `stop`, and wait until they have loaded their modules.

        Raises:
            MedclfError: a worker did not start.
        """
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        await asyncio.gather(*(self._add() for _ in range(self._n_workers)))

    async def decode(self, body: bytes | bytearray) -> Decoded:
        """The pixels (H, W, C), uint8, of one file, and what the worker says of it: width, height, tags.

        Raises:
            ReadError, UnsupportedFormat, TooLarge, MissingDecoder: as `prepare` does; also where the file
                took more time or memory than it may, or ended its worker.
            Refused: 503 where something else ended or stopped the worker, twice.
        """
        for _ in range(_TRIES):
            worker = await self._idle.get()
            while worker.ended:  # the system ended it between two files
                self._replace(worker)
                worker = await self._idle.get()
            work = asyncio.ensure_future(self._decode(worker, body))
            self._decoding.add(work)
            work.add_done_callback(self._done)
            try:
                return await asyncio.shield(work)  # who gives up costs no worker: it finishes the file it has
            except _Stopped:
                continue
        raise Refused(503, "the decoder was stopped from outside", "send it again", retry_after=5)

    async def _decode(self, worker: _Worker, body: bytes | bytearray) -> Decoded:
        try:
            return await asyncio.wait_for(worker.decode(body), self._patience)
        except asyncio.TimeoutError:
            if worker.suspended:
                raise _Stopped from None
            raise ReadError("upload", "decoding it takes too long") from None
        except (asyncio.IncompleteReadError, OSError, ValueError):
            if await worker.was_killed():
                raise _Stopped from None
            raise ReadError("upload", "the decoder fails on it, or needs more time or memory than allowed") from None
        finally:
            if worker.sound:
                self._idle.put_nowait(worker)
            else:  # its answer may still come, and would be taken for the next file's
                self._replace(worker)

    def _done(self, work: asyncio.Task[Decoded]) -> None:
        self._decoding.discard(work)
        if not work.cancelled():
            work.exception()  # of an upload that was given up, nobody asks for it

    async def stop(self) -> None:
        """End every worker."""
        tasks = [*self._replacing, *self._decoding]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in self._replacing:  # of workers whose file was just given up
            task.cancel()
        await asyncio.gather(*(worker.end() for worker in self._workers))
        self._workers.clear()

    async def _add(self) -> None:
        worker = await _Worker.start(self._command)
        self._workers.add(worker)
        self._idle.put_nowait(worker)

    def _replace(self, worker: _Worker) -> None:
        self.restarts += 1
        task = asyncio.get_running_loop().create_task(self._end_and_add(worker))
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    async def _end_and_add(self, worker: _Worker) -> None:
        await worker.end()
        self._workers.discard(worker)
        while True:
            try:
                return await self._add()
            except MedclfError:  # the machine is out of memory or processes: /readyz says so meanwhile
                await asyncio.sleep(5)


class _Stopped(Exception):
    """Something outside ended or stopped the worker."""


class _Worker:
    """One process, and whether its last answer came whole."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self.sound = True

    @classmethod
    async def start(cls, command: list[str]) -> _Worker:
        environment = {name: value for name, value in os.environ.items() if name != "MEDCLF_TOKEN"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # decoders warn there, quoting the file
            env={**environment, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        worker = cls(process)
        try:
            await asyncio.wait_for(worker._receive(), _START_SECONDS)
        except (asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
            await worker.end()
            raise MedclfError("the process that decodes images does not start", "is there memory left?") from error
        except asyncio.CancelledError:
            await worker.end()
            raise
        return worker

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    async def was_killed(self) -> bool:
        """Whether it ended by a signal that only others send: a file's own faults end it otherwise."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._process.wait(), 1)
        return self._process.returncode in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)

    @property
    def suspended(self) -> bool:
        """Whether the system says that it is stopped; only Linux says so."""
        try:
            status = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        return status.rpartition(")")[2].split()[0] in ("T", "t")

    async def decode(self, body: bytes | bytearray) -> Decoded:
        self.sound = False
        self._stdin.write(REQUEST.pack(len(body)))
        self._stdin.write(body)
        await self._stdin.drain()
        header, pixels = await self._receive()
        self.sound = True
        if "error" in header:
            kind = _ERRORS.get(header["error"], ReadError)
            raise kind("upload", str(header.get("reason")), str(header.get("remedy", "")))
        facts = header.get("facts")
        shaped = np.frombuffer(pixels, np.uint8).reshape(header["shape"])
        return Decoded(shaped, facts if isinstance(facts, dict) else {})

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._stdin.close()
        await self._stdout.read()  # to its end, which closes the pipe
        await self._process.wait()

    async def _receive(self) -> tuple[dict[str, Any], bytes]:
        n_header, n_pixels = ANSWER.unpack(await self._stdout.readexactly(ANSWER.size))
        if n_header > 2**16 or n_pixels > MOST_PIXEL_BYTES:
            raise ValueError("the decoder's answer is none")
        header = json.loads(await self._stdout.readexactly(n_header))
        if not isinstance(header, dict):
            raise ValueError("the decoder's answer is none")
        return header, await self._stdout.readexactly(n_pixels)
