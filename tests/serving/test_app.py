"""The service over real connections: answers, refusals, limits, and what it lets nobody know."""

import asyncio
import base64
import contextlib
import gzip
import io
import json
import logging
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pydicom.data
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from medclf.errors import MedclfError
from medclf.images.heatmap import check_places
from medclf.serving import http_timeouts
from medclf.serving.app import check_exposure, create_app, running, serve
from medclf.serving.limits import Limits

PNG = {"Content-Type": "image/png"}
CLIENT = httpx.Client(timeout=60)  # the machine may be busy
TOKEN = "a-token-of-some-length"


# --- answers ---


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize(("level", "label"), [(51, "dark"), (204, "light")])
def test_a_picture_is_answered_with_the_model_s_own_probabilities(
    url: str, picture: Any, kind: str, level: int, label: str
) -> None:
    response = CLIENT.post(f"{url}/v1/predict", content=picture(level, kind), headers={"Content-Type": f"image/{kind}"})
    assert response.status_code == 200
    answer = response.json()
    assert answer["label"] == label
    assert answer["probs"]["light"] == pytest.approx(level / 255, abs=0.005)
    assert answer["flags"] == []
    assert answer["model"] == {"name": "brightness", "hash": "0" * 64}
    assert set(answer) == {"label", "probs", "flags", "model"}


def test_a_dicom_file_is_answered(url: str) -> None:
    body = Path(pydicom.data.get_testdata_file("CT_small.dcm")).read_bytes()
    response = CLIENT.post(f"{url}/v1/predict", content=body, headers={"Content-Type": "application/dicom"})
    assert response.status_code == 200
    assert sum(response.json()["probs"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "kind", ["image/jpg", "image/pjpeg", "image/x-png", "image/x-ms-bmp", "Image/JPG; q=1", "application/octet-stream"]
)
def test_other_names_of_a_kind_are_taken_as_well(url: str, picture: Any, kind: str) -> None:
    """Clients send image/jpg; the first bytes tell what a file is."""
    response = CLIENT.post(f"{url}/v1/predict", content=picture(204, "JPEG"), headers={"Content-Type": kind})
    assert response.status_code == 200 and response.json()["label"] == "light"


def test_it_is_said_which_frame_of_a_file_was_looked_at(url: str) -> None:
    body = io.BytesIO()
    pages = [Image.new("L", (40, 40), grey) for grey in (51, 51, 204, 51)]
    pages[0].save(body, "TIFF", save_all=True, append_images=pages[1:])
    headers = {"Content-Type": "image/tiff"}
    answer = CLIENT.post(f"{url}/v1/predict", content=body.getvalue(), headers=headers).json()
    assert answer["label"] == "light"
    assert answer["note"].startswith("the file holds 4 frames, pages or slices: the middle one was looked at")


@pytest.mark.parametrize("kind", ["application/octet-stream", "application/gzip"])
def test_a_volume_is_answered_by_its_middle_slice(url: str, kind: str) -> None:
    nib = pytest.importorskip("nibabel")
    values = np.zeros((12, 10, 5), np.uint8)
    values[:, :, 2] = 204
    body = gzip.compress(nib.Nifti1Image(values, np.diag([1, 1, 4, 1])).to_bytes())
    answer = CLIENT.post(f"{url}/v1/predict", content=body, headers={"Content-Type": kind}).json()
    assert answer["label"] == "light" and "5 frames, pages or slices" in answer["note"]


def test_flags_preview_and_saliency_are_answered_where_asked_for(url: str, picture: Any) -> None:
    asked = {"preview": "true", "saliency": "true"}
    answer = CLIENT.post(f"{url}/v1/predict", params=asked, content=picture(128), headers=PNG).json()
    assert answer["flags"] == ["unsure"]
    assert np.asarray(_image(answer["preview"])).shape == (32, 32, 3)
    assert np.asarray(_image(answer["preview"])).mean() == pytest.approx(128)
    alpha = np.asarray(_image(answer["saliency"]))[..., 3]
    assert alpha[0, 0] == 0 and alpha[-1, -1] == 200  # the heat grows from the first pixel to the last


def test_why_a_map_is_lacking_is_answered(bundle: Any, picture: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(bundle, "saliency", lambda pixels, label: check_places((1, 1)))
    with running(create_app(bundle)) as address:
        answer = CLIENT.post(f"{address}/v1/predict?saliency=true", content=picture(), headers=PNG).json()
    assert answer["saliency_problem"] == "the feature map has 1 x 1 places: too coarse to show where"
    assert "saliency" not in answer


def _image(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_many_at_once_each_get_their_own_answer(url: str, picture: Any) -> None:
    levels = list(range(0, 256, 4))

    def ask(level: int) -> float:
        response = CLIENT.post(f"{url}/v1/predict", content=picture(level), headers=PNG)
        return response.json()["probs"]["light"]

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, levels))
    assert answers == pytest.approx([level / 255 for level in levels])


def test_the_model_and_the_interface_describe_themselves(url: str) -> None:
    model = CLIENT.get(f"{url}/v1/model").json()
    assert (model["name"], model["vocab"], model["card"]) == (
        "brightness",
        ["dark", "light"],
        {"intended use": "tests", "sensitivity": {"dark": "90 % of 10 images"}},
    )
    spec = CLIENT.get(f"{url}/openapi.json").json()
    assert set(spec["paths"]) == {"/v1/predict", "/v1/predict_unit", "/v1/model", "/metrics", "/healthz", "/readyz"}
    assert set(spec["paths"]["/v1/predict"]["post"]["requestBody"]["content"]) == {
        "image/png",
        "image/jpeg",
        "image/tiff",
        "image/bmp",
        "image/webp",
        "application/dicom",
        "application/octet-stream",
    }
    docs = CLIENT.get(f"{url}/docs").text
    assert all(path in docs for path in spec["paths"])
    assert CLIENT.get(f"{url}/healthz").json() == {"status": "ok"}
    assert CLIENT.get(f"{url}/readyz").json() == {"status": "ready"}


def test_a_label_with_markup_stays_text_in_every_page(bundle: Any, quick_decoder: type) -> None:
    bundle.vocab = ["<img src=x onerror=alert(1)>", "light"]
    bundle.name = "<script>alert(1)</script>"
    with running(create_app(bundle)) as address:
        for path in ("/", "/docs"):
            assert "alert(1)" not in CLIENT.get(address + path).text  # the pages know nothing of the model
        assert CLIENT.get(f"{address}/v1/model").headers["content-type"] == "application/json"


def test_it_ends_though_something_else_handles_the_ends_of_children(url: str, bundle: Any) -> None:
    """A DataLoader with processes takes SIGCHLD over for good while one service runs; another must still stop."""
    before = signal.getsignal(signal.SIGCHLD)

    def start_and_stop() -> None:
        with running(create_app(bundle)) as address:
            assert CLIENT.get(f"{address}/readyz").status_code == 200

    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        thread = threading.Thread(target=start_and_stop, daemon=True)
        thread.start()
        thread.join(60)
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    assert not thread.is_alive()


def test_metrics_count_answers_labels_and_batches(bundle: Any, quick_decoder: type, picture: Any) -> None:
    with running(create_app(bundle)) as address:
        for _ in range(3):
            assert CLIENT.post(f"{address}/v1/predict", content=picture(), headers=PNG).status_code == 200
        CLIENT.post(f"{address}/v1/predict", content=b"", headers=PNG)
        CLIENT.get(f"{address}/a/path/that/nobody/has")
        found = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(CLIENT.get(f"{address}/metrics").text)
            for sample in family.samples
        }
    assert found["medclf_requests_total", "/v1/predict", "200"] == 3
    assert found["medclf_requests_total", "/v1/predict", "400"] == 1
    assert found["medclf_requests_total", "404", "other"] == 1
    assert found["medclf_predictions_total", "light"] == 3
    assert found["medclf_batch_size_sum",] == 4  # one to warm up
    assert found["medclf_waiting_uploads",] == 0


def test_on_a_cpu_a_batch_holds_four_images(bundle: Any, quick_decoder: type, picture: Any) -> None:
    predict = bundle.predict_pixels

    def slowly(pixels: np.ndarray) -> Any:  # so that the others wait
        time.sleep(0.3)
        return predict(pixels)

    bundle.predict_pixels = slowly
    with running(create_app(bundle)) as address, ThreadPoolExecutor(16) as clients:
        asked = [
            clients.submit(CLIENT.post, f"{address}/v1/predict", content=picture(), headers=PNG) for _ in range(16)
        ]
        assert [one.result().status_code for one in asked] == [200] * 16
        text = CLIENT.get(f"{address}/metrics").text
    sizes = {
        sample.labels["le"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "medclf_batch_size_bucket"
    }
    assert sizes["4.0"] == sizes["+Inf"] > 0


# --- refusals ---


def _bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes that declares thousands of megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"", PNG, 400, "no body"),
        (b"GIF89a" + bytes(200), PNG, 415, "not an image"),
        (b"anything", {"Content-Type": "text/plain"}, 415, "Content-Type"),
        (b"anything", {}, 415, "Content-Type"),
        (b"anything", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "Content-Type"),
        (b"\xff\xd8\xff" + bytes(50), {"Content-Type": "image/jpeg"}, 422, "JPEG"),
        (bytes(128) + b"DICM" + bytes(300), {"Content-Type": "application/dicom"}, 422, ""),
        (_bomb(), PNG, 413, "declares"),
        (bytes(2**20 + 1), PNG, 413, "larger than 1 MiB"),
    ],
    ids=["empty", "gif", "text", "untyped", "form", "broken jpeg", "broken dicom", "bomb", "large"],
)
def test_a_refusal_says_why_and_what_to_do(
    url: str, body: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    response = CLIENT.post(f"{url}/v1/predict", content=body, headers=headers)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "remedy"}
    assert says in response.json()["error"] and all(response.json().values())
    assert "/proc" not in response.text and "upload:" not in response.text


def test_unknown_paths_methods_and_parameters_are_refused_alike(url: str) -> None:
    for response, status in (
        (CLIENT.get(f"{url}/nowhere"), 404),
        (CLIENT.get(f"{url}/v1/predict"), 405),
        (CLIENT.get(f"{url}/service.html/../../server.py"), 404),
        (CLIENT.post(f"{url}/v1/predict?preview=perhaps", content=b"x", headers=PNG), 422),
        (CLIENT.post(f"{url}/v1/predict?salience=true", content=b"x", headers=PNG), 422),
        (CLIENT.post(f"{url}/v1/predict?frame=2", content=b"x", headers=PNG), 422),
        (CLIENT.post(f"{url}/v1/predict?saliency=true&label=dark", content=b"x", headers=PNG), 422),
        (CLIENT.post(f"{url}/v1/predict?sketch=false&sketch=true", content=b"x", headers=PNG), 422),
        (CLIENT.post(f"{url}/v1/predict/", content=b"x", headers=PNG), 404),
        (CLIENT.post(f"{url}/v1/predict", content=b"x", headers={**PNG, "Content-Encoding": "gzip"}), 415),
    ):
        assert response.status_code == status
        assert set(response.json()) == {"error", "remedy"}


@pytest.mark.parametrize("body", [b"Content-Length: 9\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhalf"])
def test_a_body_that_breaks_off_is_refused_where_its_sender_still_reads(url: str, body: bytes) -> None:
    with socket.create_connection(_address(url)) as client:
        client.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n" + body)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(30)
        received = b""
        while chunk := client.recv(4096):
            received += chunk
    assert received.startswith(b"HTTP/1.1 400 ")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"] == "the upload broke off"


def test_a_gigabyte_without_a_length_is_refused_in_flat_memory(url: str) -> None:
    block, sent = bytes(2**20), 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1024):
            sent += len(block)
            yield block

    process = psutil.Process()
    before, started = process.memory_info().rss, time.monotonic()
    response = CLIENT.post(f"{url}/v1/predict", content=endless(), headers=PNG)
    assert response.status_code == 413
    assert response.json()["error"] == "the upload is larger than 1 MiB"
    assert process.memory_info().rss - before < 50 * 2**20  # the service runs in this process
    assert time.monotonic() - started < 20
    assert sent > 2**20


@pytest.mark.parametrize("length", ["1073741824", "9" * 20, "9" * 90])
def test_a_declared_length_is_refused_before_the_body_is_sent(url: str, length: str) -> None:
    with socket.create_connection(_address(url)) as client:
        client.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            b"Content-Length: " + length.encode() + b"\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(4096).split()[1] in (b"413", b"400")  # or no HTTP, as some parsers have it


def _address(url: str) -> tuple[str, int]:
    parts = httpx.URL(url)
    assert parts.port
    return parts.host, parts.port


def test_without_a_token_only_this_machine_s_names_are_answered(url: str, picture: Any) -> None:
    foreign = {**PNG, "Host": "rebound.example"}
    response = CLIENT.post(f"{url}/v1/predict", content=picture(), headers=foreign)
    assert response.status_code == 421 and set(response.json()) == {"error", "remedy"}
    for name in ("localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:80"):
        assert CLIENT.get(f"{url}/healthz", headers={"Host": name}).status_code == 200
    for name in (
        "[::1].evil.example",
        "[::1]x:80",
        "localhost:80:80",
        "localhost:8a",
        "localhost@evil.test",
        "[::1",
    ):
        assert CLIENT.get(f"{url}/healthz", headers={"Host": name}).status_code in (400, 421), name


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), ("rebound.example", 421)])
def test_a_whole_address_is_asked_for_as_its_path_is(url: str, host: str, status: int) -> None:
    """RFC 9112 3.2.2: a server must accept it, and its host is the one that counts."""
    with socket.create_connection(_address(url)) as client:
        client.settimeout(30)
        client.sendall(f"GET http://{host}/healthz?a=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert client.recv(4096).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_token_guards_the_model_and_leaves_the_page_and_the_probes_open(
    bundle: Any, quick_decoder: type, picture: Any
) -> None:
    bundle.name = "model-of-mine"
    with running(create_app(bundle, token=TOKEN)) as address:
        for wrong in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Basic {TOKEN}"}, _bearer(TOKEN[:-1])):
            for response in (
                CLIENT.post(f"{address}/v1/predict", content=picture(), headers={**PNG, **wrong}),
                CLIENT.get(f"{address}/v1/model", headers=wrong),
                CLIENT.get(f"{address}/metrics", headers=wrong),
            ):
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == "Bearer"
                assert "Authorization: Bearer" in response.json()["remedy"]
        right = {**PNG, **_bearer(TOKEN)}
        assert CLIENT.post(f"{address}/v1/predict", content=picture(), headers=right).status_code == 200
        for path in ("/", "/service.js", "/answer.js", "/service.css", "/docs", "/openapi.json", "/healthz", "/readyz"):
            response = CLIENT.get(address + path, headers={"Host": "models.example"})
            assert response.status_code == 200
            assert bundle.name not in response.text and TOKEN not in response.text


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "models.example"])
def test_an_open_host_asks_for_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(MedclfError, match=r"no token is set\nset one with token or MEDCLF_TOKEN"):
        serve(tmp_path, host=host)
    for poor in ("", "short", "with a space in it", "töken-of-enough-length"):
        with pytest.raises(MedclfError, match="16 or more"):
            serve(tmp_path, host=host, token=poor)
    check_exposure(host, TOKEN)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_no_address_has_is_refused(bundle: Any, port: int) -> None:
    said = rf"cannot listen on 127\.0\.0\.1:{port}: .*0-65535"
    with pytest.raises(MedclfError, match=said), running(create_app(bundle), port=port):
        pass


def test_a_port_that_is_taken_is_named(bundle: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MedclfError, match=f"127.0.0.1:{port}"), running(create_app(bundle), port=port):
            pass


# --- back-pressure, slow clients, stopping ---


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 0, None, True])
@pytest.mark.parametrize("name", ["max_bytes", "max_queue", "answer_seconds"])
def test_a_limit_that_would_let_everything_pass_is_refused(name: str, value: Any) -> None:
    with pytest.raises(MedclfError, match=f"{name} must be a number above 0"):
        Limits(**{name: value})


def test_a_full_queue_is_answered_429_at_once_and_empties(bundle: Any, quick_decoder: Any, picture: Any) -> None:
    quick_decoder.seconds = 0.3
    with running(create_app(bundle, max_queue=4)) as address:

        def ask(_: int) -> httpx.Response:
            return CLIENT.post(f"{address}/v1/predict", content=picture(), headers=PNG)

        with ThreadPoolExecutor(24) as threads:
            responses = list(threads.map(ask, range(24)))
        statuses = [response.status_code for response in responses]
        assert set(statuses) == {200, 429} and statuses.count(200) >= 4
        refused = next(response for response in responses if response.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1 and "remedy" in refused.json()
        assert ask(0).status_code == 200


def test_an_answer_that_takes_too_long_is_503_and_no_hang(bundle: Any, quick_decoder: Any, picture: Any) -> None:
    quick_decoder.seconds = 0.0
    app = create_app(bundle, limits=Limits(answer_seconds=0.2))
    with running(app) as address:
        quick_decoder.seconds = 30.0
        response = CLIENT.post(f"{address}/v1/predict", content=picture(), headers=PNG)
        assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1


def test_bytes_held_for_all_clients_together_are_bounded(bundle: Any, quick_decoder: Any) -> None:
    quick_decoder.seconds = 0.5
    limits = Limits(max_bytes=2**20, max_held_bytes=3 * 2**20)
    with running(create_app(bundle, limits=limits)) as address:

        def ask(_: int) -> int:
            return CLIENT.post(f"{address}/v1/predict", content=bytes(2**20), headers=PNG).status_code

        with ThreadPoolExecutor(8) as threads:
            statuses = list(threads.map(ask, range(8)))
        assert statuses.count(200) >= 2 and statuses.count(429) >= 3
        assert ask(0) == 200  # what was held is counted back


def test_a_trickling_upload_is_given_up(bundle: Any, quick_decoder: type) -> None:
    limits = Limits(read_seconds=0.4, min_rate=1000)
    with running(create_app(bundle, limits=limits)) as address, socket.create_connection(_address(address)) as client:
        client.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n")
        client.sendall(b"Content-Length: 100000\r\n\r\n")
        started = time.monotonic()
        answer = _trickle_until_answered(client)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert 0.3 < time.monotonic() - started < 5


def _trickle_until_answered(client: socket.socket) -> bytes:
    client.settimeout(0.1)
    for _ in range(100):
        client.sendall(b"x")  # never a pause as long as read_seconds, but far below min_rate
        try:
            return client.recv(4096)
        except TimeoutError:
            continue
    return b""


def test_what_came_fast_buys_no_trickling(bundle: Any, quick_decoder: type) -> None:
    """100 kB at once would pay for 100 s at 1,000 bytes a second."""
    limits = Limits(read_seconds=0.5, min_rate=1000)
    with running(create_app(bundle, limits=limits)) as address, socket.create_connection(_address(address)) as client:
        client.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n")
        client.sendall(b"Content-Length: 200000\r\n\r\n" + b"x" * 100_000)
        started = time.monotonic()
        assert _trickle_until_answered(client).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started < 5


def test_an_upload_has_a_deadline_in_all(bundle: Any, quick_decoder: type) -> None:
    limits = Limits(read_seconds=0.5, min_rate=1, upload_seconds=1.0)
    with running(create_app(bundle, limits=limits)) as address, socket.create_connection(_address(address)) as client:
        client.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n")
        client.sendall(b"Content-Length: 100000\r\n\r\n")
        started = time.monotonic()
        assert _trickle_until_answered(client).startswith(b"HTTP/1.1 408 ")
        assert 0.8 < time.monotonic() - started < 6


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_whoever_hangs_up_leaves_the_queue(bundle: Any, quick_decoder: Any, picture: Any, reset: bool) -> None:
    """Twelve uploads of one second each are left behind; the next client waits for the one in hand alone."""
    quick_decoder.seconds = 0.0
    with running(create_app(bundle)) as address:
        quick_decoder.seconds, one_at_a_time = 1.0, asyncio.Semaphore(1)
        decode = quick_decoder.decode

        async def in_turn(self: Any, body: bytes) -> Any:
            async with one_at_a_time:
                return await decode(self, body)

        quick_decoder.decode = in_turn
        body = picture()
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(body)}"
        for _ in range(12):
            with socket.create_connection(_address(address)) as client:
                client.sendall(head.encode() + b"\r\n\r\n" + body)
                time.sleep(0.05)
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        started = time.monotonic()
        assert CLIENT.post(f"{address}/v1/predict", content=body, headers=PNG).status_code == 200
        assert time.monotonic() - started < 6
        assert "medclf_waiting_uploads 0.0" in CLIENT.get(f"{address}/metrics").text


def test_maps_are_made_one_at_a_time_also_where_clients_hang_up(
    bundle: Any, quick_decoder: Any, picture: Any, monkeypatch: Any
) -> None:
    under_way, most, made = 0, 0, bundle.saliency

    def slowly(pixels: np.ndarray, label: str) -> np.ndarray:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.3)
        under_way -= 1
        return made(pixels, label)

    monkeypatch.setattr(bundle, "saliency", slowly)
    with running(create_app(bundle)) as address:
        for _ in range(4):
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"{address}/v1/predict?saliency=true", content=picture(), headers=PNG, timeout=0.1)
        assert "saliency" in CLIENT.post(f"{address}/v1/predict?saliency=true", content=picture(), headers=PNG).json()
    assert most == 1


def test_idle_connections_leave_room_for_probes(
    bundle: Any, quick_decoder: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_timeouts, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(http_timeouts, "_ROOM", 5)
    with running(create_app(bundle)) as address:
        idle = [socket.create_connection(_address(address)) for _ in range(40)]
        for client in idle[::2]:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.3)
        assert httpx.get(f"{address}/readyz", timeout=30).status_code == 200
        for client in idle:
            client.close()


def test_one_connection_too_many_is_refused_as_everything_is(
    bundle: Any, quick_decoder: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_timeouts, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(http_timeouts, "_ROOM", 1)
    quick_decoder.seconds = 0.0
    with running(create_app(bundle)) as address:
        quick_decoder.seconds = 2.0
        busy = []
        for _ in range(3):  # at work, not idle
            client = socket.create_connection(_address(address))
            head = (
                "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n"
            )
            client.sendall(head.encode() + b"x" * 9)
            busy.append(client)
        time.sleep(0.3)
        response = httpx.get(f"{address}/healthz", timeout=30)
        assert response.status_code == 503 and response.headers["retry-after"] == "1"
        assert set(response.json()) == {"error", "remedy"}
        for client in busy:
            client.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"NO HTTP AT ALL\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_as_everything_is(url: str, sent: bytes) -> None:
    with socket.create_connection(_address(url)) as client:
        client.sendall(sent)
        client.settimeout(30)
        received = b""
        while chunk := client.recv(4096):
            received += chunk
    assert received.startswith(b"HTTP/1.1 400 ")
    assert set(json.loads(received.partition(b"\r\n\r\n")[2])) == {"error", "remedy"}


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/docs", "/v1/model", "/metrics"])
def test_head_is_get_without_the_content(url: str, path: str) -> None:
    head, get = CLIENT.head(url + path), CLIENT.get(url + path)
    assert head.status_code == get.status_code == 200 and head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]
    assert path == "/metrics" or head.headers["content-length"] == get.headers["content-length"]
    assert CLIENT.head(f"{url}/v1/predict").status_code == 405


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc", b"\x16\x03\x01"], ids=["nothing", "half a header", "TLS"]
)
def test_a_connection_that_never_asks_is_dropped(
    bundle: Any, quick_decoder: type, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_timeouts, "HEADER_SECONDS", 0.5)
    with running(create_app(bundle)) as address:
        with socket.create_connection(_address(address)) as client:
            client.sendall(sent)
            client.settimeout(10)
            started = time.monotonic()
            answer = _until_closed(client)
            assert not answer or set(json.loads(answer)) == {"error", "remedy"}
            assert time.monotonic() - started < 5
        assert CLIENT.get(f"{address}/healthz").status_code == 200


def _until_closed(client: socket.socket) -> bytes:
    received = b""
    try:
        while chunk := client.recv(4096):
            received += chunk
    except ConnectionResetError:
        return b""
    return received.partition(b"\r\n\r\n")[2]


def test_a_header_that_comes_byte_by_byte_gets_no_new_deadline(
    bundle: Any, quick_decoder: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_timeouts, "HEADER_SECONDS", 0.5)
    with running(create_app(bundle)) as address, socket.create_connection(_address(address)) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        with pytest.raises(ConnectionError):
            for _ in range(60):
                client.sendall(b"x")
                time.sleep(0.1)


def test_a_client_that_never_reads_is_dropped(
    bundle: Any, quick_decoder: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_timeouts, "READ_ANSWER_SECONDS", 0.5)
    with running(create_app(bundle)) as address, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(_address(address))
        client.settimeout(0.2)
        asking, dropped = b"GET /service.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200, False
        deadline = time.monotonic() + 20
        while not dropped and time.monotonic() < deadline:
            try:
                client.sendall(asking)
            except TimeoutError:
                continue
            except ConnectionError:
                dropped = True
        assert dropped


def test_what_is_in_hand_is_answered_before_the_service_stops(bundle: Any, quick_decoder: Any, picture: Any) -> None:
    quick_decoder.seconds = 0.0
    answers: list[int] = []
    with running(create_app(bundle)) as address:
        quick_decoder.seconds = 1.0

        def ask() -> None:
            answers.append(CLIENT.post(f"{address}/v1/predict", content=picture(), headers=PNG).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.4)
    asking.join()
    assert answers == [200]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/healthz")


# --- what nobody gets to know ---


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What the services that are started here log; afterwards nothing writes to what was captured."""
    yield lambda: capsys.readouterr().err
    for name in ("uvicorn", "medclf.serve"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel("CRITICAL")


def test_nothing_of_an_upload_reaches_the_log(bundle: Any, quick_decoder: type, log: Callable[[], str]) -> None:
    secret, warm = "Doe^Jane", bundle.predict_pixels(np.zeros((1, 32, 32, 3), np.uint8))

    def fail(pixels: np.ndarray) -> Any:
        if pixels.any():
            raise RuntimeError(f"a message that quotes {secret}")
        return warm

    bundle.predict_pixels = fail
    quick_decoder.level = 0
    with running(create_app(bundle), log_level="info") as address:
        quick_decoder.level = 204
        hostile = {**PNG, "X-File-Name": secret, "User-Agent": secret, "Referer": secret}
        response = CLIENT.post(f"{address}/v1/predict?name={secret}", content=secret.encode(), headers=hostile)
        CLIENT.get(f"{address}/{secret}", headers=hostile)
    lines = log()
    assert response.status_code == 500 and set(response.json()) == {"error", "remedy"}
    assert "RuntimeError" in lines and "in fail" in lines  # where it happened
    assert re.search(r"POST /v1/predict 500 \d+ ms 8 bytes", lines) and "GET other 404" in lines
    assert "Doe" not in lines + response.text and "127.0.0.1" not in lines


def test_a_request_makes_a_short_line_whatever_it_calls_itself(
    bundle: Any, quick_decoder: type, log: Callable[[], str]
) -> None:
    with (
        running(create_app(bundle), log_level="info") as address,
        socket.create_connection(_address(address)) as client,
    ):
        client.sendall(b"X" * 30_000 + b" /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.settimeout(30)
        client.recv(4096)
        time.sleep(0.2)
    lines = log().splitlines()
    assert any(" OTHER other 405 " in line or " OTHER other 404 " in line for line in lines)
    assert max(map(len, lines)) < 300


def test_every_answer_carries_the_security_headers(url: str) -> None:
    for path in ("/", "/docs", "/service.js", "/answer.js", "/v1/model", "/nowhere"):
        headers = CLIENT.get(url + path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_the_pages_name_no_other_host() -> None:
    folder = resources.files("medclf.serving") / "templates"
    for file in folder.iterdir():
        if file.name.startswith(("service", "answer", "interface")):
            text = file.read_text(encoding="utf-8")
            assert not re.findall(r"""(?:src|href|url|import|fetch)[=(\s"'`]+(?:https?:)?//""", text), file.name
            assert "innerHTML" not in text and " style=" not in text


def test_the_service_loads_no_fastai() -> None:
    program = "import sys, medclf.serving.routes, medclf.serving.app, medclf.serving.http_timeouts;"
    program += "print([name for name in ('fastai', 'fastcore', 'matplotlib', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_path_is_no_bundle() -> None:
    with pytest.raises(MedclfError, match="takes a bundle, not its path RUN"):
        create_app("RUN")  # type: ignore[arg-type]


def test_an_application_can_be_run_again(bundle: Any, picture: Any) -> None:
    """As a notebook's cell is: its queues were bound to the first event loop, and the second run never began."""
    app = create_app(bundle)
    for _ in range(2):
        with running(app) as url:
            answers = [CLIENT.post(f"{url}/v1/predict", content=picture(200), headers=PNG) for _ in range(3)]
            assert {answer.json()["label"] for answer in answers} == {"light"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"workers": 0}, "workers must be 1 or more, not 0"),
        ({"streams": -1}, "streams must be 1 or more, not -1"),
        ({"bundle": Path("a.bundle")}, "not its path a.bundle"),
        ({"bundle": None}, "not a NoneType"),
    ],
)
def test_what_cannot_serve_is_refused_at_once(bundle: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(MedclfError, match=said):
        create_app(**{"bundle": bundle, **given})


HOST = "models.example.org"


def test_one_host_needs_no_list(bundle: Any) -> None:
    with running(create_app(bundle, hosts=HOST)) as url:
        found = {host: CLIENT.get(f"{url}/healthz", headers={"Host": host}).status_code for host in ("models", HOST)}
    assert found == {"models": 421, HOST: 200}
