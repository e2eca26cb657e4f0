import asyncio
import io
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medclf.images.preprocessing import Preprocessing
from medclf.serving.app import create_app, running
from medclf.serving.decoder import Decoded
from medclf.serving.limits import Limits


class Brightness:
    """A bundle by hand: its probability of "light" is the mean of the pixels."""

    def __init__(self) -> None:
        self.name, self.hash = "brightness", "0" * 64
        self.vocab = ["dark", "light"]
        self.card = {"intended use": "tests", "sensitivity": {"dark": "90 % of 10 images"}}
        self.preprocessing = Preprocessing(32)

    def predict_pixels(self, pixels: np.ndarray) -> list[SimpleNamespace]:
        assert pixels.dtype == np.uint8 and pixels.shape[1:] == (32, 32, 3)
        return [self.answer(float(mean)) for mean in pixels.mean((1, 2, 3)) / 255]

    def answer(self, light: float) -> SimpleNamespace:
        label = "light" if light > 0.5 else "dark"
        flags = ["unsure"] if 0.4 < light < 0.6 else []
        return SimpleNamespace(label=label, probs={"dark": 1 - light, "light": light}, flags=flags)

    def saliency(self, pixels: np.ndarray, label: str) -> np.ndarray:
        return np.linspace(0, 1, 32 * 32).reshape(32, 32)


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Makes a file of one grey level."""

    def make(level: int = 204, kind: str = "PNG", size: tuple[int, int] = (60, 40)) -> bytes:
        file = io.BytesIO()
        Image.new("L", size, level).save(file, kind)
        return file.getvalue()

    return make


@pytest.fixture
def bundle() -> Brightness:
    return Brightness()


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """A real service on loopback, for all tests that need no limits of their own."""
    with running(create_app(Brightness(), limits=Limits(max_bytes=2**20, decode_seconds=60))) as address:
        yield address


@pytest.fixture
def quick_decoder(monkeypatch: pytest.MonkeyPatch) -> type:
    """A decoder in this process, for tests of what stands around it: starting a real one takes seconds."""

    class Decoder:
        alive, restarts, seconds, level = True, 0, 0.0, 204

        def __init__(self, settings: Any, **options: Any) -> None:
            pass

        async def start(self) -> None: ...
        async def stop(self) -> None: ...

        async def decode(self, body: bytes) -> Decoded:
            await asyncio.sleep(self.seconds)
            return Decoded(np.full((32, 32, 3), self.level, np.uint8), {})

    monkeypatch.setattr("medclf.serving.service.DecoderPool", Decoder)
    return Decoder
