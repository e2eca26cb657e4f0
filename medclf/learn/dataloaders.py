"""FOLDER | CSV | DATAFRAME | LISTS | DICOM TREE -> DATALOADERS, by way of one table."""

from __future__ import annotations

import csv
import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from fastai.data.block import CategoryBlock, MultiCategoryBlock
from fastai.data.core import DataLoaders

from medclf.dataset.scan import scan
from medclf.dataset.splits import usual_split
from medclf.errors import DataError
from medclf.learn.sources import (
    Named,
    check_vocab,
    labels_by,
    loader_arguments,
    partition_by_folder,
    read_table,
    table_of,
)
from medclf.learn.stores import decoding
from medclf.learn.table_loaders import TableLoaders


class MedDataLoaders(TableLoaders):
    """Factories that return fastai `DataLoaders` for medical images.

    Every factory makes the same table (see `scan`), splits it (see `split_table`) and hands it to `from_table`, which
    also documents the arguments that all of them take. What comes back is fastai's `DataLoaders`, with three attributes
    more: `table`, the table with the partitions filled in; `settings`, what they were made with (`LoaderSettings`); and
    `problems`, the files that could no longer be read when a batch needed them, path -> reason (see `with_problems`).
    """

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        train: str = "train",
        valid: str = "valid",
        valid_pct: float | None = None,
        seed: int | None = None,
        vocab: Sequence[str] | None = None,
        item_tfms: Any = None,
        batch_tfms: Any = None,
        img_cls: Any = None,
        *,
        strict: bool = False,
        **kwargs: Any,
    ) -> DataLoaders:
        """Loaders of a folder whose subfolders are the labels; see `from_table` for the other arguments.

        Folders named train, valid, val, validation or test, in any case, are taken as the partitions, unless
        `valid_pct` asks for a share.

        Args:
            path: the folder.
            train, valid: other names of the folders that hold the training and the validation images.
            valid_pct, seed, item_tfms, batch_tfms: see `from_table`.
            vocab: the labels that there must be.
            img_cls: PILImageBW for grey images.
            strict: a corrupt file is an error instead of a row left out.
            kwargs: of `from_table` and `scan`.

        Raises:
            DataError: no such folder, no images, or fewer than two labels.
        """
        given = {"valid_pct": valid_pct, "seed": seed, "item_tfms": item_tfms, "batch_tfms": batch_tfms}
        kwargs |= {**given, "img_cls": img_cls}
        chosen = None
        if (train, valid) != ("train", "valid") and valid_pct is None:
            chosen, kwargs["split"] = partial(partition_by_folder, train=train, valid=valid), "folders"
        dls = cls._scanned(path, kwargs, chosen, valid_pct is None, strict=strict)
        check_vocab(vocab, dls.vocab)
        return dls

    @classmethod
    def from_csv(
        cls,
        path: Any = None,
        csv_fname: str = "labels.csv",
        header: Any = "infer",
        delimiter: str | None = None,
        quoting: int = csv.QUOTE_MINIMAL,
        *,
        root: str | Path | None = None,
        **kwargs: Any,
    ) -> DataLoaders:
        """Loaders of a CSV with one row an image; see `scan` for the columns and `from_table` for the rest.

        Args:
            path: the file; or, as in fastai, the folder that holds it, whose first column is the path then and the
                second the label, where none are named so.
            csv_fname: its name in that folder.
            header, delimiter, quoting: of `pandas.read_csv`.
            root: folder that the paths are relative to; the CSV's own folder where None.
            kwargs: as for `from_df`.

        Raises:
            DataError: a column is missing, or a path leaves the root.
        """
        path = Path(kwargs.pop("csv", path))
        read = {"header": header, "delimiter": delimiter, "quoting": quoting}
        if path.is_dir():
            return cls.from_df(read_table(path / csv_fname, **read), path=root or path, **kwargs)
        told = header != "infer" or delimiter is not None or quoting != csv.QUOTE_MINIMAL or "valid_col" in kwargs
        return cls.from_df(read_table(path, **read) if told else path, root=root or path.parent, **kwargs)

    @classmethod
    def from_df(
        cls,
        df: pd.DataFrame | Path,
        path: str | Path | None = None,
        valid_pct: float | None = None,
        seed: int | None = None,
        fn_col: str | int = "path",
        folder: str | None = None,
        suff: str = "",
        label_col: Any = "label",
        label_delim: str | None = None,
        y_block: Any = None,
        valid_col: str | int | None = None,
        item_tfms: Any = None,
        batch_tfms: Any = None,
        img_cls: Any = None,
        *,
        root: str | Path = ".",
        **kwargs: Any,
    ) -> DataLoaders:
        """Loaders of a DataFrame with one row an image.

        Args:
            df: the table.
            path: fastai's name of `root`; the first column is the path then and the second the label, where none are
                named so.
            valid_pct, seed, item_tfms, batch_tfms: see `from_table`.
            fn_col: fastai's name of `path_col`; a name or a position.
            folder: that the paths are relative to, in `path`.
            suff: what is missing at the end of the files' names.
            label_col: a name or a position; a list of columns of 0 and 1 for several labels.
            label_delim: see `scan`.
            y_block: CategoryBlock, or MultiCategoryBlock for several labels.
            valid_col: fastai's name of `partition_col`.
            img_cls: PILImageBW for grey images.
            root: folder that the paths are relative to.
            kwargs: of `scan` (`path_col`, `patient_col`, `partition_col`, `strict`, ...) and of `from_table`.

        Raises:
            DataError: a column is missing, or a path leaves the root.
        """
        given = {"valid_pct": valid_pct, "seed": seed, "item_tfms": item_tfms, "batch_tfms": batch_tfms}
        given |= {"label_delim": label_delim, "y_block": y_block, "img_cls": img_cls}
        where = Path(root if path is None else path) / (folder or "")
        fn_col = kwargs.pop("path_col", fn_col)
        if not isinstance(df, (pd.DataFrame, str, Path)):
            raise DataError(f"df is a {type(df).__name__}, and not a DataFrame", "give pd.DataFrame(df)")
        if isinstance(df, pd.DataFrame):
            df, columns = table_of(df, fn_col, label_col, valid_col, suff, by_position=path is not None)
        else:
            columns = {"path_col": fn_col, "label_col": label_col}
            columns |= {} if valid_col is None else {"partition_col": valid_col}
        dls = cls._scanned(df, kwargs | given | columns, root=where)
        dls.path_col, dls.label_col, dls.suff = columns["path_col"], columns["label_col"], suff
        return dls

    @classmethod
    def from_lists(
        cls,
        path: Any = None,
        fnames: Sequence[Any] | None = None,
        labels: Sequence[Any] | None = None,
        valid_pct: float | None = None,
        seed: int | None = None,
        y_block: Any = None,
        item_tfms: Any = None,
        batch_tfms: Any = None,
        img_cls: Any = None,
        *,
        paths: Sequence[Any] | None = None,
        root: str | Path = ".",
        **kwargs: Any,
    ) -> DataLoaders:
        """Loaders of a list of files and the list of their labels: each a label, or a list, which may be empty.

        `from_lists(paths, labels)`; or, as in fastai, `from_lists(root, paths, labels)`.

        Raises:
            DataError: the lists differ in length, or a path leaves the root.
        """
        if paths is None and labels is None:
            paths, labels = path, fnames
        elif paths is None:
            root, paths = path, fnames
        if paths is None or labels is None or isinstance(paths, (str, Path)):
            raise DataError("from_lists needs two lists, of files and of labels", "give both")
        paths, labels = list(paths), list(labels)
        if len(paths) != len(labels):
            raise DataError(f"{len(paths)} paths but {len(labels)} labels", "give one label for each path")
        cells = pd.Series(list(labels), dtype=object)
        df = pd.DataFrame({"path": [str(p) for p in paths], "label": cells})
        given = {"valid_pct": valid_pct, "seed": seed, "item_tfms": item_tfms, "batch_tfms": batch_tfms}
        if y_block is not None and y_block is not (MultiCategoryBlock if _several(labels) else CategoryBlock):
            given["y_block"] = y_block
        return cls.from_df(df, root=root, img_cls=img_cls, **given, **kwargs)

    @classmethod
    def from_path_func(
        cls,
        path: str | Path,
        fnames: Sequence[Any],
        label_func: Callable[[Path], Any],
        valid_pct: float | None = None,
        seed: int | None = None,
        item_tfms: Any = None,
        batch_tfms: Any = None,
        img_cls: Any = None,
        **kwargs: Any,
    ) -> DataLoaders:
        """Loaders of a list of files, whose labels a function tells from the path.

        Args:
            path: the folder that the table's paths start from; files may lie elsewhere, since each was named.
            fnames: the files, as `get_image_files(path)` lists them.
            label_func: path -> label, or a list of labels.
            valid_pct, seed, item_tfms, batch_tfms, img_cls, kwargs: as for `from_folder`.

        Raises:
            DataError: as `from_lists`.
        """
        given = {"valid_pct": valid_pct, "seed": seed, "item_tfms": item_tfms, "batch_tfms": batch_tfms}
        files, labels = labels_by(label_func, fnames)
        kwargs.setdefault("allow_outside", True)
        return cls.from_lists(path, files, labels, img_cls=img_cls, **given, **kwargs)

    @classmethod
    def from_name_func(
        cls, path: str | Path, fnames: Sequence[Any], label_func: Callable[[str], Any], **kwargs: Any
    ) -> DataLoaders:
        """Loaders of a list of files, whose labels a function tells from the file's name; see `from_path_func`."""
        return cls.from_path_func(path, fnames, lambda file: label_func(file.name), **kwargs)

    @classmethod
    def from_path_re(cls, path: str | Path, fnames: Sequence[Any], pat: str, **kwargs: Any) -> DataLoaders:
        """Loaders of a list of files, whose labels are the first group of a pattern in the path; see `from_path_func`.

        Raises:
            DataError: the pattern has no group, or a path does not match.
        """
        return cls.from_path_func(path, fnames, Named(pat), **kwargs)

    @classmethod
    def from_name_re(
        cls, path: str | Path, fnames: Any = None, pat: str | None = None, *, pattern: str | None = None, **kwargs: Any
    ) -> DataLoaders:
        """Loaders of a folder whose file names hold the label, as the first group of a regular expression.

        Args:
            path: the folder.
            fnames: the files, as in fastai; or the pattern, for all images in the folder.
            pat, pattern: matched anywhere in the file's name, such as r"^(.+)_\\d+.jpg$".
            kwargs: as for `from_folder`.

        Raises:
            DataError: the pattern has no group, or a file's name does not match.
        """
        if pat is None:
            return cls._scanned(path, kwargs, label_from=re.compile(pattern if fnames is None else fnames))
        return cls.from_path_func(path, fnames, Named(pat, name_only=True), **kwargs)

    @classmethod
    def from_dicom(
        cls, path: str | Path, *, labels: str | Path | pd.DataFrame | None = None, **kwargs: Any
    ) -> DataLoaders:
        """Loaders of a tree of DICOM files, with patients from the headers (keyed, never the id itself).

        Args:
            path: the folder.
            labels: a CSV or DataFrame with the labels; where None the folders are the labels.
            kwargs: as for `from_csv`.

        Raises:
            DataError: no DICOM file, or a column is missing.
        """
        return cls._scanned(path, kwargs, labels=labels)

    @classmethod
    def _scanned(
        cls,
        source: Any,
        kwargs: dict[str, Any],
        chosen: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
        divided: bool = True,
        **given: Any,
    ) -> DataLoaders:
        """Scan with the arguments that `scan` knows, and make loaders with the others; one decode serves both.

        Args:
            source: of `scan`.
            kwargs: what the factory was called with.
            chosen: changes the table before loaders are made of it.
            divided: see `usual_split`.
            given: other arguments of `scan`.
        """
        kwargs = loader_arguments(kwargs, [*_SCAN, *_LOADERS])
        rest = {name: value for name, value in kwargs.items() if name not in _SCAN or name in _LOADERS}
        given |= {name: value for name, value in kwargs.items() if name in _SCAN}
        given = {"check_pixels": decoding(**rest), "progress": rest.get("progress", True)} | given
        table = scan(source, **given)
        table = table if chosen is None else chosen(table)
        if rest.get("split") is None and not divided:
            rest["split"] = usual_split(table, divided=False)
        return cls.from_table(table, **rest)


def _several(labels: Sequence[Any]) -> bool:
    return any(isinstance(label, (list, tuple, set)) for label in labels)


_SCAN = {*inspect.signature(scan).parameters} - {"source", "labels", "root", "progress"}
_LOADERS = {*inspect.signature(MedDataLoaders.from_table).parameters} - {"table"}
