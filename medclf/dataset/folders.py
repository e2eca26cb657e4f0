"""What lies in a folder: its image files, and how to find a CSV's paths in it."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from medclf.dataset.spelt_names import without_letter
from medclf.errors import argument, by_road, is_address
from medclf.files import is_hidden
from medclf.images.raster import raster_format
from medclf.images.reading import IMAGE_SUFFIXES

_PICTURES = (
    "gif heic heif avif jp2 j2k jpx jls jxl mpo ppm pgm pnm psd svg ico tga exr pdf npy npz h5 hdf5 svs ndpi mrxs scn "
    "vsi czi lif oib zvi bif qptiff mat"
)
# What may hold images and is not read, by its ending, and what to do with it
NOT_READ = {
    f".{name}": remedy
    for names, remedy in (
        (_PICTURES, "convert them to PNG"),
        ("nrrd mha mhd mgz mgh hdr mnc", "convert the volumes to NIfTI (.nii)"),
        ("avi mp4 m4v mov mkv wmv mpg mpeg webm flv", "save the frames that you want as PNG"),
        ("zip tar tgz gz bz2 xz 7z rar", "unpack them"),
    )
    for name in names.split()
}


def plain_name(name: str) -> str:
    """`name` in Unicode's composed form: macOS and Linux write the same accents in different bytes.

    Example:
        >>> plain_name("e\\u0301") == "\\u00e9"
        True
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def without_ending(path: str) -> str:
    """A path without its suffix, of which a compressed volume has two.

    Example:
        >>> without_ending("a/1.5.png"), without_ending("a/1.nii.gz")
        ('a/1.5', 'a/1')
    """
    return path[:-7] if path.lower().endswith(".nii.gz") else str(PurePosixPath(path).with_suffix(""))


@dataclass
class Tree:
    """The image files under a folder.

    Attributes:
        paths: relative to the folder, forward slashes, sorted.
        ignored: how many other files there are.
        empty: folders with no image in or below them and no folder in them.
        notes: what was left out and why, one sentence each.
        linked: image files that are links to outside, not followed.
        others: pictures, videos and archives that medclf does not read, by their ending.
        taken_by: what to do so that links to outside are taken.
    """

    paths: list[str] = field(default_factory=list)
    ignored: int = 0
    empty: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)
    taken_by: str = field(default_factory=lambda: argument("follow_links", True))

    def finish(self) -> Tree:
        """Sort, and write the notes about files of one kind."""
        self.paths.sort()
        self.empty.sort()
        if self.linked:
            self.notes.append(
                f"{len(self.linked)} files are links to outside the data's folder and are left out, first "
                f"'{min(self.linked)}': {self.taken_by} takes them (git-annex and DVC keep files so)"
            )
        for suffix, paths in sorted(self.others.items()):
            self.notes.append(
                f"{len(paths)} files end in {suffix}, which medclf does not read, and are left out, first "
                f"'{min(paths)}': {NOT_READ[suffix]}"
            )
        return self


def walk(root: Path, tree: Tree | None = None, *, allow_outside: bool = False) -> Tree:
    """Find the image files under `root`, each folder once and no link that leads out of it.

    Hidden files, folders such as `__MACOSX` (see `is_hidden`) and files without an image's suffix are left out; a file
    without a suffix (or with a number for one, as DICOM archives write them) counts when it starts as DICOM does.

    Args:
        root: the folder.
        tree: what to put them into; a new one where None.
        allow_outside: follow links to places outside `root`.

    Returns:
        The tree, sorted by path whatever the order on disk.
    """
    tree = tree or Tree()
    top = os.path.realpath(root)
    seen, waiting, links = {top}, [""], list[str]()
    while waiting or links:
        if not waiting:  # real folders first, so that a link never takes the place of what it points to
            link = links.pop()
            target = os.path.realpath(root / link)
            if target in seen or is_within(target, top):
                tree.notes.append(f"folder '{link}' is a link into folders that are scanned anyway: not followed")
                continue
            if not allow_outside:
                tree.notes.append(
                    f"folder '{link}' is a link to outside the data's folder and is not followed: "
                    f"{tree.taken_by} takes it"
                )
                continue
            seen.add(target)
            waiting.append(link)
        _list_folder(root, waiting.pop(), tree, waiting, links, allow_outside)
    return tree.finish()


def _list_folder(
    root: Path, folder: str, tree: Tree, waiting: list[str], links: list[str], allow_outside: bool
) -> None:
    try:
        entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
    except OSError as error:
        tree.notes.append(f"folder '{folder}' cannot be read: {error.strerror}")
        return
    before, folders = len(tree.paths), 0
    for entry in entries:
        if is_hidden(entry.name):
            continue
        path = f"{folder}/{entry.name}" if folder else entry.name
        if not entry.name.isprintable() and not _is_text(entry.name):
            shown = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
            tree.notes.append(f"'{shown}' is left out: its name is not valid UTF-8")
            continue
        if entry.is_dir(follow_symlinks=False):
            folders += 1
            if is_run(root / path):
                tree.notes.append(f"folder '{path}' is a RUN of medclf, and its pictures are left out")
            else:
                waiting.append(path)
        elif entry.is_symlink() and _leads_to_folder(entry):
            links.append(path)
            folders += 1
        elif not is_image_name(root / path):
            tree.ignored += 1
            if (suffix := PurePosixPath(path).suffix.lower()) in NOT_READ:
                tree.others.setdefault(suffix, []).append(path)
        elif (
            entry.is_symlink()
            and not allow_outside
            and not is_within(os.path.realpath(root / path), os.path.realpath(root))
        ):
            tree.linked.append(path)
        else:
            tree.paths.append(path)
    if folder and not folders and len(tree.paths) == before:
        tree.empty.append(folder)


def is_run(folder: Path) -> bool:
    """Whether a folder is what a training or an evaluation made, by its run.json."""
    try:
        record = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and ("settings" in record or {"format", "root"} <= record.keys())


def _is_text(name: str) -> bool:
    """Whether a name from the disk can be written to a file as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it; both absolute and resolved.

    Example:
        >>> is_within("/data/a.png", "/data"), is_within("/database/a.png", "/data")
        (True, False)
    """
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def is_image_name(path: Path) -> bool:
    """Whether scan looks at this file: by its suffix, or by its first bytes where the suffix says nothing."""
    suffix = path.suffix.lower()
    if (suffix in IMAGE_SUFFIXES and suffix) or path.name.lower().endswith(".nii.gz"):
        return True
    if path.name == "DICOMDIR" or not re.fullmatch(r"(\.\d+)?", suffix):
        return False
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            return False
        with path.open("rb") as file:
            head = file.read(132)
            return head[128:] == b"DICM" or raster_format(head) is not None
    except OSError:
        return False


def images_beside(root: Path, paths: Iterable[str]) -> list[str]:
    """The image files in the very folders where `paths` lie, relative to `root`."""
    tree = Tree()
    for folder in sorted({path.rpartition("/")[0] for path in paths if not path.startswith("/")}):
        if (root / folder).is_dir():
            _list_folder(root, folder, tree, [], [], allow_outside=True)
    return tree.paths


class BadPath(ValueError):
    """A path that names no one file or must not be read; its text says why."""

    def __init__(self, reason: str, remedy: str = "correct it") -> None:
        super().__init__(reason)
        self.remedy = remedy


class Finder:
    """Finds the files that a column of paths names, never outside `root` unless that is allowed.

    A path is looked for as written, then with Windows' separators, then with its accents composed or
    decomposed; then in any case, by its file name alone, without its suffix, and without a first folder that is the
    root's own name, or is not there before further ones, as long as just one file fits; as the long number that one
    file's name begins with; and as a folder of images so.

    Args:
        root: the folder that relative paths start from.
        tree: the image files under it where they have been listed; else they are when a path is not found.
        allow_outside: accept paths that lead out of `root`; they become absolute.
        follow_links: accept links in the root to files outside of it.
        masks_among: which of the files are masks, that a name without its suffix does not mean.

    Attributes:
        guessed: what was found otherwise than as written, with the file.
    """

    def __init__(
        self,
        root: Path,
        tree: Tree | None = None,
        *,
        allow_outside: bool = False,
        follow_links: bool = False,
        masks_among: Callable[[Sequence[str]], Iterable[str]] = lambda paths: (),
    ) -> None:
        self.root, self.allow_outside = os.path.normpath(Path(root).absolute()), allow_outside
        self.follow_links = follow_links or allow_outside
        self.guessed: list[tuple[str, str]] = []
        self._tree, self._masks_among = tree, masks_among
        self._real_root = os.path.realpath(root)
        self._real_folder: dict[str, str] = {}

    @functools.cached_property
    def _files(self) -> list[str]:
        return (self._tree or walk(Path(self.root), allow_outside=self.follow_links)).paths

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The files that each spelling fits: a path or a file's name, with and without its suffix."""
        fits: dict[str, list[str]] = {}
        for path in self._files:
            name = plain_name(path)
            bare = without_ending(name)
            for key in {name, PurePosixPath(name).name, bare, PurePosixPath(bare).name}:
                fits.setdefault(key, []).append(path)
        return fits

    @functools.cached_property
    def _by_any_case(self) -> dict[str, list[str]]:
        fits: dict[str, list[str]] = {}
        for key, paths in self._by_name.items():
            known = fits.setdefault(key.casefold(), [])
            known.extend(path for path in paths if path not in known)
        return fits

    def find(self, cell: str) -> tuple[str, bool]:
        """The path of the file that `cell` names.

        Returns:
            The path relative to root with forward slashes (absolute where it lies outside), and whether
            the file is there.

        Raises:
            BadPath: it leads out of the root, goes in a circle, or is no path at all.
        """
        if not cell or "\0" in cell:
            raise BadPath("holds a NUL byte" if cell else "is blank")
        whole, mark, number = cell.rpartition("#")
        if mark and number.isdecimal() and self._names_a_frame(cell, whole):
            path, there = self.find(whole)
            return (f"{path}#{number}", True) if there else (cell, False)
        for spelling in _spellings(cell):
            path = self._relative(spelling)
            file = Path(self.root, path)
            if os.path.lexists(file):
                self._refuse_links_out(file)
                return path, file.exists()
        plain = plain_name(PurePosixPath(cell.replace("\\", "/")).as_posix())
        files = self._pictures(self._fitting(plain) or self._by_first_number.get(plain, []), plain)
        fits = files or self._folders(plain)
        if len(fits) > 1:
            some = f"{fits[0]}, {fits[1]}{', ...' if len(fits) > 2 else ''}"
            raise BadPath(
                f"fits {len(fits)} {'files' if files else 'folders'} ({some})",
                "write the folders before it too, or give the folder that holds the right ones as the data",
            )
        if fits:
            if cell not in {PurePosixPath(name).name for name in (fits[0], without_ending(fits[0]))}:
                self.guessed.append((cell, fits[0]))
            return fits[0], True
        if is_address(cell):
            raise BadPath("is an address, and only files on this machine are read", "download the images")
        path = self._relative(cell)
        _refuse_circle(Path(self.root, path))
        return path, False

    def _names_a_frame(self, cell: str, whole: str) -> bool:
        """Whether a cell FILE#NUMBER means a frame: a file that is called so, a suffix aside, comes first."""
        if os.path.lexists(Path(self.root, cell)):
            return False
        return Path(self.root, whole).is_file() or not self._fitting(plain_name(cell))

    def _names(self, cell: str) -> list[str]:
        """A cell, and without its first folder where that may be the root's own name."""
        first, _, rest = cell.partition("/")
        names = [cell]
        renamed = "/" in rest and not os.path.lexists(Path(self.root, first))
        if rest and (renamed or first == PurePosixPath(self.root).name):  # as sets are published, with their own name
            names.append(rest)
        return names

    def _fitting(self, cell: str) -> list[str]:
        names = self._names(cell)
        found = [self._by_name.get(name) or self._by_any_case.get(name.casefold()) for name in names]
        return next(filter(None, found), [])

    def _pictures(self, files: list[str], cell: str) -> list[str]:
        """Of the files that a cell fits those that are no masks; one is meant by its folder or its whole name."""
        if "/" in cell or cell in {PurePosixPath(file).name for file in files}:
            return files
        return [file for file in files if file not in self._drawn]

    @functools.cached_property
    def _drawn(self) -> set[str]:
        return set(self._masks_among(self._files))

    def _folders(self, cell: str) -> list[str]:
        """The folders of images that a cell names by their path, or by their name alone as of a study."""
        return next(filter(None, (self._by_folder.get(name) for name in self._names(cell))), [])

    @functools.cached_property
    def _by_folder(self) -> dict[str, list[str]]:
        fits: dict[str, list[str]] = {}
        for folder in sorted({above for path in self._files for above in PurePosixPath(path).parents[:-1]}):
            for key in {plain_name(str(folder)), plain_name(folder.name), without_letter(folder.name)}:
                fits.setdefault(key, []).append(str(folder))
        return fits

    @functools.cached_property
    def _by_number(self) -> dict[str, list[str]]:
        """Files and folders whose names are numbers, by them without the zeros in front, which spreadsheets drop."""
        fits: dict[str, list[str]] = {}
        for name, paths in (*self._by_name.items(), *self._by_folder.items()):
            if name.isdecimal():
                fits.setdefault(name.lstrip("0"), []).extend(paths)
        return fits

    @functools.cached_property
    def _by_first_number(self) -> dict[str, list[str]]:
        """The files whose names begin with a long number, by it: INbreast's 20586908_..._ANON.dcm is 20586908."""
        fits: dict[str, list[str]] = {}
        for path in self._files:
            if begins := re.match(r"\d{5,}(?=[_-])", PurePosixPath(path).name):
                fits.setdefault(begins[0], []).append(path)
        return fits

    def like(self, path: str) -> str:
        """What differs from a missing file in its ending or leading zeros alone; "" where there is none."""
        name = plain_name(without_ending(path))
        fits = self._by_name.get(name) or self._by_number.get(name.lstrip("0"), [])
        return fits[0] if len(fits) == 1 else ""

    def _relative(self, cell: str) -> str:
        if PureWindowsPath(cell).drive and os.name != "nt":
            raise BadPath("is a path on a Windows drive", f"write its part below {self.root}")
        absolute = os.path.normpath(Path(self.root, cell))
        for root in (self.root, self._real_root):
            if is_within(absolute, root):
                return Path(os.path.relpath(absolute, root)).as_posix()
        if not self.allow_outside:
            allow = by_road(
                "allow it with allow_outside=True",
                "name the folder that holds all images for the data, and this table with --labels",
            )
            there = os.path.lexists(absolute)
            remedy = f"correct it, or {allow}" if there else f"no file is there: write its part below {self.root}"
            raise BadPath(f"lies outside {self.root}", remedy)
        return Path(absolute).as_posix()

    def _refuse_links_out(self, file: Path) -> None:
        if file.is_symlink():
            _refuse_circle(file)
            real = os.path.realpath(file)
        else:
            folder = str(file.parent)
            if folder not in self._real_folder:
                self._real_folder[folder] = os.path.realpath(folder)
            real = f"{self._real_folder[folder]}{os.sep}{file.name}"
        if not self.follow_links and not is_within(real, self._real_root):
            raise BadPath(
                f"is a link to outside {self.root}", f"replace it, or take links with {argument('follow_links', True)}"
            )


def _refuse_circle(file: Path) -> None:
    try:
        file.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BadPath("is a link that goes in a circle") from error


def _spellings(cell: str) -> list[str]:
    spellings = [cell, cell.replace("\\", "/")]
    if not cell.isascii():
        spellings += [unicodedata.normalize(form, spellings[1]) for form in ("NFC", "NFD")]
    return list(dict.fromkeys(spellings))
