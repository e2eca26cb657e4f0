"""One large file over HTTP: streamed, resumed where it was cut off, whole or not there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from medclf.errors import DataError, OutputError
from medclf.files import write_json
from medclf.progress import watch

CHUNK = 1 << 14  # what a cut can lose
TIMEOUT_S = (10, 60)  # to connect, between two pieces


class Cut(Exception):
    """The connection broke off; what has come is kept."""


def download(
    url: str, path: Path, *, size: int | None = None, tries: int = 5, wait_s: float = 1, progress: bool = True
) -> None:
    """Download `url` to `path`, going on where an earlier attempt was cut off.

    What has come lies in `path` + ".part". It is continued only when the server says by ETag or date that
    the file is still the same; otherwise it starts again.

    Args:
        url: http or https; a redirect from https to http is refused.
        path: where the whole file goes.
        size: bytes that it must have, where known.
        tries: attempts in a row that bring nothing before giving up.
        wait_s: seconds before the second attempt, doubled for each further one.
        progress: show a progress bar.

    Raises:
        DataError: the server refuses, cannot be reached, keeps cutting off, or sends another size.
        OutputError: the folder cannot be written to, or the disk is full.
    """
    part = path.with_name(path.name + ".part")
    failures = 0
    while True:
        before = _size(part)
        try:
            expected = _attempt(url, part, progress)
            break
        except Cut as cut:
            failures = 0 if _size(part) > before else failures + 1
            if failures >= tries:
                raise DataError(
                    f"{url} cannot be fetched: {cut}", "look at the network and run it again: it goes on from here"
                ) from cut
            time.sleep(wait_s * 2**failures)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"{part} cannot be written: {reason}", "free some space or choose a folder") from error
    expected = size or expected
    if expected is not None and _size(part) != expected:
        found = _size(part)
        part.unlink()
        raise DataError(f"{url} has {found} bytes, not {expected}", "its publisher may have changed it; try again")
    part.replace(path)
    _note(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path, progress: bool) -> int | None:
    """Fetch what is missing; returns the whole file's size where the server says it."""
    import requests

    have, headers = _ask_for_the_rest(url, part)
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
            if url.startswith("https:") and not answer.url.startswith("https:"):
                raise DataError(f"{url} redirects to an unprotected address", "try again later")
            if have and answer.status_code == 416:  # nothing is left, or it has become shorter
                part.unlink()
                raise Cut("the server has changed the file")
            if answer.status_code >= 500 or answer.status_code == 429:
                raise Cut(f"the server answers {answer.status_code}")
            if answer.status_code not in (200, 206):
                raise DataError(f"{url}: the server answers {answer.status_code}", "see whether the address is right")
            have, total = _where_it_begins(answer, have)
            _remember(url, part, answer)
            with part.open("r+b" if have else "wb") as file:
                file.seek(have)
                file.truncate()
                left = total - have if total is not None else None
                pieces = answer.iter_content(CHUNK)
                for piece in watch(pieces, left, f"Fetching {part.stem}", progress=progress, step="bytes"):
                    file.write(piece)
    except requests.RequestException as error:
        raise Cut(f"{type(error).__name__}") from error
    if total is not None and _size(part) < total:
        raise Cut(f"cut off after {_size(part)} of {total} bytes")
    return total


def _ask_for_the_rest(url: str, part: Path) -> tuple[int, dict[str, str]]:
    """How much is there already, and the headers that ask for what follows if the file is still the same."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "medclf"}
    note = _remembered(part)
    if note.get("url") != url or not note.get("validator") or not _size(part):
        return 0, headers
    have = _size(part)
    return have, headers | {"Range": f"bytes={have}-", "If-Range": str(note["validator"])}


def _where_it_begins(answer: Any, have: int) -> tuple[int, int | None]:
    """Offset of the first byte that comes, and the whole file's size where it is known."""
    if answer.status_code == 200:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(have):
        raise DataError(f"{answer.url}: the server sends another part than the one asked for", "try again later")
    return have, int(total) if total.isdigit() else None


def _remember(url: str, part: Path, answer: Any) -> None:
    """Keep what tells whether the file is still the same: a strong ETag, else the date of its last change."""
    etag = answer.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
    write_json(_note(part), {"url": url, "validator": validator})


def _remembered(part: Path) -> dict[str, Any]:
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
