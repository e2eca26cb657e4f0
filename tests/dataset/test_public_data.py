import hashlib
import io
import json
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import medclf.dataset.download
from medclf.dataset.download import CHUNK, download
from medclf.dataset.public_data import CATALOG, DataSet, describe, fetch, fetch_into
from medclf.dataset.unpack import unpack
from medclf.errors import DataError, OutputError


def zip_of(**members: bytes) -> bytes:
    """A zip file of the members, "__" in a name standing for "/"."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return file.getvalue()


NOISE = np.random.default_rng(0).bytes(400_000)


@dataclass
class Host:
    """What the server on loopback does, and what it was asked."""

    content: bytes = NOISE
    etag: str | None = '"v1"'
    modified: str | None = None
    cut_after: list[int] = field(default_factory=list)  # bytes of each answer until the line breaks
    statuses: list[int] = field(default_factory=list)  # to answer first
    knows_ranges: bool = True
    says_length: bool = True
    wrong_range: bool = False
    location: str | None = None
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    sent: int = 0
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        host: Host = self.server.host  # type: ignore[attr-defined]
        asked = self.headers.get("Range"), self.headers.get("If-Range")
        host.asked.append(asked)
        if host.location:
            self.send_response(302)
            self.send_header("Location", host.location)
            self.end_headers()
            return
        if host.statuses:
            self.send_error(host.statuses.pop(0))
            return
        start = 0
        if asked[0] and host.knows_ranges and asked[1] in (None, host.etag, host.modified):
            start = int(asked[0].removeprefix("bytes=").rstrip("-"))
        if start and start >= len(host.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            first = start + host.wrong_range
            self.send_header("Content-Range", f"bytes {first}-{len(host.content) - 1}/{len(host.content)}")
        if host.says_length:
            self.send_header("Content-Length", str(len(host.content) - start))
        for name, value in (("ETag", host.etag), ("Last-Modified", host.modified)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        end = start + host.cut_after.pop(0) if host.cut_after else len(host.content)
        body = host.content[start:end]
        host.sent += len(body)
        self.wfile.write(body)
        self.close_connection = True


@pytest.fixture
def host() -> Iterator[Host]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.host = Host(url=f"http://127.0.0.1:{server.server_port}/set.zip")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server.host  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def get(host: Host, path: Path, **kwargs) -> bytes:
    download(host.url, path, wait_s=0, progress=False, **kwargs)
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]  # nothing is left beside it
    return path.read_bytes()


# ---- download


def test_whole_at_once(host, tmp_path):
    assert get(host, tmp_path / "a.zip", size=len(NOISE)) == NOISE
    assert host.asked == [(None, None)]


def test_goes_on_after_cuts(host, tmp_path):
    host.cut_after = [6 * CHUNK, 3 * CHUNK, 100, CHUNK + 7]
    assert get(host, tmp_path / "a.zip") == NOISE
    starts = [6 * CHUNK, 9 * CHUNK, 9 * CHUNK, 10 * CHUNK]
    assert host.asked == [(None, None)] + [(f"bytes={start}-", '"v1"') for start in starts]
    assert host.sent == len(NOISE) + 107  # but for a last piece nothing comes twice


def test_goes_on_in_another_run(host, tmp_path):
    host.cut_after = [6 * CHUNK] + [0] * 50
    with pytest.raises(DataError, match=r"cannot be fetched: .*\n.*goes on from here"):
        download(host.url, tmp_path / "a.zip", wait_s=0, tries=3, progress=False)
    assert len(host.asked) == 4  # one brought something, three brought nothing
    assert not (tmp_path / "a.zip").exists()
    host.cut_after = []
    assert get(host, tmp_path / "a.zip") == NOISE
    assert host.asked[-1][0] == f"bytes={6 * CHUNK}-"


def test_starts_again_when_the_server_knows_no_ranges(host, tmp_path):
    host.knows_ranges, host.cut_after = False, [6 * CHUNK]
    assert get(host, tmp_path / "a.zip") == NOISE
    assert host.sent == 6 * CHUNK + len(NOISE)


def test_starts_again_when_the_file_changed(host, tmp_path):
    host.cut_after = [6 * CHUNK] + [0] * 9
    with pytest.raises(DataError):
        download(host.url, tmp_path / "a.zip", wait_s=0, tries=2, progress=False)
    host.content, host.etag, host.cut_after = NOISE[::-1], '"v2"', []
    assert get(host, tmp_path / "a.zip") == NOISE[::-1]


def test_starts_again_when_the_file_became_shorter(host, tmp_path):
    host.cut_after = [6 * CHUNK] + [0] * 9
    with pytest.raises(DataError):
        download(host.url, tmp_path / "a.zip", wait_s=0, tries=2, progress=False)
    host.content, host.cut_after = NOISE[:50_000], []
    assert get(host, tmp_path / "a.zip") == NOISE[:50_000]


def test_a_date_will_do_and_a_weak_etag_will_not(host, tmp_path):
    host.etag, host.modified, host.cut_after = 'W/"v1"', "Mon, 02 Jan 2017 00:00:00 GMT", [6 * CHUNK]
    assert get(host, tmp_path / "a.zip") == NOISE
    assert host.asked[1] == (f"bytes={6 * CHUNK}-", host.modified)


def test_without_any_sign_it_starts_again(host, tmp_path):
    host.etag, host.cut_after = None, [6 * CHUNK]
    assert get(host, tmp_path / "a.zip") == NOISE
    assert host.asked[1] == (None, None)


def test_a_part_of_another_address_is_not_used(host, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(b"x" * 100)
    (tmp_path / "a.zip.part.json").write_text(json.dumps({"url": "http://elsewhere", "validator": '"v1"'}))
    assert get(host, tmp_path / "a.zip") == NOISE


def test_unknown_length_is_checked_against_the_catalog(host, tmp_path):
    host.says_length, host.cut_after = False, [1000]
    with pytest.raises(DataError, match="has 1000 bytes, not 400000"):
        download(host.url, tmp_path / "a.zip", size=len(NOISE), wait_s=0, progress=False)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.zip.part.json"]


def test_busy_servers_are_asked_again_and_others_not(host, tmp_path):
    host.statuses = [503, 429]
    assert get(host, tmp_path / "a.zip") == NOISE
    host.statuses = [404]
    with pytest.raises(DataError, match="answers 404"):
        download(host.url, tmp_path / "b.zip", wait_s=0, progress=False)


def test_another_part_than_asked_for_is_refused(host, tmp_path):
    host.cut_after, host.wrong_range = [6 * CHUNK], True
    with pytest.raises(DataError, match="another part"):
        download(host.url, tmp_path / "a.zip", wait_s=0, progress=False)


def test_no_server_no_disk(host, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="ConnectionError"):
        download("http://127.0.0.1:9/x", tmp_path / "a.zip", wait_s=0, tries=2, progress=False)
    (tmp_path / "no").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="cannot be written"):
        download(host.url, tmp_path / "no" / "a.zip", wait_s=0, progress=False)


def test_https_does_not_become_http(host, tmp_path, monkeypatch):
    """A redirect to an unprotected address is refused before a byte of it is kept."""
    import requests

    real = requests.get
    monkeypatch.setattr(requests, "get", lambda url, **kwargs: real(host.url, **kwargs))
    with pytest.raises(DataError, match="unprotected"):
        download("https://example.org/x.zip", tmp_path / "a.zip", wait_s=0, progress=False)
    assert list(tmp_path.iterdir()) == []


# ---- unpack


def archive_at(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_unpack(tmp_path):
    archive = archive_at(tmp_path / "a.zip", zip_of(set__a__1="one", set__b__2="two"))
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("__MACOSX/set/a/._1", "leftovers")
    unpack(archive, tmp_path / "out", max_bytes=100, progress=False)
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"set/a/1", "set/b/2"}
    assert (tmp_path / "out/set/a/1").read_text() == "one"


def odd_member(name: str, mode: int = 0, flags: int = 0) -> bytes:
    """A zip file whose one member has this very name, mode and flags."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("x" * len(name))
        info.external_attr = mode << 16
        info.create_system = 3
        archive.writestr(info, "/etc/passwd")
        archive.writestr("fine.png", "fine")
    content = file.getvalue().replace(b"x" * len(name), name.encode())
    if flags:
        place = content.index(b"PK\x01\x02") + 8
        content = content[:place] + bytes([content[place] | flags]) + content[place + 1 :]
    return content


@pytest.mark.parametrize(
    "content, reason",
    [
        (odd_member("../evil.png"), "outside the folder"),
        (odd_member("a/../../evil.png"), "outside the folder"),
        (odd_member("/tmp/evil.png"), "outside the folder"),
        (odd_member("C:/evil.png"), "outside the folder"),
        (odd_member("..\\evil.png"), "outside the folder"),
        (odd_member("ok.png\0/../evil"), "outside the folder"),
        (odd_member("link.png", stat.S_IFLNK | 0o777), "link or a device"),
        (odd_member("device.png", stat.S_IFCHR), "link or a device"),
        (odd_member("secret.png", flags=1), "encrypted"),
        (zip_of(big=bytes(2_000_000)), "holds more than"),
        (b"no zip file at all", "is damaged"),
        (zip_of(a=NOISE)[:-1000], "is damaged"),
        (zip_of(a=NOISE).replace(NOISE[:100], bytes(100)), "is damaged"),
    ],
)
def test_hostile_archives_leave_nothing(tmp_path, content, reason):
    inner = tmp_path / "inner"
    inner.mkdir()
    archive = archive_at(inner / "a.zip", content)
    with pytest.raises(DataError, match=reason):
        unpack(archive, inner / "out", max_bytes=1_000_000, progress=False)
    assert list(inner.iterdir()) == [archive] and list(tmp_path.iterdir()) == [inner]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", "one")
        archive.writestr("a.png", "two")
    with pytest.raises(DataError, match="it is there twice"):
        unpack(tmp_path / "a.zip", tmp_path / "out", max_bytes=100, progress=False)


def test_a_member_larger_than_it_says_stops(tmp_path):
    """The central directory declares 10 bytes of a megabyte of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1_000_000))
    content = file.getvalue().replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    with pytest.raises(DataError, match=r"is damaged|larger than it says"):
        unpack(archive_at(tmp_path / "a.zip", content), tmp_path / "out", max_bytes=1000, progress=False)
    assert not (tmp_path / "out").exists()


# ---- catalog


SMALL = zip_of(wrapped__a__1="one", wrapped__a__2="two", wrapped__b__3="three")


@pytest.fixture
def small(host) -> DataSet:
    host.content = SMALL
    return DataSet("small", host.url, "three files", "do as you like", "A. Nobody 1999", len(SMALL), 1000)


def test_fetch_once(host, small, tmp_path, capsys):
    folder = fetch_into(small, tmp_path, progress=False)
    assert folder == tmp_path / "small" / "wrapped"
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    shown = capsys.readouterr().err
    assert "Licence: do as you like" in shown and "A. Nobody 1999" in shown
    record = json.loads((tmp_path / "small.json").read_text())
    assert record["sha256"] == hashlib.sha256(SMALL).hexdigest() and record["bytes"] == len(SMALL)
    assert not (tmp_path / "small.zip").exists()
    assert fetch_into(small, tmp_path, progress=False) == folder
    assert len(host.asked) == 1 and capsys.readouterr().err == ""


def test_the_checksum_of_the_first_use_is_verified_after(host, small, tmp_path):
    fetch_into(small, tmp_path, progress=False)
    for file in sorted((tmp_path / "small").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (tmp_path / "small").rmdir()
    host.content = SMALL.replace(b"three", b"eerht")
    with pytest.raises(DataError, match=r"not the file fetched before: its SHA-256.*\n.*delete .*small\.json"):
        fetch_into(small, tmp_path, progress=False)
    assert not (tmp_path / "small").exists()
    host.content = SMALL
    assert fetch_into(small, tmp_path, progress=False).is_dir()


def test_a_changed_folder_is_noticed(small, tmp_path):
    folder = fetch_into(small, tmp_path, progress=False)
    (folder / "a" / "1").unlink()
    with pytest.raises(DataError, match="was changed: unpacked_files is 2, not 3"):
        fetch_into(small, tmp_path, progress=False)


def test_a_folder_of_ones_own_is_left_alone(small, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "mine").touch()
    with pytest.raises(DataError, match="was not fetched by medclf"):
        fetch_into(small, tmp_path, progress=False)
    assert (tmp_path / "small" / "mine").exists()


def test_a_hostile_archive_is_not_kept(host, small, tmp_path):
    host.content = odd_member("../evil.png")
    with pytest.raises(DataError, match="do not trust"):
        fetch_into(replace(small, bytes=None), tmp_path, progress=False)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_two_at_once_fetch_once(host, small, tmp_path):
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch_into(small, tmp_path, False))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 4 and len(host.asked) == 1


def test_by_name(host, small, tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOG, "small", small)
    assert fetch("small", tmp_path, progress=False).is_dir()
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))
    assert fetch("small", progress=False) == tmp_path / "cache/datasets/small/wrapped"
    with pytest.raises(DataError, match=r"no data set is named 'imagenet'\n.*kvasir-v2"):
        fetch("imagenet")


def test_the_catalog():
    assert set(CATALOG) == {"kvasir-v1", "kvasir-v2", "hello-world"}
    for data_set in CATALOG.values():
        assert data_set.url.startswith("https://") and data_set.url.endswith(".zip")
        assert data_set.licence and data_set.citation and describe(data_set.name) is data_set
    assert CATALOG["kvasir-v2"].bytes == 2_489_312_085


def test_waits_grow(host, tmp_path, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(medclf.dataset.download.time, "sleep", waits.append)
    host.statuses = [500] * 4
    download(host.url, tmp_path / "a.zip", wait_s=1, progress=False)
    assert waits == sorted(waits) and waits[-1] > waits[0]
