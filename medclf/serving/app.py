"""The HTTP service: a page and an interface over one bundle."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medclf
from medclf.errors import DataError, MedclfError, argument, require
from medclf.inference.bundle_format import is_detector
from medclf.inference.runtimes import load_box_model, load_model
from medclf.inference.sketches import SketchBook
from medclf.parallel import n_cores
from medclf.results.record import RECORD, read_record
from medclf.serving.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from medclf.serving.service import Servable

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_SHORTEST_TOKEN = 16
_MAKE_TOKEN = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'


def create_app(
    bundle: Servable,
    *,
    token: str | None = None,
    max_bytes: int = Limits.max_bytes,
    max_queue: int = Limits.max_queue,
    workers: int = 1,
    streams: int | None = None,
    limits: Limits | None = None,
    hosts: Collection[str] | None = None,
    watch: str | Path | None = None,
    trained: str = "",
) -> FastAPI:
    """The service as an ASGI application, for uvicorn or any other server.

    Args:
        bundle: what `load_bundle` or `load_detector` returned, or an exported file as `load_model` gives it.
        token: what clients must send as `Authorization: Bearer TOKEN`; None asks for none.
        max_bytes: of one upload.
        max_queue: uploads that may wait at once; more are answered 429.
        workers: processes that decode, and so files decoded at once.
        streams: batches predicted at once, each with its share of the cores; two by default, one on a GPU.
        limits: all limits at once, instead of `max_bytes` and `max_queue`.
        hosts: the host names that requests may carry; without a token those of this machine alone, so
            that no web page can read answers through a name of its own. With a token, any.
        watch: folder to keep sketches of the images in, for `medclf watch`; none are kept where None.
        trained: the day on which the model was trained, for the page's "About this model".

    Raises:
        MedclfError: something else than a bundle was given, no workers, a short token, or a detector with `watch`.
        MissingDependency: the extra `serve` is not installed.
    """
    fastapi = require("fastapi", "serve")
    require("prometheus_client", "serve")
    from medclf.serving import routes, telemetry
    from medclf.serving.service import Service

    if not hasattr(bundle, "predict_pixels"):
        given = f"its path {bundle}" if isinstance(bundle, (str, Path)) else f"a {type(bundle).__name__}"
        remedy = "load it first: load_bundle(PATH); of a learner, save_bundle(learn, PATH) makes one"
        raise MedclfError(f"the service takes a bundle, not {given}", remedy)
    for name, count in (("workers", workers), ("streams", streams)):
        if count is not None and count < 1:
            raise MedclfError(f"{argument(name)} must be 1 or more, not {count}", "leave it out for the usual number")
    hosts = [hosts] if isinstance(hosts, str) else hosts
    if token is not None:
        _check_token(token)
    cores = n_cores()
    on_cpu = _is_on_cpu(bundle)
    streams = streams or (min(2, cores) if on_cpu else 1)  # two keep the cores busy while one waits for its pixels
    most = 4 if on_cpu else 16  # larger ones leave a core's cache, and take longer an image
    limits = limits or Limits(max_bytes=max_bytes, max_queue=max_queue)
    if watch is not None and hasattr(bundle, "on_file"):
        raise MedclfError(f"a detector keeps no sketches of its images for {argument('watch')}", "leave it out")
    book = None if watch is None else SketchBook(watch)
    how = {"workers": workers, "streams": streams, "threads": max(1, cores // streams), "max_batch": most}
    service = Service(bundle, limits, **how, book=book)

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app: FastAPI = fastapi.FastAPI(
        title="medclf",
        version=medclf.__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy it would send the image to another address, without TLS
        telemetry=dict.fromkeys(("tracing", "metrics", "logs", "auto_configure"), False),  # it quotes exceptions
    )
    app.include_router(routes.api(service, token, trained))
    app.include_router(routes.health(service))
    app.include_router(routes.pages(app))
    routes.add_error_handlers(app)
    allowed = (LOOPBACK_NAMES if token is None else ()) if hosts is None else hosts
    app.add_middleware(telemetry.Observed, meters=service.meters, hosts=allowed)
    return app


def serve(
    bundle_path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    *,
    max_bytes: int = Limits.max_bytes,
    max_queue: int = Limits.max_queue,
    workers: int = 1,
    runtime: str = "torch",
    device: str = "cpu",
    log_level: str = "info",
    watch: str | Path | None = None,
) -> None:
    """Serve a bundle until stopped by Ctrl-C or SIGTERM; requests in hand are then still answered.

    Args:
        bundle_path: the folder that `save_bundle` or `save_detector` wrote, or the file that `export_onnx` wrote.
        host: the address to listen on; any but this machine's own asks for a token.
        port: 0 takes a free one.
        token: at least 16 characters that clients must send.
        max_bytes: of one upload.
        max_queue: uploads that may wait at once.
        workers: processes that decode.
        runtime: "torch" or "onnx"; see `medclf.inference.runtimes.load_model`.
        device: likewise.
        log_level: "info" logs a line a request; "warning" only what goes wrong.
        watch: see `create_app`.

    Raises:
        MedclfError: no token for an open host, a token too short, or the port is taken.
        BundleError: the bundle cannot be used.
        MissingDependency: the extra `serve` is not installed.
    """
    check_exposure(host, token)
    load: Callable[..., Servable] = load_box_model if is_detector(Path(bundle_path)) else load_model
    bundle = load(bundle_path, runtime, threads=max(1, n_cores() // min(2, n_cores())), device=device)
    with _listening(host, port) as listener:
        limits: dict[str, Any] = {"max_bytes": max_bytes, "max_queue": max_queue, "workers": workers}
        app = create_app(bundle, token=token, watch=watch, trained=_trained(Path(bundle_path)), **limits)
        name = f"[{host}]" if ":" in host else host
        ready = f"medclf serves {bundle_path} on http://{name}:{listener.getsockname()[1]}/ (Ctrl-C stops it)"
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once it has stopped gracefully
            _uvicorn_server(app, log_level, lambda: print(ready, flush=True)).run([listener])


def _trained(bundle: Path) -> str:
    """The day on which the RUN that holds the bundle was trained; "" where none says."""
    with contextlib.suppress(DataError):
        record = read_record(bundle.parent / RECORD)
        return str(record.get("finished") or record.get("started") or "")[:10]
    return ""


@contextlib.contextmanager
def running(app: FastAPI, host: str = "127.0.0.1", port: int = 0, *, log_level: str = "warning") -> Iterator[str]:
    """Run the service in a thread, for a notebook or a test; at the end it stops gracefully.

    Args:
        app: what `create_app` returned.
        host: the address to listen on.
        port: 0 takes a free one.
        log_level: as for `serve`.

    Yields:
        The service's URL.
    """
    with _listening(host, port) as listener:
        server = _uvicorn_server(app, log_level)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        if not server.started:
            raise MedclfError("the service does not start", "its log says why")
        try:
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _uvicorn_server(app: FastAPI, log_level: str, on_ready: Callable[[], None] = lambda: None) -> Any:
    uvicorn = require("uvicorn", "serve")
    from medclf.serving.http_timeouts import ImpatientProtocol, log_config

    config = uvicorn.Config(
        app,
        loop="asyncio",  # uvloop misses a decoder's end where something else, such as a DataLoader, handles SIGCHLD
        http=ImpatientProtocol,
        ws="none",
        access_log=False,
        log_config=log_config(log_level),
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=30,
    )

    class Server(uvicorn.Server):  # type: ignore[name-defined, misc]
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Start, and say so once requests are answered."""
            await super().startup(sockets)
            if self.started:
                on_ready()

    return Server(config)


def check_exposure(host: str, token: str | None) -> None:
    """Refuse to listen beyond this machine without a good token.

    Raises:
        MedclfError: there is none, or it is too short.

    Example:
        >>> check_exposure("127.0.0.1", None)
        >>> check_exposure("0.0.0.0", None)
        Traceback (most recent call last):
        medclf.errors.MedclfError: other machines can reach the host 0.0.0.0, and no token is set
        set one with token or MEDCLF_TOKEN; this makes one: python -c "import secrets; ..."
    """
    if token is not None:
        _check_token(token)
    elif not _is_loopback(host):
        raise MedclfError(
            f"other machines can reach the host {host}, and no token is set",
            f"set one with {argument('token')} or MEDCLF_TOKEN; this makes one: {_MAKE_TOKEN}",
        )


def _check_token(token: str) -> None:
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise MedclfError(
            f"the token is not of {_SHORTEST_TOKEN} or more letters, digits and signs of ASCII",
            f"this makes one: {_MAKE_TOKEN}",
        )


def _is_on_cpu(bundle: Servable) -> bool:
    device = getattr(bundle, "device", None)
    return device is None or device.type == "cpu"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:  # of a port that no address has
        raise MedclfError(
            f"cannot listen on {host}:{port}: {getattr(error, 'strerror', '') or error}",
            f"choose another {argument('port')} or {argument('host')}",
        ) from error
