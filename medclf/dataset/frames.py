"""Each frame, page or slice of a file as a row of its own, named FILE#NUMBER."""

from __future__ import annotations

import pandas as pd

from medclf.dataset.columns import FRAME
from medclf.dataset.labels import is_missing
from medclf.dataset.sources import Rows
from medclf.images.frame_names import file_and_frame, frame_name
from medclf.images.reading import n_frames
from medclf.parallel import map_ahead


def take_frames(rows: Rows) -> None:
    """Make a row of each frame; files of one image keep theirs, and broken ones too, so that the scan says why."""
    counts = list(map_ahead(lambda path: n_frames(rows.root / path), rows.path))
    files = zip(rows.path, counts, strict=True)
    names = [frame_name(path, k, n) if n > 1 else path for path, n in files for k in range(n)]
    rows.keep([row for row, n in enumerate(counts) for _ in range(n)])
    rows.path = names
    number_frames(rows)


def number_frames(rows: Rows) -> None:
    """Say which rows are frames, also where a table names them, so that those of one file are known to be."""
    numbers = [file_and_frame(rows.root / path)[1] if "#" in path else None for path in rows.path]
    rows.extra[FRAME] = pd.Series(numbers, index=rows.extra.index, dtype=object)


def file_names(table: pd.DataFrame) -> list[str]:
    """The file that each image is of: its path, or that without the frame's number."""
    frames = table[FRAME] if FRAME in table else [None] * len(table)
    pairs = zip(table["path"], frames, strict=True)
    return [path if is_missing(frame) else path.rpartition("#")[0] for path, frame in pairs]
