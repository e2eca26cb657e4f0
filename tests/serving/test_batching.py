"""The micro-batcher: who gets which answer, and when a batch is one."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from medclf.serving.batching import MicroBatcher

_PIXELS = [np.full((2, 2, 1), level, np.uint8) for level in range(40)]


def _run(batcher: MicroBatcher, job: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def started() -> Any:
        batcher.start()
        try:
            return await job()
        finally:
            await batcher.stop()

    return asyncio.run(started())


def _levels(pixels: np.ndarray) -> list[int]:
    return pixels[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("streams", [1, 3])
def test_each_image_gets_its_own_answer(streams: int) -> None:
    batcher = MicroBatcher(_levels, streams=streams, max_batch=7)

    async def job() -> list[int]:
        return await asyncio.gather(*map(batcher.predict, _PIXELS))

    assert _run(batcher, job) == list(range(40))


def test_what_comes_while_the_model_is_busy_goes_in_together() -> None:
    busy, sizes = threading.Event(), []

    def predict(pixels: np.ndarray) -> list[int]:
        busy.wait(5)
        return _levels(pixels)

    batcher = MicroBatcher(predict, max_batch=16, on_batch=sizes.append)

    async def job() -> None:
        first = asyncio.create_task(batcher.predict(_PIXELS[0]))
        await asyncio.sleep(0.05)
        rest = [asyncio.create_task(batcher.predict(pixels)) for pixels in _PIXELS[1:21]]
        await asyncio.sleep(0.05)
        busy.set()
        assert await asyncio.gather(first, *rest) == list(range(21))

    _run(batcher, job)
    assert sizes == [1, 16, 4]


def test_an_error_reaches_those_who_asked_and_the_next_batch_is_predicted() -> None:
    def predict(pixels: np.ndarray) -> list[int]:
        if pixels.max() == 13:
            raise ValueError("unlucky")
        return _levels(pixels)

    batcher = MicroBatcher(predict)

    async def job() -> int:
        with pytest.raises(ValueError, match="unlucky"):
            await batcher.predict(_PIXELS[13])
        odd = await asyncio.gather(
            batcher.predict(_PIXELS[1]), batcher.predict(np.zeros((9, 9, 1))), return_exceptions=True
        )
        assert all(isinstance(answer, ValueError) for answer in odd)  # shapes that do not stack
        return await batcher.predict(_PIXELS[14])

    assert _run(batcher, job) == 14


def test_one_who_gave_up_costs_the_model_nothing() -> None:
    busy, seen = threading.Event(), []

    def predict(pixels: np.ndarray) -> list[int]:
        seen.extend(_levels(pixels))
        busy.wait(5)
        return _levels(pixels)

    batcher = MicroBatcher(predict)

    async def job() -> None:
        first = asyncio.create_task(batcher.predict(_PIXELS[1]))
        await asyncio.sleep(0.05)
        gone, stays = (asyncio.create_task(batcher.predict(pixels)) for pixels in _PIXELS[2:4])
        await asyncio.sleep(0.05)
        gone.cancel()
        busy.set()
        assert await asyncio.gather(first, stays) == [1, 3]

    _run(batcher, job)
    assert seen == [1, 3]
