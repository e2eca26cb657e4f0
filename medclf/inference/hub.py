"""Bundles that travel: to a model hub, to a bucket or another place that fsspec knows, or to a folder, and back.

What travels is `bundle.json`, `weights.safetensors` and a card, `README.md`. Nothing else is sent, and a place that
holds anything else is not read from.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol

from medclf.dataset.image_cache import BUNDLES, cache_folder
from medclf.errors import BundleError, MedclfError, MedclfWarning, OutputError, argument, require
from medclf.files import write_json, write_text
from medclf.inference import bundle_format
from medclf.inference.bundle_folder import may_write, replacing_folder
from medclf.inference.bundle_format import WEIGHTS
from medclf.inference.hub_card import card_of
from medclf.inference.runtimes import bundle_in
from medclf.models.spec import weights_name

if TYPE_CHECKING:
    from medclf.inference.bundle import Bundle

DESCRIBED, CARD = "bundle.json", "README.md"
_OTHERS = {CARD, ".gitattributes"}  # a place may hold them; they are never read
_HUB = "hf-hub:"
_MOST = {DESCRIBED: bundle_format.MAX_JSON, WEIGHTS: 16 * 2**30}  # bytes
_BLOCK = 2**20


class Place(Protocol):
    """Where a bundle lies, or is to lie."""

    def sizes(self) -> dict[str, int]:
        """Bytes of each file there; empty where there is nothing."""

    def fetch(self, name: str, folder: Path) -> Path:
        """Copy a file of it into a folder."""

    def put(self, folder: Path, message: str) -> str:
        """Put the files of a folder there; gives its address."""


def push(
    bundle: str | Path,
    place: str | Path,
    *,
    public: bool = False,
    licence: str = "",
    message: str = "A bundle of medclf",
    overwrite: bool = False,
    endpoint: str | None = None,
) -> str:
    """Put a bundle, with a card that is filled from its run, where others can fetch it.

    Args:
        bundle: a RUN folder, whose results fill the card; or a bundle's folder, whose own card does.
        place: `hf-hub:OWNER/NAME` for the Hugging Face Hub or a hub like it; an address that fsspec knows, such as
            `s3://bucket/folder`; or a folder.
        public: let everybody see a repository that is made on the hub; else its owner alone.
        licence: under which the model may be used, such as "apache-2.0".
        message: of the hub's commit.
        overwrite: replace a bundle that is there.
        endpoint: the hub's address; that of the environment where None.

    Returns:
        Its address.

    Raises:
        BundleError: the bundle is damaged, or its folder holds anything else.
        OutputError: there is a bundle already, or something else; the place cannot be reached or written to.
        MissingDependency: what the place needs is not installed.

    Example:
        >>> # push("RUN", "hf-hub:me/polyps"); push("RUN", "s3://models/polyps"); push("RUN", "shared/polyps")
    """
    source = bundle_in(bundle)
    content = bundle_format.read(source)
    if others := sorted({file.name for file in source.iterdir()} - {DESCRIBED, WEIGHTS} - _OTHERS):
        raise BundleError(f"{source} holds more than a bundle: {others[0]}", "only safetensors and JSON are sent")
    named = _without_paths(content)
    target = place_of(place, public=public, endpoint=endpoint)
    with _told(str(place), OutputError):
        there = set(target.sizes())
    if others := sorted(there - {DESCRIBED, WEIGHTS} - _OTHERS):
        raise OutputError(f"{place} holds more than a bundle: {others[0]}", "choose another place")
    if there & {DESCRIBED, CARD} and not overwrite:
        remedy = f"choose another place, or replace it with {argument('overwrite', True)}"
        raise OutputError(f"{place} holds a {'bundle' if DESCRIBED in there else CARD} already", remedy)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)
        shutil.copyfile(source / DESCRIBED, folder / DESCRIBED)
        if named != content:
            write_json(folder / DESCRIBED, named)
        run = Path(bundle) if source != Path(bundle) else None
        card = card_of(named, _name_of(place), _told_of(place), run=run, licence=licence)
        write_text(folder / CARD, card)
        with _told(str(place), OutputError):
            return target.put(folder, message)


def pull(place: str | Path, out: str | Path, *, overwrite: bool = False, endpoint: str | None = None) -> Path:
    """Fetch a bundle, check it, and leave it as a folder that `load_bundle` reads.

    Args:
        place: where `push` put it; see there. `hf-hub:OWNER/NAME@REVISION` names a branch, tag or commit.
        out: the folder to make.
        overwrite: replace a bundle that is there.
        endpoint: the hub's address; that of the environment where None.

    Returns:
        `out`.

    Raises:
        BundleError: there is no bundle, it is damaged, or anything but safetensors and JSON lies beside it.
        OutputError: `out` exists, or cannot be written.
        MissingDependency: what the place needs is not installed.
    """
    out = Path(out)
    may_write(out, overwrite)
    source = place_of(place, endpoint=endpoint)
    _check_files(place, source)
    with replacing_folder(out) as folder, _told(str(place), BundleError):
        for name in (DESCRIBED, WEIGHTS):
            source.fetch(name, folder)
        _checked(folder, place)
    return out


def from_hub(place: str | Path, device: str = "cpu", *, endpoint: str | None = None) -> Bundle:
    """Fetch a bundle and load it; what was fetched before is not fetched again.

    Args:
        place, endpoint: see `pull`.
        device: where to predict: "cpu", "cuda", ...

    Raises:
        BundleError, MissingDependency: as `pull`.

    Example:
        >>> # from_hub("hf-hub:me/polyps").predict("image.png").label
    """
    from medclf.inference.bundle import load_bundle

    source = place_of(place, endpoint=endpoint)
    _check_files(place, source)
    with tempfile.TemporaryDirectory() as temporary, _told(str(place), BundleError):
        described = source.fetch(DESCRIBED, Path(temporary))
        content = bundle_format.parse(described.read_bytes(), f"{place}: {DESCRIBED}")
        kept = cache_folder() / BUNDLES / content["hash"][:32] / _name_of(place)
        if not (kept / DESCRIBED).is_file():
            with replacing_folder(kept) as folder:
                shutil.copyfile(described, folder / DESCRIBED)
                source.fetch(WEIGHTS, folder)
                _checked(folder, place)
    return load_bundle(kept, device)


def place_of(place: str | Path, *, public: bool = False, endpoint: str | None = None) -> Place:
    """What a place's name stands for; see `push`."""
    name = str(place)
    if not name:  # as a shell makes of a variable that is not set
        raise MedclfError("the place is an empty path", "give a path; the current folder is .")
    if name.startswith(_HUB):
        repository, _, revision = name.removeprefix(_HUB).partition("@")
        return _Hub(repository, revision or None, public, endpoint)
    return _Remote(name) if "://" in name else _Folder(Path(place))


def _check_files(place: str | Path, source: Place) -> None:
    """See from the list alone that a bundle lies there, and nothing besides."""
    with _told(str(place), BundleError):
        sizes = source.sizes()
    if others := sorted(sizes.keys() - {DESCRIBED, WEIGHTS} - _OTHERS):
        text = f"{place} holds {others[0]}: only safetensors and JSON are fetched"
        raise BundleError(text, "ask its owner for a bundle that medclf push made")
    for name, most in _MOST.items():
        if name not in sizes:
            raise BundleError(f"{place} is not a bundle: it has no {name}", "give a place that medclf push filled")
        if sizes[name] > most:
            raise BundleError(f"{place}: {name} is larger than {most // 2**20} MB", "it is no bundle of medclf")


def _checked(folder: Path, place: str | Path) -> None:
    """See that what was fetched is whole, and its weights a safetensors file."""
    from safetensors import SafetensorError, safe_open

    bundle_format.read(folder)
    try:
        with safe_open(folder / WEIGHTS, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{place}: {WEIGHTS} is no safetensors file: {error}", "ask its owner") from error


def _without_paths(content: dict[str, Any]) -> dict[str, Any]:
    """What is sent as bundle.json: earlier versions wrote where the weights lay, and that stays here."""
    weights = content["recipe"].get("weights")
    name = weights_name(weights)
    if name == weights:
        return content
    sent = {**content, "recipe": {**content["recipe"], "weights": name}}
    sent["hash"] = bundle_format.content_hash(sent)
    text = f"bundle.json names the file {weights} of this machine: {name} is sent in its place, with another hash"
    warnings.warn(MedclfWarning(text), stacklevel=3)
    return sent


def _told_of(place: str | Path) -> str:
    """The place as the card has it: no password or key of an address, and of a folder its name alone.

    Example:
        >>> _told_of("ftp://me:secret@host/models?key=1"), _told_of("/home/me/hands"), _told_of("hf-hub:me/hands")
        ('ftp://host/models', 'hands', 'hf-hub:me/hands')
    """
    text = str(place)
    if text.startswith(_HUB):
        return text
    if "://" not in text:
        return Path(text).resolve().name
    scheme, _, rest = text.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _name_of(place: str | Path) -> str:
    """What the bundle is called there."""
    name = _told_of(place).removeprefix(_HUB).partition("@")[0].rstrip("/").rpartition("/")[2]
    return name if name.strip(".") else "bundle"


@contextlib.contextmanager
def _told(place: str, kind: type[MedclfError]) -> Iterator[None]:
    """What hubs and file systems raise, as our own error."""
    try:
        yield
    except MedclfError:
        raise
    except Exception as error:  # each file system has errors of its own
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            text = f"{place} cannot be copied: {error.strerror}"
            raise OutputError(text, "free some space or choose another folder") from error
        reason = (str(error) or type(error).__name__).strip().partition("\n")[0]
        raise kind(f"{place}: {reason}", "check the name, the network and your rights there") from error


class _Folder:
    """A folder of this machine or a mounted one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sizes(self) -> dict[str, int]:
        if self.folder.exists() and not self.folder.is_dir():
            raise MedclfError(f"{self.folder} is a file, not a folder", "choose another place")
        files = self.folder.iterdir() if self.folder.is_dir() else ()
        return {file.name: file.lstat().st_size for file in files}

    def fetch(self, name: str, folder: Path) -> Path:
        if (self.folder / name).is_symlink() or not (self.folder / name).is_file():
            raise BundleError(f"{self.folder / name} is not a file but leads elsewhere", "ask its owner for the file")
        return Path(shutil.copyfile(self.folder / name, folder / name))

    def put(self, folder: Path, message: str) -> str:
        with replacing_folder(self.folder) as new:
            for file in folder.iterdir():
                shutil.copyfile(file, new / file.name)
        return str(self.folder)


class _Remote:
    """An address that fsspec knows: a bucket, a server."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        if "://" not in self.address:  # what is left would be a folder of this machine
            raise MedclfError(
                f"{address} names no bucket and no folder", f"write {address.partition(':')[0]}://NAME/FOLDER"
            )
        fsspec = require("fsspec", "hub")
        try:
            self.system, self.path = fsspec.core.url_to_fs(self.address)
        except (ImportError, ValueError) as error:  # it names the package that is missing
            raise MedclfError(f"{address}: {error}", "install what it names, or choose another place") from error

    def sizes(self) -> dict[str, int]:
        self.system.invalidate_cache()
        if not self.system.exists(self.path):
            return {}
        found = self.system.ls(self.path, detail=True)
        return {PurePath(one["name"].rstrip("/")).name: int(one.get("size") or 0) for one in found}

    def fetch(self, name: str, folder: Path) -> Path:
        left = _MOST[name]  # a place may send more than it says
        with self.system.open(f"{self.path}/{name}", "rb") as sent, (folder / name).open("wb") as file:
            while block := sent.read(_BLOCK):
                left -= len(block)
                if left < 0:
                    raise BundleError(f"{self.address}: {name} does not end", "it is no bundle of medclf")
                file.write(block)
        return folder / name

    def put(self, folder: Path, message: str) -> str:
        self.system.makedirs(self.path, exist_ok=True)
        for name in (WEIGHTS, CARD, DESCRIBED):  # what says that it is a bundle comes last
            self.system.put_file(str(folder / name), f"{self.path}/{name}")
        return self.address


class _Hub:
    """A repository of the Hugging Face Hub, or of a hub like it; the token is that of its own login or HF_TOKEN."""

    def __init__(self, repository: str, revision: str | None, public: bool, endpoint: str | None) -> None:
        if repository.count("/") != 1 or not all(repository.split("/")):
            raise MedclfError(f"{_HUB}{repository} is no repository", f"write {_HUB}OWNER/NAME")
        hub = require("huggingface_hub", "hub")
        self.repository, self.revision, self.public = repository, revision, public
        self.hub, self.api = hub, hub.HfApi(endpoint=endpoint)

    def sizes(self) -> dict[str, int]:
        try:
            info = self.api.model_info(self.repository, revision=self.revision, files_metadata=True)
        except self.hub.errors.RepositoryNotFoundError:
            return {}
        return {one.rfilename: int(one.size or 0) for one in info.siblings or ()}

    def fetch(self, name: str, folder: Path) -> Path:
        with tempfile.TemporaryDirectory(dir=folder.parent) as apart:  # the hub's client leaves notes beside it
            file = self.api.hf_hub_download(self.repository, name, revision=self.revision, local_dir=apart)
            return Path(shutil.move(file, folder / name))

    def put(self, folder: Path, message: str) -> str:
        if self.revision:
            raise OutputError(
                f"{_HUB}{self.repository}@{self.revision}: a revision cannot be pushed to", "leave it out"
            )
        self.api.create_repo(self.repository, private=not self.public, exist_ok=True)
        adds = [self.hub.CommitOperationAdd(file.name, str(file)) for file in sorted(folder.iterdir())]
        done = self.api.create_commit(self.repository, adds, commit_message=message)
        return str(done.commit_url)
