"""fastai's arguments of `ImageDataLoaders` in the terms of `scan` and `MedDataLoaders.from_table`."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from fastai.data.block import CategoryBlock, MultiCategoryBlock, TransformBlock
from fastai.data.transforms import EncodedMultiCategorize

from medclf.dataset.cells import text_of
from medclf.dataset.columns import FALSE, TRUE, part_of_flags
from medclf.dataset.csv_reading import read_csv
from medclf.errors import DataError, MedclfError, did_you_mean
from medclf.learn.image_block import channels_of

_ELSEWHERE = "or make the loaders with fastai's ImageDataLoaders or DataBlock, with MedImageBlock() for the images"
_OF_FASTAI = {"valid_pct", "seed", "img_cls", "y_block", "shuffle"}  # None stands for the default


def loader_arguments(given: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """What `from_table` and `scan` take, of the arguments that a factory was given.

    Args:
        given: them; of `valid_pct` and `seed`, None stands for the default.
        known: the names that both take.

    Raises:
        MedclfError: an argument that medclf has not, or a value that it cannot obey.

    Example:
        >>> from fastai.vision.core import PILImageBW
        >>> loader_arguments({"seed": None, "img_cls": PILImageBW, "bs": 8, "shuffle": True}, ["seed", "bs"])
        {'bs': 8, 'channels': 1}
    """
    known = set(known)
    given = {name: value for name, value in given.items() if value is not None or name not in _OF_FASTAI}
    found = {name: value for name, value in given.items() if name in known}
    for name, value in ((name, value) for name, value in given.items() if name not in known):
        if name == "img_cls":
            found["channels"] = channels_of(value)
        elif name == "y_block":
            _check_block(value, given)
        elif name != "shuffle":
            hint = did_you_mean(name, [*known, "img_cls", "shuffle"])
            raise MedclfError(f"MedDataLoaders has no argument {name!r}", f"{hint or 'leave it out'}; {_ELSEWHERE}")
        elif not value:
            raise MedclfError("shuffle=False: the training images are shuffled by their seed", _ELSEWHERE)
    return found


def _check_block(block: Any, given: Mapping[str, Any]) -> None:
    columns = given.get("label_col")
    several = given.get("label_delim") is not None or isinstance(columns, list)
    if block is not (MultiCategoryBlock if several else CategoryBlock) and not _is_of(block, columns):
        name = getattr(block, "__name__", block)
        raise MedclfError(
            f"y_block={name}: MedDataLoaders classifies, by one label an image or by several",
            f"leave y_block out, and for several labels give label_delim, or a list as label_col; {_ELSEWHERE}",
        )


def _is_of(block: Any, columns: Any) -> bool:
    """Whether it is a `MultiCategoryBlock(encoded=True)` of these columns."""
    kinds = list(block.type_tfms) if isinstance(block, TransformBlock) else []
    encoded = len(kinds) == 1 and isinstance(kinds[0], EncodedMultiCategorize)
    return encoded and isinstance(columns, list) and set(map(str, kinds[0].vocab)) == set(map(str, columns))


def table_of(
    df: pd.DataFrame, fn_col: Any, label_col: Any, valid_col: Any, suff: str, *, by_position: bool
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table and the columns of it that `scan` is to read.

    Args:
        df: one row an image.
        fn_col, label_col, valid_col: names or positions of columns.
        suff: what is missing at the end of the files' names.
        by_position: where the default columns are not there, the first is the path and the second the label, as in
            fastai.
    """

    def named(column: Any, default: str, position: int) -> Any:
        if column == default and by_position and default not in df.columns:
            column = position
        if isinstance(column, (list, tuple)):
            return [named(one, default, position) for one in column]
        if isinstance(column, int) and column not in df.columns:
            if not 0 <= column < len(df.columns):
                raise DataError(f"the table has {len(df.columns)} columns, so there is no column {column}", "name it")
            return df.columns[column]
        return column

    columns = {"path_col": named(fn_col, "path", 0), "label_col": named(label_col, "label", 1)}
    for name, column in columns.items():
        if isinstance(column, list) and len(column) == 1:
            columns[name] = column[0]
    if valid_col is not None:
        column = columns["partition_col"] = named(valid_col, "", 0)
        flags = [text_of(cell).lower() for cell in df[column]] if column in df else []
        if set(flags) <= TRUE | FALSE and part_of_flags(str(column)) is None:  # as in fastai, whatever its name
            if flags and not TRUE & set(flags):
                text = f"no row of the column {str(column)!r} is for validation"
                raise DataError(text, "mark some, or leave valid_col out for a share of all images")
            df = df.assign(**{column: ["valid" if flag in TRUE else "train" for flag in flags]})
    if suff and columns["path_col"] in df:
        df = df.assign(**{columns["path_col"]: df[columns["path_col"]].astype(str) + suff})
    return df, columns


def read_table(path: Path, header: Any, delimiter: str | None, quoting: int) -> pd.DataFrame:
    """A CSV as texts, read by pandas where it is told how.

    Raises:
        DataError: pandas cannot read it so.
    """
    if header in ("infer", 0) and len(delimiter or ",") == 1 and quoting == csv.QUOTE_MINIMAL:
        return read_csv(path, delimiter)
    told = {"header": header, "quoting": quoting} | ({} if delimiter is None else {"delimiter": delimiter})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells beyond the header, which would get lost
            table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, **told)
        return table.rename(columns=str)
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        raise DataError(
            f"{path} cannot be read as a table: {str(error).strip()}", "look at header= and delimiter="
        ) from error


def labels_by(label_func: Callable[[Path], Any], fnames: Iterable[Any]) -> tuple[list[str], list[Any]]:
    """The files as texts, and the label that a function gives each; a list of labels where it gives one."""
    files = [Path(fname) for fname in fnames]
    labels = []
    for file in files:
        try:
            labels.append(label_func(file))
        except MedclfError:
            raise
        except Exception as error:  # of the user's own function
            name = getattr(label_func, "__name__", "it")
            raise DataError(
                f"{file}: the function of the labels fails: {type(error).__name__}: {error}", f"try {name} on this file"
            ) from error
    return [str(file.absolute() if file.exists() else file) for file in files], [
        list(label) if isinstance(label, (tuple, set)) else label for label in labels
    ]


class Named:
    """The first group of a pattern in a path or a file's name, as fastai's `RegexLabeller` finds it.

    Raises:
        DataError: it is no pattern; or, when called, it is not there.

    Example:
        >>> Named(r"([a-z]+)_[0-9]+")(Path("images/cat_12.png"))
        'cat'
    """

    def __init__(self, pattern: str, name_only: bool = False) -> None:
        try:
            self.pattern, self.name_only = re.compile(pattern), name_only
        except re.error as error:
            raise DataError(f"{pattern!r} is no regular expression: {error}", "try it with re.compile") from error

    def __call__(self, path: Path) -> str:
        """See the class."""
        found = self.pattern.search(path.name if self.name_only else path.as_posix())
        if not found or not self.pattern.groups:
            raise DataError(
                f"{path} does not match {self.pattern.pattern!r}, whose first group is to be the label",
                "try the pattern on this name",
            )
        return found.group(1)


def partition_by_folder(table: pd.DataFrame, train: str, valid: str) -> pd.DataFrame:
    """The table with the partitions that its first folders named so say; other images are in none.

    Raises:
        DataError: there is no image in one of the folders.
    """
    first = table["path"].str.partition("/")[0]
    sides = first.map({train: "train", valid: "valid"})
    for name, side in ((train, "train"), (valid, "valid")):
        if side not in set(sides):
            raise DataError(f"there is no image in the folder {name!r}", f"its folders are {', '.join(first.unique())}")
    found = table.assign(partition=sides.astype(object).where(sides.notna(), None))
    found.attrs = dict(table.attrs)
    return found


def check_vocab(vocab: Sequence[str] | None, found: Sequence[str]) -> None:
    """See that the labels that were asked for are those of the images; fastai sorts them too.

    Raises:
        DataError: they are not.
    """
    if vocab is not None and {str(label) for label in vocab} != set(found):
        raise DataError(f"vocab={list(vocab)}, but the images have the labels {list(found)}", "leave vocab out")


def check_same_labels(sheet: pd.DataFrame, files: Sequence[Path], dls: Any) -> None:
    """See that a DataFrame's labels are those that the loaders know its files by, which alone are used.

    Raises:
        DataError: some are others.
    """
    column = getattr(dls, "label_col", "label")
    if not isinstance(column, (str, int)) or column not in sheet:
        return
    known = {Path(dls.path) / path: label for path, label in zip(dls.table["path"], dls.table["label"], strict=True)}
    pairs = [(file, known.get(file), cell) for file, cell in zip(files, sheet[column], strict=True)]
    other = [(file, label, cell) for file, label, cell in pairs if isinstance(label, str) and text_of(cell) != label]
    if other:
        file, label, cell = other[0]
        text = f"{len(other)} of {len(files)} labels are not those of the loaders' table: {file} is {label!r} there"
        raise DataError(f"{text}, not {cell!r}", "test on other labels with evaluate, or make loaders of them")
