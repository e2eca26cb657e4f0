"""Read mutated DICOM, PNG, JPEG, TIFF, BMP and WebP files in worker processes and count what goes wrong.

    python benchmarks/hostile_images.py [--number 10000] [--formats dicom png jpeg tiff bmp webp] [--processes 2]

Mutants are made from pydicom's own test files, those of pydicom-data, and files of the other formats
drawn here. Number i of a format is the same file on every run. A crash is a worker that dies; a foreign
exception is anything but a ReadError; "over 2 s" is processor time, so that a busy machine does not
count. The exit status is 1 where any of the three is above 0.
"""

from __future__ import annotations

import argparse
import functools
import io
import multiprocessing
import resource
import struct
import sys
import time
import warnings
import zlib
from collections import Counter
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FORMATS = ("dicom", "png", "jpeg", "tiff", "bmp", "webp")
SLOW = 2.0
LARGEST_SEED = 700_000  # bytes; most bugs sit in headers, which large files only dilute


@functools.cache
def seeds(kind: str) -> list[bytes]:
    """Sound files to start from, in a fixed order."""
    return _dicom_seeds() if kind == "dicom" else _drawn_seeds(kind)


def _dicom_seeds() -> list[bytes]:
    import pydicom.data

    folders = [Path(pydicom.data.__file__).parent / "test_files"]
    try:
        import data_store

        folders.append(Path(data_store.__file__).parent)
    except ImportError:
        pass
    files = [path for folder in folders for path in folder.rglob("*.dcm") if path.stat().st_size <= LARGEST_SEED]
    return [path.read_bytes() for path in sorted(files, key=lambda path: path.name)]


def _drawn_seeds(kind: str) -> list[bytes]:
    rng = np.random.default_rng(1)
    photo = Image.effect_mandelbrot((160, 120), (-2, -1.5, 1, 1.5), 80)
    noise = Image.fromarray(rng.integers(0, 65536, (40, 50), dtype=np.uint16))
    rgb, palette = photo.convert("RGB"), photo.convert("RGB").convert("P")
    exif = Image.Exif()
    exif[274], exif[271] = 6, "maker"
    made: list[tuple[Image.Image, dict[str, Any]]] = []
    if kind == "png":
        made = [(photo, {}), (rgb, {"exif": exif}), (palette, {"transparency": 3}), (noise, {})]
        made += [(photo.convert(mode), {}) for mode in ("1", "LA", "RGBA")] + [(rgb, {"compress_level": 0})]
    elif kind == "jpeg":
        made = [(photo, {}), (rgb, {}), (rgb, {"progressive": True}), (rgb, {"exif": exif}), (rgb.convert("CMYK"), {})]
        made += [
            (rgb, {"subsampling": 0, "quality": 95}),
            (rgb, {"restart_marker_rows": 1}),
            (rgb, {"comment": "text"}),
        ]
    elif kind == "bmp":
        made = [(image, {}) for image in (photo, rgb, palette, photo.convert("1"), rgb.convert("RGBA"))]
    elif kind == "webp":
        made = [(image, {"lossless": exact}) for exact in (True, False) for image in (rgb, rgb.convert("RGBA"))]
        made += [(rgb, {"exif": exif})]
    else:
        codes = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        made = [(image, {"compression": code}) for code in codes for image in (photo, rgb)]
        made += [(noise, {}), (noise, {"compression": "tiff_lzw"}), (palette, {}), (rgb.convert("CMYK"), {})]
        made += [(photo.convert("1"), {"compression": "group4"}), (rgb, {"tiffinfo": {322: 64, 323: 64}})]
    files = []
    for image, options in made:
        file = io.BytesIO()
        image.save(file, kind.upper(), **options)
        files.append(file.getvalue())
    return [*files, _deep_png(rng)] if kind == "png" else files


def _deep_png(rng: np.random.Generator) -> bytes:
    rows = rng.integers(0, 65536, (9, 8, 3)).astype(">u2")
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 9, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


INTERESTING = (0, 1, 2, 7, 8, 15, 16, 31, 32, 64, 127, 128, 255, 256, 4095, 32767, 32768, 65535, 2**31 - 1, 2**32 - 1)


def mutant(kind: str, number: int) -> bytes:
    """Mutant `number` of a format: one to four changes, most of them in the header."""
    rng = np.random.default_rng([FORMATS.index(kind), number])
    sound = seeds(kind)
    data = bytearray(sound[number % len(sound)])
    for _ in range(int(rng.integers(1, 5))):
        _change(data, rng, sound)
    if kind != "png" or rng.random() < 0.2:
        return bytes(data)
    if rng.random() < 0.5:
        return _with_checksums(bytes(data))
    return _changed_within(sound[number % len(sound)], rng, sound)


def _change(data: bytearray, rng: np.random.Generator, sound: list[bytes]) -> None:
    if len(data) < 16:
        return
    header = min(len(data), 2500)
    place = int(rng.integers(0, header if rng.random() < 0.7 else len(data)))
    choice = rng.integers(0, 10)
    if choice < 3:
        data[place] = int(rng.integers(256))
    elif choice < 6:
        form = (">H", "<H", ">I", "<I", "B")[int(rng.integers(5))]
        value = int(rng.choice(INTERESTING)) % (1 << 8 * struct.calcsize(form))
        place = min(place, len(data) - 4)
        struct.pack_into(form, data, place, value)
    elif choice == 6:
        del data[place + int(rng.integers(0, len(data) - place)) :]
    elif choice == 7:
        del data[place : place + int(rng.integers(1, 64))]
    elif choice == 8:
        data[place:place] = bytes(data[place : place + int(rng.integers(1, 64))])
    else:
        other = sound[int(rng.integers(len(sound)))]
        start = int(rng.integers(0, len(other)))
        data[place : place + 64] = other[start : start + int(rng.integers(1, 200))]


def _changed_within(png: bytes, rng: np.random.Generator, sound: list[bytes]) -> bytes:
    """A PNG with one chunk's content changed, pixel data before compression, and sound around it."""
    parts, position = [], 8
    while position + 12 <= len(png):
        length = struct.unpack(">I", png[position : position + 4])[0]
        parts.append((png[position + 4 : position + 8], png[position + 8 : position + 8 + length]))
        position += 12 + length
    chosen = int(rng.integers(len(parts)))
    name, content = parts[chosen]
    inner = bytearray(zlib.decompress(content)) if name == b"IDAT" else bytearray(content)
    _change(inner, rng, sound)
    if 0 < len(inner) < 16:
        inner[int(rng.integers(len(inner)))] = int(rng.integers(256))
    parts[chosen] = (name, zlib.compress(bytes(inner)) if name == b"IDAT" else bytes(inner))
    return png[:8] + b"".join(_chunk(*part) for part in parts)


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks' checksums are made right again, so that mutants reach what lies behind them."""
    out, position = data[:8], 8
    while position + 12 <= len(data):
        length = struct.unpack(">I", data[position : position + 4])[0]
        if position + 12 + length > len(data):
            break
        out += _chunk(data[position + 4 : position + 8], data[position + 8 : position + 8 + length])
        position += 12 + length
    return out + data[position:]


def outcome(data: bytes) -> tuple[str, float]:
    """What reading a mutant comes to, and the seconds of processor time it took."""
    from medclf.errors import ReadError
    from medclf.images.reading import probe, read_pixels

    start = time.process_time()
    try:
        read_pixels(data)
        result = "read"
    except ReadError:
        result = "refused"
    except Exception as error:  # noqa: BLE001 - counting them is the point
        result = f"foreign: {type(error).__name__}: {error}"
    spent = time.process_time() - start
    try:
        probe(data)
    except ReadError:
        pass
    except Exception as error:  # noqa: BLE001
        result = f"foreign: {type(error).__name__}: {error}"
    return result, spent


def _work(kind: str, numbers: range, current: Synchronized, results: multiprocessing.Queue) -> None:
    import torchvision  # noqa: F401 - so that JPEGs take the fast path

    warnings.simplefilter("ignore", DeprecationWarning)
    outcome(seeds(kind)[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        current.value = number
        results.put((number, *outcome(mutant(kind, number))))
    current.value = -1
    results.put(("grown", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def run(kind: str, count: int, processes: int) -> dict[str, Any]:
    """Read `count` mutants of one format; a worker that dies is counted and its shard goes on behind the mutant."""
    context = multiprocessing.get_context("spawn")
    tally: dict[str, Any] = {"kind": kind, "count": 0, "outcomes": Counter(), "crashes": [], "slow": [], "slowest": 0.0}
    tally |= {"foreign": [], "grown": 0.0}
    shards = [range(first, count, processes) for first in range(processes)]
    workers: list[Any] = [None] * processes
    queue = context.Queue()
    while any(shards) or any(workers):
        for slot in range(processes):
            if workers[slot] is None and shards[slot]:
                current = context.Value("q", shards[slot][0], lock=False)
                process = context.Process(target=_work, args=(kind, shards[slot], current, queue))
                process.start()
                workers[slot] = (process, current)
        time.sleep(0.05)
        _drain(queue, tally)
        for slot, worker in enumerate(workers):
            if worker is None or worker[0].is_alive():
                continue
            worker[0].join()
            number = worker[1].value
            rest = [other for other in shards[slot] if other > number]
            if worker[0].exitcode != 0:
                tally["crashes"].append((number, worker[0].exitcode))
            shards[slot] = range(rest[0], count, processes) if worker[0].exitcode != 0 and rest else range(0)
            workers[slot] = None
    time.sleep(0.2)
    _drain(queue, tally)
    return tally


def _drain(queue: Any, tally: dict[str, Any]) -> None:
    import queue as queues

    while True:
        try:
            row = queue.get_nowait()
        except queues.Empty:
            return
        if row[0] == "grown":
            tally["grown"] = max(tally["grown"], row[1])
            continue
        number, result, seconds = row
        tally["count"] += 1
        tally["outcomes"][result.partition(":")[0]] += 1
        tally["slowest"] = max(tally["slowest"], seconds)
        if seconds > SLOW:
            tally["slow"].append((number, round(seconds, 2)))
        if result.startswith("foreign"):
            tally["foreign"].append((number, result))


def main() -> int:
    """Run and print the table; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=10_000, help="mutants of each format")
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print("| format | mutants | read | refused | crashes | foreign exceptions | over 2 s | slowest | memory grown by |")
    print("|---|---|---|---|---|---|---|---|---|")
    bad = 0
    for kind in options.formats:
        tally = run(kind, options.number, options.processes)
        outcomes = tally["outcomes"]
        print(
            f"| {kind} | {tally['count']} | {outcomes['read']} | {outcomes['refused']} | {len(tally['crashes'])} "
            f"| {len(tally['foreign'])} | {len(tally['slow'])} | {tally['slowest']:.2f} s | {tally['grown']:.0f} MB |",
            flush=True,
        )
        for name in ("crashes", "foreign", "slow"):
            bad += len(tally[name])
            for example in tally[name][:10]:
                print(f"    {name}: {example}", file=sys.stderr)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
