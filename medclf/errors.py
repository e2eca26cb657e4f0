"""Every error medclf raises on purpose: which file or column, why, and what to do about it."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any

# What the shell calls otherwise than Python.
_GIVEN_OTHERWISE = {"data": "DATA", "n_folds": "--folds", "from_run": "--from"}
_GIVEN_OTHERWISE |= {
    "no_hide_names": "--show-names",
    "no_show_burned_in": "--hide-burned-in",
    "no_mixed_precision": "--full-precision",
}
_in_shell = ContextVar("medclf_in_shell", default=False)  # of this thread, and of those that it starts by map_ahead


class MedclfError(Exception):
    """Base of all errors that medclf raises on purpose; the command line prints it and exits with 2.

    Args:
        message: what went wrong and why, naming the file, column or argument.
        remedy: what the user can do about it; printed on its own line.

    Example:
        >>> print(MedclfError("labels.csv has no column 'label'", f"name it with {argument('label_col', 'NAME')}"))
        labels.csv has no column 'label'
        name it with label_col="NAME"
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message, self.remedy = message, remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class ReadError(MedclfError):
    """An image file that cannot be read; `path` and `reason` say which and why."""

    def __init__(self, path: str | Path, reason: str, remedy: str = "") -> None:
        super().__init__(f"{path}: {reason}", remedy)
        self.args = (path, reason, remedy)  # what pickle calls the class with
        self.path, self.reason = Path(path), reason

    @property
    def problem(self) -> str:
        """Why, in the words of the table's column: the reason, and the remedy where there is one."""
        return f"{self.reason} ({self.remedy})" if self.remedy else self.reason


class UnsupportedFormat(ReadError):
    """The file's first bytes are not those of an image that medclf reads, or it has no decoder for its kind."""


class TooLarge(ReadError):
    """The file declares more pixels, bytes or nesting than the limits allow; nothing was decoded."""


class MissingDecoder(ReadError):
    """The DICOM transfer syntax needs a decoder that is not installed; the remedy names the `pip install`."""


class DataError(MedclfError):
    """A table, a label, a column or a folder that cannot be made into a data set."""


class SplitError(DataError):
    """A split that cannot be made as asked."""


class WeightsError(MedclfError):
    """Weights that cannot be had or do not fit; the remedy names the other ways to get some."""


class PreprocessingError(MedclfError):
    """Images are prepared in a way that cannot be described, and so cannot be stored or carried over to a bundle."""


class BundleError(MedclfError):
    """A bundle or checkpoint that is damaged, changed, or of another format version."""


class OutputError(MedclfError):
    """A folder or file that cannot be written, or that exists already."""


class MissingDependency(MedclfError, ImportError):
    """An optional package is not installed; the remedy names the `pip install`."""


class MedclfWarning(UserWarning):
    """Something the user should know about the data or the run; nothing was changed silently."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Args:
        module: dotted module name.
        extra: the extra of medclf that installs it.

    Raises:
        MissingDependency: it is not installed.

    Example:
        >>> require("json", "serve").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependency(
            f"{package} is not installed ({error})", f'install it with: pip install "medclf[{extra}]"'
        ) from error


def position(vocab: Sequence[str], label: str) -> int:
    """Where a label that a user named stands in the vocab.

    Raises:
        DataError: it is not there.

    Example:
        >>> position(["normal", "polyp"], "polyp")
        1
    """
    if label not in vocab:
        known = ", ".join(vocab[:8]) + ("..." if len(vocab) > 8 else "")
        raise DataError(f"unknown label {label!r}", f"choose one of: {known}")
    return list(vocab).index(label)


@contextlib.contextmanager
def in_shell() -> Iterator[None]:
    """Within it, errors speak to a user of the command line; otherwise to one of Python."""
    before = _in_shell.set(True)
    try:
        yield
    finally:
        _in_shell.reset(before)


def by_road(python: str, shell: str) -> str:
    """The words for the road that the user is on: Python, or the shell.

    Example:
        >>> by_road("shortcut_test(bundle, table)", "medclf shortcuts RUN")
        'shortcut_test(bundle, table)'
    """
    return shell if _in_shell.get() else python


def argument(name: str, value: Any = ...) -> str:
    """How the user writes an argument: as an option in the shell, as a keyword in Python.

    Args:
        name: the argument's name in Python.
        value: what to give it; where it is left out, the name alone.

    Example:
        >>> argument("path_col"), argument("path_col", "NAME"), argument("weights", None)
        ('path_col', 'path_col="NAME"', 'weights=None')
        >>> with in_shell():
        ...     argument("path_col"), argument("path_col", "NAME"), argument("weights", None), argument("cache", False)
        ('--path-col', '--path-col NAME', '--weights none', '--no-cache')
    """
    if value is ...:
        return by_road(name, _option(name))
    quoted = f'"{value}"' if isinstance(value, str) else str(value)
    if isinstance(value, bool):
        return by_road(f"{name}={quoted}", _option(name if value else f"no_{name}"))
    return by_road(f"{name}={quoted}", f"{_option(name)} {'none' if value is None else shlex.quote(str(value))}")


def shell_path(path: object) -> str:
    """A path as one word of a command, which the shell takes for no option.

    Example:
        >>> shell_path("my run"), shell_path("-R"), shell_path("RUN")
        ("'my run'", './-R', 'RUN')
    """
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def check_count(name: str, value: Any, remedy: str = "", least: int = 1) -> None:
    """See that `value` is a whole number of at least `least`, of whatever library.

    Args:
        name: as the user's road has it, see `argument`.
        value: what was given.
        remedy: what to do about it.
        least: the smallest that can be.

    Raises:
        DataError: it is not.

    Example:
        >>> check_count("bs", 8)
        >>> check_count("bs", "8")
        Traceback (most recent call last):
        medclf.errors.DataError: bs must be a whole number, not '8'
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise DataError(f"{name} must be a whole number, not {value!r}", remedy)
    if value < least:
        raise DataError(f"{name} must be {least} or more, not {value}", remedy)


def check_known(kwargs: Mapping[str, Any], function: Callable[..., Any], of: Callable[..., Any]) -> None:
    """See that another function knows the arguments that are passed on to it.

    Args:
        kwargs: those of `function` that its signature does not name.
        function: what was called.
        of: what they are passed on to.

    Raises:
        MedclfError: it does not.

    Example:
        >>> check_known({"leest": 2}, check_count, sorted)
        Traceback (most recent call last):
        medclf.errors.MedclfError: check_count has no argument 'leest'
        did you mean 'least'?
    """
    known = inspect.signature(of).parameters
    for name in kwargs:
        if name not in known:
            remedy = did_you_mean(name, [*inspect.signature(function).parameters, *known])
            text = f"{function.__name__} has no argument {name!r}"
            raise MedclfError(text, remedy or f"help({function.__name__}) lists them")


def _option(name: str) -> str:
    return _GIVEN_OTHERWISE.get(name, f"--{name.replace('_', '-')}")


def is_address(path: object) -> bool:
    """Whether a path is an address such as https://...; `Path` leaves one slash of it.

    Example:
        >>> [is_address(path) for path in ("https://a.org/b.png", "s3:/bucket", "C:/b.png", "a:b/c.png")]
        [True, True, False, False]
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is not None


def missing(path: object, remedy: str = "look for a typing mistake in the path") -> tuple[str, str]:
    """What to say of a file or folder that is not there, and what to do.

    Example:
        >>> missing("polyps")
        ('polyps does not exist', 'look for a typing mistake in the path')
    """
    if is_address(path):
        return f"{path} is an address, and only files on this machine are read", "download it, and give its path here"
    if Path(str(path)).is_file():
        return f"{path} is a file, where a folder is meant", remedy
    return f"{path} does not exist", remedy


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that names the known word most like a mistyped one, or what other libraries call so; else empty.

    Example:
        >>> did_you_mean("stratifed", ["random", "stratified"]), did_you_mean("x", ["random"])
        ("did you mean 'stratified'?", '')
        >>> did_you_mean("batch_size", ["batch_tfms", "bs"])
        "did you mean 'bs'?"
    """
    names = list(map(str, known))
    same = [name for name in _CALLED_ELSEWHERE.get(str(word), ()) if name in names]
    near = same or difflib.get_close_matches(str(word), names, n=1)
    return f"did you mean '{near[0]}'?" if near else ""


_CALLED_ELSEWHERE = {  # by Keras, Lightning, MONAI, scikit-learn and timm
    **dict.fromkeys(("batch_size", "train_batch_size"), ("bs",)),
    **dict.fromkeys(("model", "model_name", "backbone", "encoder", "architecture"), ("arch",)),
    **dict.fromkeys(("learning_rate", "max_lr"), ("lr", "base_lr", "lr_max")),
    **dict.fromkeys(("n_epochs", "num_epochs", "max_epochs", "epoch"), ("epochs", "n_epoch")),
    **dict.fromkeys(("image_size", "img_size", "input_size", "resolution"), ("size",)),
    **dict.fromkeys(("num_classes", "n_classes", "out_channels"), ("n_out",)),
    **dict.fromkeys(("in_channels", "in_chans", "num_channels"), ("n_in", "channels")),
    **dict.fromkeys(("loss", "loss_fn", "criterion"), ("loss_func",)),
    **dict.fromkeys(("optimizer", "optimiser"), ("opt_func",)),
    **dict.fromkeys(("weight_decay",), ("wd",)),
    **dict.fromkeys(("callbacks", "callback"), ("cbs",)),
    **dict.fromkeys(("random_state", "random_seed"), ("seed",)),
    **dict.fromkeys(("validation_split", "val_pct", "test_size", "val_split"), ("valid_pct",)),
    **dict.fromkeys(("time_limit",), ("budget",)),
    **dict.fromkeys(("n_splits", "num_folds", "n_folds"), ("folds", "n_folds")),
    **dict.fromkeys(("output", "output_dir", "out_dir", "save_dir"), ("out",)),
    **dict.fromkeys(("class_weight", "class_weights", "weighted"), ("balance",)),
}
