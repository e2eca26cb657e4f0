"""One model and many readers: the images that wait while the model is busy become its next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

Answer = TypeVar("Answer")


class MicroBatcher(Generic[Answer]):
    """Predicts single images in batches, without ever waiting for a batch to fill.

    An image that finds the model idle goes in at once, alone; those that come while it is busy go in
    together. So a quiet service answers as fast as it can, and a busy one uses the machine well.

    Args:
        predict: pixels (B, H, W, C), and a list of what else each image came with -> one answer an image.
        max_batch: the largest batch.
        streams: batches predicted at once, each in its own thread.
        set_up: called once in each of those threads.
        on_batch: called with the size of each batch.

    Example:
        >>> async def three():
        ...     batcher = MicroBatcher(lambda pixels: pixels.sum(axis=(1, 2, 3)).tolist())
        ...     batcher.start()
        ...     answers = await asyncio.gather(*(batcher.predict(np.full((2, 2, 1), i)) for i in range(3)))
        ...     await batcher.stop()
        ...     return answers
        >>> asyncio.run(three())
        [0, 4, 8]
    """

    def __init__(
        self,
        predict: Callable[..., Sequence[Answer]],
        *,
        max_batch: int = 16,
        streams: int = 1,
        set_up: Callable[[], None] | None = None,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._predict, self._max_batch, self._n_streams = predict, max_batch, streams
        self._set_up, self._on_batch = set_up, on_batch
        self._streams: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to take images, maybe again after a `stop`; needs a running event loop, to which the queue is bound."""
        loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(self._n_streams, "predict", initializer=self._set_up)
        self._waiting: asyncio.Queue[tuple[np.ndarray, tuple[Any, ...], asyncio.Future[Answer]]] = asyncio.Queue()
        self._streams = [loop.create_task(self._stream()) for _ in range(self._n_streams)]

    async def predict(self, pixels: np.ndarray, *more: Any) -> Answer:
        """The answer for one image (H, W, C), and for `more` beside it; what `predict` raises comes through."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((pixels, more, answer))
        return await answer

    async def stop(self) -> None:
        """Finish the batches in hand and end the threads."""
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        self._threads.shutdown()

    async def _stream(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._max_batch and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            batch = [one for one in batch if not one[-1].done()]  # some gave up
            if batch:
                await self._run(batch)

    async def _run(self, batch: list[tuple[np.ndarray, tuple[Any, ...], asyncio.Future[Answer]]]) -> None:
        self._on_batch(len(batch))
        pixels = [pixels for pixels, *_ in batch]
        more = [list(column) for column in zip(*(more for _, more, _ in batch), strict=True)]
        work = asyncio.get_running_loop().run_in_executor(self._threads, lambda: self._predict(np.stack(pixels), *more))
        await asyncio.wait([work])
        for index, (*_, answer) in enumerate(batch):
            if answer.done():
                continue
            if error := work.exception():
                answer.set_exception(error)
            else:
                answer.set_result(work.result()[index])
