"""A bundle's folder on disk: whole or not there, and never over anything else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medclf.errors import OutputError
from medclf.files import refuse_to_replace, writing
from medclf.inference.bundle_format import DETECTOR, WEIGHTS


def may_write(path: Path, overwrite: bool) -> None:
    """See that a bundle may be written there.

    Raises:
        OutputError: something is there that may not be replaced.
    """
    if not path.exists() and not path.is_symlink():
        return
    refuse_to_replace(path, overwrite)
    if (
        path.is_symlink()
        or not path.is_dir()
        or {file.name for file in path.iterdir()} - {"bundle.json", DETECTOR, WEIGHTS}
    ):
        raise OutputError(f"{path} holds more than a bundle, and is not overwritten", "choose another path")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` on success; on an error nothing has changed."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            yield new
            if path.exists():
                path.rename(old)
            new.rename(path)
            shutil.rmtree(old, ignore_errors=True)
