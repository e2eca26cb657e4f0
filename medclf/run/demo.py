"""`medclf demo`: the whole job on images that are drawn here, or on a public set."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from medclf.config import Split, TrainConfig
from medclf.dataset import public_data
from medclf.dataset.image_cache import DRAWN, cache_folder
from medclf.demo_images import draw_endoscopy
from medclf.errors import DataError
from medclf.run.train import train

SETS = {"drawn": "endoscopy", "hello-world": "radiograph", "kvasir-v1": "endoscopy", "kvasir-v2": "endoscopy"}


def run_demo(
    data: str = "drawn",
    out: str | Path = "medclf-demo",
    epochs: int = 2,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Train `efficientnet_lite0` on a set that needs no preparation, and leave a RUN folder.

    Args:
        data: "drawn" (endoscopy-like pictures, drawn here, no network), "hello-world", "kvasir-v1" or "kvasir-v2"
            (fetched once into the user's cache folder).
        out: the RUN folder.
        epochs: with the whole network, after the linear probe.
        overwrite: replace an earlier run.
        say: called with a line for the user at each step.

    Returns:
        The RUN folder.

    Raises:
        DataError: no set of that name, or it cannot be fetched.
        OutputError: `out` exists.
    """
    if data not in SETS:
        raise DataError(f"unknown demo data '{data}'", f"choose one of {', '.join(SETS)}")
    if data == "drawn":
        say("drawing endoscopy-like images: the numbers below say nothing about medicine")
        folder = cache_folder() / DRAWN
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as part:
                draw_endoscopy(Path(part) / "drawn").rename(folder)
    else:
        folder = public_data.fetch(data)
    split: Split | None = None if data == "hello-world" else "stratified"
    config = TrainConfig(
        data=str(folder),
        out=str(out),
        modality=SETS[data],
        arch="efficientnet_lite0",
        epochs=epochs,
        split=split,
        overwrite=overwrite,
    )
    return train(config, say)
