"""What an image is called on a page and in results.json: its path, or its row where file names must not be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

HIDDEN = "(hidden)"
_ENDINGS = r"png|jpe?g?|jf?if|tiff?|bmp|dib|webp|dcm|dic(?:om)?|ima|nii(?:\.gz)?"
_WITHHELD = "What the scan noticed names files and folders: the terminal showed it, and it is withheld here."
_FILE_NAME = re.compile(rf"[^\s'\"(),;]+\.(?:{_ENDINGS})\b(?:#\d+)?", re.IGNORECASE)


class Names:
    """Names for the rows of a table.

    Args:
        paths: of the rows, in order.
        hide: call the images "row 1", "row 2", ... (the table's first row is 1) instead of by their path.

    Example:
        >>> names = Names(["a/1.png", "a/2.png"], hide=True)
        >>> names.of(1), names.scrub({"note": "a/2.png is cut off, so is z.png"})
        ('row 2', {'note': 'row 2 is cut off, so is (hidden)'})
    """

    def __init__(self, paths: Sequence[str], hide: bool) -> None:
        self.paths, self.hide = list(paths), hide
        self.place = {path: row for row, path in enumerate(paths)}

    def of(self, row: int) -> str:
        """What the image of that row is called."""
        return f"row {row + 1}" if self.hide else self.paths[row]

    def of_path(self, path: str) -> str:
        """What the image at `path` is called; it need not be in the table."""
        if not self.hide:
            return path
        return self.of(self.place[path]) if path in self.place else HIDDEN

    def scrub(self, value: Any, key: str = "", section: str = "") -> Any:
        """`value` without file names and folders, where they are to be hidden; else `value` as it is."""
        if not self.hide:
            return value
        if isinstance(value, Mapping):
            return {self._scrub_text(k, "", ""): self.scrub(v, str(k), section or str(k)) for k, v in value.items()}
        if value and (section, key) == ("data", "notes"):  # a folder's name cannot be told from other words
            return [_WITHHELD]
        if isinstance(value, (list, tuple)):
            return [self.scrub(item, key, section) for item in value]
        return self._scrub_text(value, key, section) if isinstance(value, str) else value

    def _scrub_text(self, text: Any, key: str, section: str) -> Any:
        if not isinstance(text, str):
            return text
        if text in self.place:
            return self.of(self.place[text])
        if text.startswith("data:image/"):
            return text
        names_a_file = "path" in key.lower() or "file" in key.lower()
        settings_path = section == "settings" and ("/" in text or "\\" in text)
        absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
        if text and (names_a_file or settings_path or absolute):
            return HIDDEN
        for path in self.paths:
            if path and path in text and ("." in path or "/" in path):
                text = text.replace(path, self.of(self.place[path]))
        return _FILE_NAME.sub(HIDDEN, text)


_NAMELESS = set("images image img imgs pictures data dataset files train png jpg dicom dcm".split())


def data_set_name(folder: str) -> str:
    """What a folder of images is called: with the folder above it where its own name says nothing.

    Example:
        >>> data_set_name("/data/kvasir-v2"), data_set_name("/data/ham10000/images")
        ('kvasir-v2', 'ham10000/images')
    """
    place = Path(folder)
    return f"{place.parent.name}/{place.name}" if place.name.lower() in _NAMELESS and place.parent.name else place.name
