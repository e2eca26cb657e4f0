"""The decoders: what one hostile file does to its process, the next file never notices."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medclf.errors import ReadError, TooLarge, UnsupportedFormat
from medclf.images.preprocessing import Preprocessing
from medclf.serving.decoder import DecoderPool
from medclf.serving.limits import Refused

# A worker whose "image" says what the decoder should do.
_WORKER = """
import json, os, sys, time
import numpy as np
from medclf.serving.decoder_worker import blank_image, serve_stdin
from medclf.errors import ReadError, TooLarge

def decode(body):
    word = bytes(body)
    if word == b"sleep": time.sleep(60)
    if word == b"nap": time.sleep(1)
    if word == b"spin":
        while True: pass
    if word == b"exit": os._exit(3)
    if word == b"crash": os.abort()
    if word == b"raise": raise RuntimeError("a bug")
    if word == b"hoard": return np.ones((2**15, 2**15, 1))
    if word == b"write":
        with open("loot", "wb") as file: file.write(b"x" * 100)
    if word == b"large": raise TooLarge("upload", "too many pixels", "make it smaller")
    print("noise on stdout", flush=True)
    os.write(1, b"more noise")
    return np.full((2, 3, 1), len(word), np.uint8)

def main():
    serve_stdin(decode, **json.loads(sys.argv[1])["limits"])
"""


@pytest.fixture
def pooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    (tmp_path / "scripted_worker.py").write_text(_WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(job: Callable[[DecoderPool], Awaitable[Any]], **options: Any) -> Any:
        async def with_pool() -> Any:
            pool = DecoderPool({}, module="scripted_worker", **options)
            await pool.start()
            try:
                return await job(pool)
            finally:
                await pool.stop()

        return asyncio.run(with_pool())

    return run


def test_pixels_come_back_whole_whatever_the_decoder_prints(pooled: Any) -> None:
    async def job(pool: DecoderPool) -> list[np.ndarray]:
        return [(await pool.decode(b"x" * n)).pixels for n in (1, 7, 200)]

    for pixels, length in zip(pooled(job), (1, 7, 200), strict=True):
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.full((2, 3, 1), length))


def test_an_error_of_the_decoder_keeps_its_kind_reason_and_remedy(pooled: Any) -> None:
    async def job(pool: DecoderPool) -> int:
        with pytest.raises(TooLarge) as caught:
            await pool.decode(b"large")
        assert (caught.value.reason, caught.value.remedy) == ("too many pixels", "make it smaller")
        return pool.restarts

    assert pooled(job) == 0


@pytest.mark.parametrize("word", [b"exit", b"crash", b"raise", b"hoard", b"write"])
def test_a_worker_that_ends_is_replaced_and_the_file_is_to_blame(pooled: Any, tmp_path: Path, word: bytes) -> None:
    async def job(pool: DecoderPool) -> int:
        with pytest.raises(ReadError, match="fails on it"):
            await pool.decode(word)
        assert (await pool.decode(b"four")).pixels[0, 0, 0] == 4
        return pool.restarts

    assert pooled(job, memory_mb=256) == 1
    loot = tmp_path / "loot"
    assert not loot.exists() or loot.stat().st_size == 0  # the kernel lets it write nothing


def test_a_slow_file_is_given_up_in_time_and_its_late_answer_reaches_no_one(pooled: Any) -> None:
    async def job(pool: DecoderPool) -> float:
        started = time.monotonic()
        slow, fast = await asyncio.gather(pool.decode(b"sleep"), pool.decode(b"four"), return_exceptions=True)
        assert isinstance(slow, ReadError) and "too long" in slow.reason
        assert fast.pixels[0, 0, 0] == 4
        return time.monotonic() - started

    assert pooled(job, seconds=0.5) < 20


@pytest.mark.skipif(not hasattr(signal, "SIGXCPU"), reason="the kernel's limits are POSIX's")
def test_the_kernel_ends_a_decoder_that_spins_when_nobody_watches(pooled: Any) -> None:
    async def job(pool: DecoderPool) -> int | None:
        (worker,) = pool._workers
        with pytest.raises(asyncio.IncompleteReadError):
            await asyncio.wait_for(worker.decode(b"spin"), 30)
        await worker.end()
        return worker._process.returncode

    assert pooled(job, seconds=0.1) in (-signal.SIGXCPU, 255)  # 255: asyncio was not the first to ask why it ended


def test_a_worker_killed_between_files_is_not_the_next_files_fault(pooled: Any) -> None:
    async def job(pool: DecoderPool) -> int:
        (worker,) = pool._workers
        worker._process.kill()
        await worker._process.wait()
        return int((await pool.decode(b"four")).pixels[0, 0, 0])

    assert pooled(job) == 4


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="the signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_whoever_stops_a_decoder_at_work_the_file_is_not_to_blame(pooled: Any, number: int) -> None:
    async def job(pool: DecoderPool) -> tuple[int, int]:
        (worker,) = pool._workers
        asking = asyncio.ensure_future(pool.decode(b"nap"))
        await asyncio.sleep(0.3)
        worker._process.send_signal(number)
        return int((await asking).pixels[0, 0, 0]), pool.restarts

    assert pooled(job, seconds=1.0) == (3, 1)


def test_a_decoder_that_is_killed_again_and_again_is_a_503(pooled: Any) -> None:
    async def job(pool: DecoderPool) -> Refused:
        async def kill() -> None:
            while True:
                await asyncio.sleep(0.3)
                for worker in tuple(pool._workers):
                    if not worker.sound and not worker.ended:
                        worker._process.kill()

        killer = asyncio.ensure_future(kill())
        with pytest.raises(Refused) as caught:
            await pool.decode(b"nap")
        killer.cancel()
        return caught.value

    refused = pooled(job)
    assert refused.status == 503 and refused.headers["Retry-After"]


def test_an_upload_that_is_given_up_costs_no_decoder(pooled: Any) -> None:
    async def job(pool: DecoderPool) -> tuple[int, int]:
        asking = asyncio.ensure_future(pool.decode(b"nap"))
        await asyncio.sleep(0.2)
        asking.cancel()
        return int((await pool.decode(b"four")).pixels[0, 0, 0]), pool.restarts

    assert pooled(job) == (4, 0)


def test_two_workers_decode_at_once_and_one_pool_serves_many(pooled: Any) -> None:
    async def job(pool: DecoderPool) -> list[int]:
        answers = await asyncio.gather(*(pool.decode(b"x" * n) for n in range(1, 41)))
        return [int(answer.pixels[0, 0, 0]) for answer in answers]

    assert pooled(job, workers=2) == list(range(1, 41))


def test_the_worker_knows_no_token_and_no_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Callable[..., bytes]
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('a planted module ran')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDCLF_TOKEN", "secret")

    async def environment() -> str:
        pool = DecoderPool(
            {"preprocessing": Preprocessing(64).as_dict(), "max_megapixels": 150.0, "describe": True}, memory_mb=512
        )
        await pool.start()
        (worker,) = pool._workers
        found = Path(f"/proc/{worker._process.pid}/environ").read_text()
        with pytest.raises(UnsupportedFormat):
            await pool.decode(b"not an image")
        for side in (64, 200):  # all that decoding and resizing load was loaded before memory was limited
            assert (await pool.decode(picture(204, "JPEG", (side, side)))).pixels.shape == (64, 64, 3)
        assert pool.restarts == 0
        await pool.stop()
        return found

    assert "secret" not in asyncio.run(environment())
