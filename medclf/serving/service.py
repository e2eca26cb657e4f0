"""What the service does with one upload: through the gate, to a decoder, into a batch, out as an answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from medclf.errors import DataError, MedclfError, ReadError
from medclf.images.frame_names import frame_name, named_frame
from medclf.images.preprocessing import Preprocessing
from medclf.inference.predictor import UnitPrediction
from medclf.inference.sketches import SketchBook, measures_of, sketch
from medclf.inference.zipped import open_zip, read_members
from medclf.results.wording import of_several
from medclf.serving.batching import MicroBatcher
from medclf.serving.decoder import DecoderPool
from medclf.serving.decoder_worker import blank_image
from medclf.serving.limits import Gate, Limits, Refused
from medclf.serving.telemetry import Meters

MOST_OF_A_UNIT = 2_000  # images
Made = TypeVar("Made")


class Prediction(Protocol):
    """What the service reads of a bundle's prediction."""

    @property
    def label(self) -> str | Sequence[str]: ...  # noqa: D102
    @property
    def probs(self) -> Mapping[str, float]: ...  # noqa: D102
    @property
    def flags(self) -> Sequence[str]: ...  # noqa: D102


class Servable(Protocol):
    """What the service needs of a bundle."""

    @property
    def vocab(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def hash(self) -> str: ...  # noqa: D102
    @property
    def card(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def preprocessing(self) -> Preprocessing: ...  # noqa: D102
    def predict_pixels(self, pixels: np.ndarray, /, *fields: Any) -> Sequence[Prediction]: ...  # noqa: D102


@dataclass(frozen=True)
class Answer:
    """A prediction, its pixels, the heat map where asked for and offered, the sketch's id, and what is lacking.

    `no_heat` says why there is no map, `note` which frame of several it is of.
    """

    prediction: Prediction
    pixels: np.ndarray
    heat: np.ndarray | None
    sketch: str | None = None
    no_heat: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class UnitAnswer:
    """A unit's prediction, what its images are called, in the order of its contributions, and what was left out.

    `note` says where the files' headers name several patients, studies or series.
    """

    prediction: UnitPrediction
    names: list[str]
    notes: dict[str, str]
    note: str | None


async def _never() -> None:
    await asyncio.Event().wait()


class Service:
    """One model, its decoders and its queue.

    Args:
        bundle: the model.
        limits: what clients may ask of it.
        workers: processes that decode.
        streams: batches predicted at once.
        threads: of each stream, for the model's arithmetic.
        max_batch: images predicted at once.
        book: where sketches of the images are kept; none are where None.
    """

    def __init__(
        self,
        bundle: Servable,
        limits: Limits,
        *,
        workers: int,
        streams: int,
        threads: int,
        max_batch: int,
        book: SketchBook | None = None,
    ) -> None:
        self.bundle, self.limits, self._book = bundle, limits, book
        self._unit: str | None = getattr(getattr(bundle, "unit_rule", None), "unit", None)
        self.meters, self.gate = Meters(), Gate(limits)
        self._pool = DecoderPool(
            {
                "preprocessing": bundle.preprocessing.as_dict(),
                "max_megapixels": limits.max_megapixels,
                "describe": book is not None or hasattr(bundle, "on_file"),
                "unit": self._unit,
            },
            workers=workers,
            seconds=limits.decode_seconds,
            memory_mb=limits.decode_memory_mb,
        )
        self._batcher = MicroBatcher(
            self._predicted,
            max_batch=max_batch,
            streams=streams,
            set_up=lambda: _set_threads(threads),
            on_batch=self.meters.batch_size.observe,
        )
        self.meters.waiting.set_function(lambda: self.gate.waiting)
        self.meters.restarts.set_function(lambda: self._pool.restarts)
        self._workers, self._running = workers, False

    @property
    def ready(self) -> bool:
        """True while uploads are answered."""
        return self._running and self._pool.alive

    async def start(self) -> None:
        """Start decoders and model, and answer one blank image: the first client pays for no warming up.

        What is bound to the event loop is made here, so that an application can be run again.
        """
        # One at a time, also where the client of the one in hand leaves: a thread cannot be stopped.
        self._heats, self._wholes = ThreadPoolExecutor(1, "saliency"), ThreadPoolExecutor(1, "unit")
        self._units = asyncio.Semaphore(self._workers)  # in hand at once: a small zip file may hold much
        await self._pool.start()
        self._batcher.start()
        await self._batcher.predict((await self._pool.decode(blank_image())).pixels, *self._beside(None))
        self._running = True

    async def stop(self) -> None:
        """Finish what is in hand and end the decoders."""
        self._running = False
        for threads in (self._heats, self._wholes):
            threads.shutdown(wait=False, cancel_futures=True)
        await self._batcher.stop()
        await self._pool.stop()

    async def answer(
        self,
        chunks: AsyncIterator[bytes],
        declared: int | None,
        gone: Callable[[], Awaitable[None]] = _never,
        *,
        saliency: bool = False,
        fields: Mapping[str, Any] | None = None,
        keep: bool = True,
    ) -> Answer:
        """Read one upload and predict it.

        Args:
            chunks: the body as it comes.
            declared: its Content-Length, where there is one.
            gone: returns once the client has hung up; the upload then leaves the queue.
            saliency: say where the model looked, too.
            fields: what is known of the image besides, where the model takes any.
            keep: leave a sketch, where sketches are kept.

        Raises:
            DataError: the model takes no such field, or a number is none.
            Refused: it is too large or too slow, or too many wait (429), or the answer takes too long (503), or its
                client has gone (499).
            ReadError: it is no image that can be read.
        """
        self._check(fields)
        return await self._waited(chunks, declared, gone, lambda body: self._predict(body, saliency, fields, keep))

    async def answer_unit(
        self,
        chunks: AsyncIterator[bytes],
        declared: int | None,
        gone: Callable[[], Awaitable[None]] = _never,
    ) -> UnitAnswer:
        """Read a zip file and predict its images as one patient, study or series.

        Args:
            chunks, declared, gone: see `answer`.

        Raises:
            BundleError: the model answers each image alone.
            DataError: it is no zip file, holds no file, or unpacks to too much.
            Refused: as in `answer`.
            ReadError: none of its images can be read.
        """
        return await self._waited(chunks, declared, gone, self._predict_unit)

    async def _waited(
        self,
        chunks: AsyncIterator[bytes],
        declared: int | None,
        gone: Callable[[], Awaitable[None]],
        predict: Callable[[bytearray], Coroutine[Any, Any, Made]],
    ) -> Made:
        """What is made of one upload, as long as its client waits."""
        self.gate.check()
        async with self.gate.body(chunks, declared) as body:
            with self.gate.queued():
                work = asyncio.ensure_future(predict(body))
                left = asyncio.ensure_future(gone())
                try:
                    await asyncio.wait(
                        (work, left), timeout=self.limits.answer_seconds, return_when=asyncio.FIRST_COMPLETED
                    )
                    if work.done():
                        return work.result()
                    if left.done():
                        raise Refused(499, "the client has gone", "send it again")
                    raise Refused(503, "the service is too busy", "try again later", retry_after=5)
                finally:
                    for task in (work, left):
                        task.cancel()

    async def _predict_unit(self, body: bytearray) -> UnitAnswer:
        async with self._units:
            with self.meters.decode_seconds.time():
                names, images, notes, owners = await self._unit_images(bytes(body))
            note = of_several(len(owners), str(self._unit)) if len(owners) > 1 else None
            whole: Callable[[Sequence[np.ndarray | ReadError]], UnitPrediction] = self.bundle.predict_unit_pixels  # type: ignore[attr-defined]
            with self.meters.predict_seconds.time():
                found = await asyncio.get_running_loop().run_in_executor(self._wholes, whole, images)
            return UnitAnswer(found, names, notes, note)

    async def _unit_images(
        self, body: bytes
    ) -> tuple[list[str], list[np.ndarray | ReadError], dict[str, str], set[str]]:
        """Of each image in a zip file its name, its pixels or why there are none, which frames are left out, and whose
        images they are."""
        names: list[str] = []
        notes: dict[str, str] = {}
        owners: set[str] = set()
        images: list[np.ndarray | ReadError] = []
        most = {"most_bytes": self.limits.max_held_bytes, "most_files": MOST_OF_A_UNIT}
        with open_zip(body) as archive:
            members = read_members(archive, "the upload", **most)
            while True:  # in a thread: a member may take seconds to unpack, and other clients wait
                name, content = await asyncio.to_thread(next, members, ("", None))
                if content is None:
                    return names, images, notes, owners
                found: Sequence[np.ndarray | ReadError]
                try:
                    if isinstance(content, ReadError):
                        raise content
                    pixels, file = await self._pool.decode(content)
                    owners.update(filter(None, [file.get("owner")]))
                    if note := self._note(file):
                        notes[name] = note
                    found = list(pixels) if pixels.ndim == 4 else [pixels]
                except ReadError as error:
                    found = [error]
                n = len(found)
                images += found
                names += [frame_name(name, k, n) if n > 1 else name for k in range(n)]
                if len(images) > MOST_OF_A_UNIT:
                    raise DataError(f"the upload holds more than {MOST_OF_A_UNIT:,} images", "send fewer of them")

    @property
    def fields(self) -> Sequence[Mapping[str, Any]]:
        """What the model takes beside an image: name, kind and categories of each."""
        return getattr(self.bundle, "fields", ())

    def _beside(self, fields: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
        return [fields or {}] if self.fields else []

    def _check(self, fields: Mapping[str, Any] | None) -> None:
        if not fields:
            return
        if not self.fields:
            raise DataError("this model takes no fields beside the image", "leave them out")
        self.bundle.check_fields(fields)  # type: ignore[attr-defined]  # of a bundle with fields

    @property
    def saliency(self) -> Callable[[np.ndarray, str], np.ndarray] | None:
        """(pixels, label) -> heat in [0, 1] of (H, W), where the bundle offers it."""
        return getattr(self.bundle, "saliency", None)

    async def _predict(self, body: bytearray, saliency: bool, fields: Mapping[str, Any] | None, keep: bool) -> Answer:
        with self.meters.decode_seconds.time():
            pixels, file = await self._pool.decode(body)
        if pixels.ndim == 4:
            text = f"holds {len(pixels)} frames, of which each is an image"
            raise ReadError("upload", text, "send one of them, or all in a zip file to /v1/predict_unit")
        with self.meters.predict_seconds.time():
            prediction, measures = await self._batcher.predict(pixels, *self._beside(fields))
        place = getattr(self.bundle, "on_file", None)
        if place is not None and file.get("height"):  # a detector's boxes are of the prepared pixels
            prediction = place(prediction, (int(file["height"]), int(file["width"])))
        labels = [prediction.label] if isinstance(prediction.label, str) else prediction.label
        for label in labels:
            self.meters.labels.labels(label).inc()
        for flag in prediction.flags:
            self.meters.flags.labels(flag).inc()
        heat, why = await self._heat(pixels, prediction) if saliency else (None, None)
        kept = self._keep(prediction, measures, file) if keep else None
        return Answer(prediction, pixels, heat, kept, why, self._note(file))

    def _note(self, file: Mapping[str, Any]) -> str | None:
        """Which frame of a file of several was looked at, where not all are images."""
        n, frame = int(file.get("n_frames", 1)), self.bundle.preprocessing.frame
        if n < 2 or frame == "all":
            return None
        return f"the file holds {n} frames, pages or slices: {named_frame(frame)} was looked at, as in training"

    def _predicted(
        self, pixels: np.ndarray, *fields: Sequence[Mapping[str, Any]]
    ) -> list[tuple[Prediction, Mapping[str, float] | None]]:
        """The answer for each image of a batch, with what a sketch holds of it where sketches are kept."""
        with_features = getattr(self.bundle, "predict_with_features", None)
        if self._book is None or with_features is None:
            return [(prediction, None) for prediction in self.bundle.predict_pixels(pixels, *fields)]
        predictions, features = with_features(pixels, *fields)
        measures = measures_of(getattr(self.bundle, "detector", None), features, pixels)
        return list(zip(predictions, measures, strict=True))

    def _keep(
        self, prediction: Prediction, measures: Mapping[str, float] | None, file: Mapping[str, Any]
    ) -> str | None:
        if self._book is None or measures is None:
            return None
        row = sketch(prediction, measures, file, self.bundle.hash)
        try:
            self._book.add(row)
        except OSError:  # a full disk costs a sketch, not an answer
            self.meters.lost_sketches.inc()
            return None
        return str(row["id"])

    async def _heat(self, pixels: np.ndarray, prediction: Prediction) -> tuple[np.ndarray | None, str | None]:
        """For one label that is predicted; of several, for the most probable. Or why there is none."""
        if self.saliency is None:
            return None, None
        label = max(prediction.probs, key=prediction.probs.__getitem__)
        label = prediction.label if isinstance(prediction.label, str) else label
        try:  # in a thread of its own: it costs another prediction, and stays behind them
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._heats, self.saliency, pixels, label), None
        except MedclfError as error:  # this network has no map to show
            return None, error.message


def _set_threads(threads: int) -> None:
    if "torch" in sys.modules:  # a bundle that runs on ONNX Runtime has not loaded it
        sys.modules["torch"].set_num_threads(threads)
