"""A TABLE -> DATALOADERS: the images that its partitions name, stored where they can be, and what they show of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastai.data.core import DataLoaders
from fastai.torch_core import default_device

from medclf.config import Resize, TrainConfig
from medclf.dataset.kinds import window_warnings
from medclf.dataset.labels import label_set, root_of
from medclf.dataset.scan import note
from medclf.display import Shown, listed
from medclf.errors import DataError, MedclfWarning, argument, check_count
from medclf.images.preprocessing import Preprocessing
from medclf.learn import distributed
from medclf.learn.arguments import check_callables
from medclf.learn.batches import MedDL, default_batch_size, even_batch_size, hold_on_device
from medclf.learn.image_block import MedImageBlock
from medclf.learn.partitions import LabelOf, PartitionSplitter, partitioned, refuse_unknown, vocab_of
from medclf.learn.presets import tfms_for
from medclf.learn.sources import check_same_labels
from medclf.learn.stores import stores_of, stores_wanted
from medclf.modalities import changes_of
from medclf.models.spec import LoaderSettings, SplitSettings
from medclf.options import options
from medclf.parallel import usable_device


class TableLoaders(Shown, DataLoaders):
    """fastai's `DataLoaders` of a table as `scan` returns it; `MedDataLoaders` makes the table of other sources.

    Attributes:
        table: with the partitions filled in.
        settings: what they were made with.
        problems: the files that could no longer be read when a batch needed them, path -> reason.
    """

    @classmethod
    def from_table(
        cls,
        table: pd.DataFrame,
        *,
        modality: str | None = None,
        aug: Mapping[str, Any] | Sequence[str] | None = None,
        size: int | tuple[int, int] = TrainConfig.size,
        split: str | None = TrainConfig.split,
        valid_pct: float = TrainConfig.valid_pct,
        seed: int = TrainConfig.seed,
        fold: int = 0,
        n_folds: int = TrainConfig.folds,
        item_tfms: Any = None,
        batch_tfms: Any = None,
        resize: Resize = TrainConfig.resize,
        window: Any = TrainConfig.window,
        frame: Any = TrainConfig.frame,
        channels: int = 3,
        bs: int | None = None,
        val_bs: int | None = None,
        num_workers: int = 0,
        cache: bool | None = TrainConfig.cache,
        device_store: bool | None = None,
        progress: bool = True,
        device: Any = None,
    ) -> DataLoaders:
        """Make loaders of a table as `scan` returns it.

        Args:
            table: one row an image.
            modality: whose augmentation to use, a row of `medclf.modalities.MODALITIES` such as "endoscopy"; None
                augments nothing.
            aug: changes of its settings, such as {"max_rotate": 20}; see `Augment`.
            size: side, or (height, width), in pixels, of what the network sees.
            split: "random", "stratified", "patient", "grouped", "kfold", "folders"; "all" trains on every image and
                validates on the same ones, for a last network after cross-validation; None takes the table's own
                partitions where it has train and valid; else it keeps together what shares a group or a patient.
            valid_pct: share of the images, in (0, 1), held for validation.
            seed: of the split, the order and the augmentation; the global random state is left alone.
            fold, n_folds: for "kfold", which fold is valid, of how many.
            item_tfms, batch_tfms: fastai transforms instead of the modality's.
            resize: "squish" keeps all of the image, "crop" its centre, "pad" adds black borders.
            window, frame: how DICOM is read, see `read_image`.
            channels: 3, or 1 for grey.
            bs, val_bs: the largest batch, 64 on a GPU and 16 on a CPU where None; the training images are cut into even
                batches, none dropped.
            num_workers: processes that read files; with a cache none is needed.
            cache: decode every image once, into a store in the user's cache folder. No store can obey `item_tfms` that
                draw anew each time: where None, there is none then; with True, they are refused.
            device_store: hold that store in the device's memory; where None, on a GPU that has room for twice as much.
            progress: show a progress bar for what lasts.
            device: where batches go; the GPU if there is one.

        Returns:
            fastai `DataLoaders`.

        Raises:
            DataError: no usable image, fewer than two labels, nothing to validate on, a split that cannot be made, or
                batches of none.
            PreprocessingError: a store cannot obey `item_tfms`, or there is no such `resize`, `window` or `frame`.
        """
        if not isinstance(table, pd.DataFrame):
            text = f"from_table takes the table that scan gave, not a {type(table).__name__}"
            raise DataError(text, "of files: MedDataLoaders.from_folder, from_csv or from_lists")
        reading = Preprocessing(channels=channels, window=window, frame=frame)
        options(TrainConfig)["seed"].checked(seed)
        on = usable_device(device) if device is not None else default_device()
        for name, given in (("bs", bs), ("val_bs", val_bs)):
            if given is not None:
                check_count(argument(name), given, "say how many images a batch has")
        check_callables(item_tfms=item_tfms, batch_tfms=batch_tfms)
        bs = bs or default_batch_size(on)
        if aug and batch_tfms is not None:
            raise DataError("aug changes the modality's augmentation, and batch_tfms replace it", "give one of the two")
        if item_tfms is None or batch_tfms is None:
            preset = tfms_for(modality, size, resize, **changes_of(aug))
            item_tfms = preset[0] if item_tfms is None else item_tfms
            batch_tfms = preset[1] if batch_tfms is None else batch_tfms
        root = root_of(table)
        table = table if table.index.is_unique else table.reset_index(drop=True)
        table, kind = partitioned(table, split, valid_pct=valid_pct, seed=seed, fold=fold, n_folds=n_folds)
        wanted = stores_wanted(item_tfms, reading, cache)
        stores = distributed.in_turn(lambda: stores_of(table, wanted, progress)) if wanted else None
        if stores is not None:
            hold_on_device(stores.values(), on, device_store)
        used = table[table["partition"].isin(["train", "valid"])]
        refuse_unknown(used)
        multi_label = bool(table.attrs.get("multi_label"))
        vocab = vocab_of(used, multi_label, table.attrs.get("ordinal"))
        paths = [root / path for path in used["path"]]
        for text in window_warnings(paths, window):
            warnings.warn(MedclfWarning(text), stacklevel=2)
            note(table, text)
        problems: dict[str, str] = {}
        block = DataBlock(
            blocks=(
                MedImageBlock(window=window, frame=frame, channels=channels),
                MultiCategoryBlock(vocab=vocab) if multi_label else CategoryBlock(vocab=vocab, sort=False),
            ),
            get_y=LabelOf({str(root / path): label for path, label in zip(table["path"], table["label"], strict=True)}),
            splitter=PartitionSplitter(dict(zip(map(str, paths), used["partition"], strict=True))),
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
        )
        dls = block.dataloaders(
            paths,
            path=root,
            bs=even_batch_size(int((used["partition"] == "train").sum()), bs),
            val_bs=val_bs or bs,
            dl_type=MedDL,
            dl_kwargs=[{"seed": seed, "stores": stores, "problems": problems}] * 2,
            drop_last=False,
            num_workers=num_workers,
            device=on,
        )
        dls = cls(*dls.loaders, path=root, device=on)
        dls.table, dls.problems = table, problems
        dls.settings = LoaderSettings(modality, SplitSettings(kind, valid_pct, seed, fold, n_folds), bs, seed)
        return dls

    def test_dl(
        self, test_items: Any, rm_type_tfms: int | None = None, with_labels: bool = False, **kwargs: Any
    ) -> Any:
        """fastai's; a DataFrame's files are those of the column that the loaders were made of, else of its first.

        Labels are those of the loaders' own table.

        Raises:
            DataError: a DataFrame says other labels; or there is no image.
        """
        if isinstance(test_items, pd.DataFrame):
            known = getattr(self, "path_col", "path")
            names = test_items[known if known in test_items else test_items.columns[0]]
            sheet = test_items
            test_items = [Path(self.path) / f"{name}{getattr(self, 'suff', '')}" for name in names]
            if with_labels and getattr(self, "table", None) is not None:
                check_same_labels(sheet, test_items, self)
        elif isinstance(test_items, (str, Path)):
            test_items = [test_items]
        elif isinstance(test_items, Iterator):
            test_items = list(test_items)
        if not len(test_items):
            raise DataError("there is no image to test on", "give files, such as get_image_files(folder)")
        if with_labels and getattr(self, "table", None) is not None:
            if other := {type(item).__name__ for item in test_items if not isinstance(item, (str, Path))}:
                text = f"an image given as {min(other)} has no label: the table knows files by their path"
                raise DataError(text, "give paths, or use test_dl without with_labels=True")
            test_items = [Path(item) for item in test_items]  # fastai takes a text for the label itself
        return super().test_dl(test_items, rm_type_tfms, with_labels, **kwargs)

    def _shown(self) -> tuple[str, dict[str, Any], pd.DataFrame | None]:
        facts = {
            "training images": len(self.train_ds),
            "validation images": len(self.valid_ds),
            "labels": listed(self.vocab),
            "batches of": self.bs,
        }
        table = getattr(self, "table", None)
        if table is None:
            return type(self).__name__, facts, None
        facts |= {"left out": n} if (n := int(table["partition"].isna().sum())) else {}
        facts |= {"split": self.settings.split.kind, "modality": self.settings.modality or "none: nothing augments"}
        used = table[table["partition"].notna()]
        labels = used["label"].map(lambda cell: sorted(label_set(cell)) or ["(none)"]).explode().rename("label")
        return type(self).__name__, facts, pd.crosstab(labels, used["partition"].reindex(labels.index))
