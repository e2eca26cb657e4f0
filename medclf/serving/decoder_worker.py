"""The process that decodes uploads for the service: the kernel bounds it, `decoding` replaces it.

An image decoder is where a hostile file does its harm, so it runs here, away from the weights, the token and
the other clients. Files come on stdin after 8 bytes of length; answers go out as two 4-byte lengths, a JSON
header and raw pixels. Nothing is pickled: a decoder that was taken over can only send wrong pixels.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medclf.errors import MedclfError, ReadError

REQUEST = struct.Struct("!Q")
ANSWER = struct.Struct("!II")
MOST_PIXEL_BYTES = 2**28  # of an answer


def main() -> None:
    """Decode uploads until stdin ends; the first argument holds the settings of `prepare` and the limits."""
    import torch  # noqa: F401 - it resizes ten times as fast as NumPy

    import medclf.images.dicom  # noqa: F401 - before memory is limited, and not on the first client's time
    from medclf.images.preprocessing import Preprocessing

    given = json.loads(sys.argv[1])
    settings = given["prepare"]
    preprocessing = Preprocessing.from_dict(settings["preprocessing"])
    describe = partial(described, facts_of if settings["describe"] else frames_of, settings.get("unit"))
    serve_stdin(partial(prepared, preprocessing, settings["max_megapixels"]), describe, **given["limits"])


def prepared(preprocessing: Any, max_megapixels: float, file: bytes) -> np.ndarray:
    """The pixels (H, W, C) of a file; (n, H, W, C) of one of several frames, where each frame is an image.

    Raises:
        ReadError: it cannot be read, or has too many frames.
    """
    from medclf.images import nifti, reading

    n = reading.probe(file, max_megapixels=max_megapixels).n_frames if preprocessing.frame == "all" else 1
    height, width = preprocessing.size
    most = MOST_PIXEL_BYTES // (height * width * preprocessing.channels)
    if n > most:
        raise ReadError("upload", f"holds {n:,} frames, more than {most:,}", "send fewer of them")
    try:
        if n == 1:
            return np.asarray(preprocessing.prepare(file, max_megapixels))
        return np.stack([replace(preprocessing, frame=k).prepare(file, max_megapixels) for k in range(n)])
    finally:
        nifti.forget()  # an upload is gone with its answer


def frames_of(file: bytes | Path) -> dict[str, Any]:
    """How many frames a file has."""
    from medclf.images import reading

    return {"n_frames": reading.n_frames(file)}


def facts_of(file: bytes | Path) -> dict[str, Any]:
    """Frames, width and height of a file, and of DICOM the tags of an allowlist, as text that names nobody."""
    from medclf.images import reading

    found = reading.probe(file)
    facts: dict[str, Any] = {"n_frames": found.n_frames, "width": found.width, "height": found.height}
    if found.format == "DICOM":
        from medclf.images.dicom import safe_header, scanner

        facts["tags"] = {name: value for name, value in safe_header(file).items() if isinstance(value, str)}
        facts["tags"]["scanner"] = scanner(file)
    return facts


def described(facts: Callable[[bytes], dict[str, Any]], unit: str | None, file: bytes) -> dict[str, Any]:
    """What `facts` says of a file, and where answers are for units, the `owner` that a DICOM file names."""
    from medclf.images.dicom import owner

    found = facts(file)
    if unit:
        with contextlib.suppress(ReadError):  # another file
            found["owner"] = owner(file, unit)
    return found


def serve_stdin(
    decode: Callable[[bytes], np.ndarray],
    describe: Callable[[bytes], Mapping[str, Any]] = lambda file: {},
    *,
    seconds: float,
    memory_mb: int,
) -> None:
    """Answer every file of stdin with what `decode` makes of it, within the limits.

    Args:
        decode: the bytes of a file -> uint8 pixels (H, W, C), or (n, H, W, C) of n frames.
        describe: the bytes of a file that could be decoded -> what else to say of it.
        seconds: of the processor that a file may cost; the kernel ends the process beyond them.
        memory_mb: address space above what the loaded modules take, in MiB.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which stops gracefully
    writer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not get between the answers
    _answer(decode, describe, blank_image())  # loads every module before memory is limited
    _limit_memory_and_files(memory_mb)
    _send(writer, {"ready": True})
    while length := sys.stdin.buffer.read(REQUEST.size):
        body = sys.stdin.buffer.read(REQUEST.unpack(length)[0])
        _limit_time(seconds)
        _send(writer, *_answer(decode, describe, body))


def blank_image() -> bytes:
    """A small PNG that warms up whatever decodes or predicts it; of no model's size, so that it is resized."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (97, 89)).save(file, "PNG")
    return file.getvalue()


def _answer(
    decode: Callable[[bytes], np.ndarray], describe: Callable[[bytes], Mapping[str, Any]], body: bytes
) -> tuple[dict[str, Any], bytes]:
    try:
        pixels = decode(body)
    except ReadError as error:
        return {"error": type(error).__name__, "reason": error.reason, "remedy": error.remedy}, b""
    except MedclfError as error:
        return {"error": "ReadError", "reason": error.message, "remedy": error.remedy}, b""
    facts: dict[str, Any] = {}
    with contextlib.suppress(MedclfError):  # an odd header spoils no image that could be decoded
        facts = dict(describe(body))
    return {"shape": pixels.shape, "facts": facts}, np.ascontiguousarray(pixels, np.uint8).tobytes()


def _send(writer: BinaryIO, header: Mapping[str, Any], pixels: bytes = b"") -> None:
    head = json.dumps(header).encode()
    writer.write(ANSWER.pack(len(head), len(pixels)) + head + pixels)
    writer.flush()


def _limit_memory_and_files(memory_mb: int) -> None:
    if sys.platform != "linux":  # elsewhere the address space in use is not told, and the time limit alone holds
        return
    import resource

    with open("/proc/self/statm") as file:  # noqa: PTH123
        used = int(file.read().split()[0]) * resource.getpagesize()
    for kind, value in (
        (resource.RLIMIT_AS, used + memory_mb * 2**20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),  # a core file would hold the patient's pixels
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _limit_time(seconds: float) -> None:
    if sys.platform == "win32":
        return
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(usage.ru_utime + usage.ru_stime + seconds) + 1  # the kernel counts whole seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
