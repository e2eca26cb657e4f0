"""Send mutated images, and requests that are no HTTP, to a running service and count its answers.

    python benchmarks/hostile_uploads.py [--uploads 1000] [--clients 8]

The mutants are those of hostile_images.py. The exit status is 1 where an answer is of 5xx other than the
declared back-pressure (503 with Retry-After), a client waits in vain, or a sound image is not answered
rightly afterwards.
"""

from __future__ import annotations

import argparse
import io
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
from hostile_images import FORMATS, mutant
from PIL import Image

from medclf.images.preprocessing import Preprocessing
from medclf.serving.app import create_app, running
from medclf.serving.limits import Limits

TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "tiff": "image/tiff",
    "bmp": "image/bmp",
    "webp": "image/webp",
    "dicom": "application/dicom",
}
NOT_HTTP = (
    b"\x00" * 200,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
    b"GET /%00%ff%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET //evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
    b"BREW /v1/predict HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    *(
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n" + rest
        for rest in (
            b"Content-Length: -1\r\n\r\n",
            b"Content-Length: 99999999999999999999999999\r\n\r\n",
            b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
            b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
            b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
            b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
            b"Expect: 200-maybe\r\nContent-Length: 3\r\n\r\nabc",
            b"Content-Length: 0\r\n\r\n" * 100,
        )
    ),
)


class Brightness:
    """A model that costs nothing: what is tried is all that stands before it."""

    name, hash, vocab = "brightness", "0" * 64, ("dark", "light")
    card: SimpleNamespace | dict[str, Any]

    def __init__(self) -> None:
        self.card, self.preprocessing = {}, Preprocessing(64)

    def predict_pixels(self, pixels: np.ndarray) -> list[SimpleNamespace]:
        means = pixels.mean((1, 2, 3)) / 255
        return [SimpleNamespace(label="light", probs={"dark": 1 - mean, "light": mean}, flags=[]) for mean in means]


def mutants(number: int, first: int = 0) -> Iterator[tuple[str, bytes]]:
    """(format, file), the formats in turn; the same on every run."""
    for index in range(first, first + number):
        kind = FORMATS[index % len(FORMATS)]
        yield kind, mutant(kind, index // len(FORMATS))


def attack(url: str, number: int, clients: int) -> Counter[str]:
    """Upload that many mutants, send what is no HTTP, and count the answers by status."""
    counts: Counter[str] = Counter()
    with httpx.Client(timeout=120, limits=httpx.Limits(max_connections=clients)) as client:

        def upload(item: tuple[str, bytes]) -> str:
            try:
                answer = client.post(f"{url}/v1/predict", content=item[1], headers={"Content-Type": TYPES[item[0]]})
            except httpx.HTTPError as error:
                return type(error).__name__
            told = "error" in answer.json() and "remedy" in answer.json()
            pushed_back = answer.status_code == 503 and "retry-after" in answer.headers
            return (
                "back-pressure" if pushed_back else str(answer.status_code) + ("" if answer.is_success or told else "?")
            )

        with ThreadPoolExecutor(clients) as threads:
            counts.update(threads.map(upload, mutants(number)))
    counts.update(f"raw {send_raw(url, data)}" for data in NOT_HTTP)
    return counts


def send_raw(url: str, data: bytes) -> str:
    """The status of the first answer, "closed", or "hangs" where neither comes within 30 s."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.settimeout(30)
        try:
            connection.sendall(data)
            head = connection.recv(1024)
        except TimeoutError:
            return "hangs"
        except OSError:
            return "closed"
    return head.split(b" ", 2)[1].decode("latin-1") if head.startswith(b"HTTP/1.1 ") else "closed"


def wrong(counts: Counter[str]) -> list[str]:
    """The kinds of answer that there must be none of."""
    fine = ("200", "400", "413", "415", "422", "429", "back-pressure")
    return sorted(kind for kind in counts if not (kind in fine or is_fine_raw(kind)))


def is_fine_raw(kind: str) -> bool:
    """Whatever is no HTTP may be refused or dropped, but neither answered 5xx nor waited for."""
    return kind.startswith("raw ") and not kind.startswith("raw 5") and kind != "raw hangs"


def answers_rightly(url: str) -> bool:
    """A sound image still gets its own answer."""
    file = io.BytesIO()
    Image.new("L", (50, 40), 204).save(file, "PNG")
    answer = httpx.post(
        f"{url}/v1/predict", content=file.getvalue(), headers={"Content-Type": "image/png"}, timeout=120
    )
    return answer.status_code == 200 and abs(answer.json()["probs"]["light"] - 0.8) < 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    started = time.perf_counter()
    with running(create_app(Brightness(), limits=Limits())) as url:
        counts = attack(url, args.uploads, args.clients)
        lives = answers_rightly(url)
        metrics = httpx.get(f"{url}/metrics").text
    restarts = next(line.split()[1] for line in metrics.splitlines() if line.startswith("medclf_decoder_restarts "))
    for kind, count in sorted(counts.items()):
        print(f"{count:6} {kind}")
    print(f"{args.uploads} mutants and {len(NOT_HTTP)} malformed requests in {time.perf_counter() - started:.0f} s")
    print(f"decoders replaced: {restarts}; a sound image afterwards: {'answered' if lives else 'NOT ANSWERED'}")
    print("what must not be:", wrong(counts) or "none")
    sys.exit(bool(wrong(counts)) or not lives)


if __name__ == "__main__":
    main()
