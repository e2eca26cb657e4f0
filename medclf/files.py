"""Files that are whole or not there: written beside their place, synced, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medclf.errors import OutputError, argument

_PART = ".part"
_KEPT_BY_SYSTEMS = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""What a JSON file can hold."""


def refuse_to_replace(path: Path, overwrite: bool) -> None:
    """See that nothing is at `path`, or that it may be replaced, and that it can be written.

    Raises:
        OutputError: something is there, or its folder cannot be written to.
    """
    if _may(path, os.F_OK) and not overwrite:
        remedy = f"choose another path, or replace it with {argument('overwrite', True)}"
        raise OutputError(f"{path} exists already", remedy)
    check_writable(path)


def check_writable(path: str | Path) -> None:
    """See that a file or folder can be made at `path`, or what is there replaced, before the work begins.

    Raises:
        OutputError: the nearest folder that is there cannot be written to, or is a file.
    """
    path = Path(path).absolute()
    nearest = next(place for place in (path, *path.parents) if _may(place, os.F_OK))
    nearest = path.parent if nearest == path and path.is_file() else nearest
    wrong = "is a file" if not nearest.is_dir() else "" if _may(nearest, os.W_OK | os.X_OK) else "is read-only"
    if wrong:
        raise OutputError(f"{path} cannot be written: {nearest} {wrong}", f"choose another {argument('out')}")


def _may(path: Path, mode: int) -> bool:
    """`os.access`, of the user that the process acts for; no error in a closed folder."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is synced and renamed to `path`.

    A kill at any moment leaves the old file or the new one, never a half. On an error `path` is as it
    was. The temporary file has the name of `path` and lies in a folder of its own, so that what a
    library spills beside it goes with it; `sweep` removes what a killed process left.

    Raises:
        OutputError: the folder cannot be written to, or the disk is full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     (Path(folder) / "a.txt").read_text(), len(os.listdir(folder))
        ('whole', 1)
    """
    path = Path(path)
    part = path.parent / f".{path.name[:200]}.{secrets.token_hex(4)}{_PART}"
    temporary = part / path.name
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part.mkdir()
            temporary.touch()
        with writing(path, part):
            yield temporary
        with writing(path):
            _sync(temporary)
            # A library may have made the file with a mode of its own: the user's umask decides.
            temporary.chmod(part.stat().st_mode & 0o666)
            temporary.replace(path)
        with contextlib.suppress(OSError):  # the file is in place; some file systems sync no folder
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path, part: Path | None = None) -> Iterator[None]:
    """Say which file or folder could not be written; with `part`, only of errors about what lies in it.

    Raises:
        OutputError: instead of an OSError, or of text that is not valid UTF-8.
    """
    try:
        yield
    except OSError as error:
        about = error.filename
        if part is not None and about is not None and part not in Path(os.fsdecode(about)).parents:
            raise  # some other file that the writer was reading
        reason = error.strerror or str(error)
        raise OutputError(f"{path} cannot be written: {reason}", "free some space or choose another folder") from error
    except UnicodeEncodeError as error:  # a name from the disk that is none in UTF-8
        name = error.object[: error.end].rpartition("\n")[2][-80:].lstrip()
        raise OutputError(f"{path} cannot be written: {name} is not valid UTF-8", "rename what is called so") from error


def _sync(file: Path) -> None:
    with file.open("r+b") as handle:
        os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: str | Path) -> None:
    """Remove what killed writers left in `folder`; only for a folder that nobody else is writing to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / ".a.txt.00.part").mkdir()
        ...     sweep(folder)
        ...     os.listdir(folder)
        []
    """
    for left in Path(folder).glob(f".*{_PART}"):
        shutil.rmtree(left, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; NaN and infinity become null, as JSON has neither."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_tensors(path: str | Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write torch tensors as safetensors, whole or not at all.

    Args:
        path: the file.
        tensors: name -> tensor, on any device; they may share memory.
        metadata: text by name, kept in the file's header.

    Raises:
        OutputError: the folder cannot be written to, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain: dict[str, Any] = {}
    held: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if place in held else value  # safetensors refuses shared memory
        held.add(place)
    try:
        with replacing(path) as temporary:
            save_file(plain, temporary, dict(metadata) if metadata else None)
    except SafetensorError as error:  # how safetensors says that the disk is full
        raise OutputError(f"{path} cannot be written: {error}", "free some space or choose another folder") from error


def sha256_of(path: Path) -> str:
    """A file's SHA-256 in hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is a system's or a disk station's own, and none that people made.

    Example:
        >>> is_hidden(".DS_Store"), is_hidden("@eaDir"), is_hidden("polyps")
        (True, True, False)
    """
    return name.startswith(".") or name.lower() in _KEPT_BY_SYSTEMS


def is_number(value: Any) -> bool:
    """Whether a JSON file holds a finite number there.

    Example:
        >>> is_number(3), is_number(float("nan")), is_number(10**400), is_number(True), is_number("3")
        (True, False, False, False, False)
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def finite(value: Any) -> Any:
    """`value` with every NaN and infinity replaced by None, through dicts and lists.

    Example:
        >>> finite({"auroc": float("nan"), "n": [1, 2.5]})
        {'auroc': None, 'n': [1, 2.5]}
    """
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return finite(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
