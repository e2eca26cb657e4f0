"""What a network sees in the images of a pool, and what it predicts: a bundle, a learner, or a frozen encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.errors import ReadError
from medclf.inference.bundle import Bundle
from medclf.inference.bundle_format import biases, temperatures
from medclf.inference.predictor import Predictor
from medclf.inference.runnable import Runnable
from medclf.metrics.logits import to_probs
from medclf.models.features import embed_table, stage_widths
from medclf.models.features_kept import kept_features
from medclf.models.stage_maps import widths_of
from medclf.parallel import map_ahead
from medclf.progress import watch

_BS = 32

Encode = Callable[[Sequence[Path], Sequence[str]], tuple[np.ndarray, "np.ndarray | None"]]


def encoder(
    model: Any, arch: str, weights: Any, window: Any, frame: Any, progress: bool
) -> tuple[Encode, tuple[int, ...]]:
    """From files to (n, f) features and the model's own (n, n_labels) probabilities, where there is a model.

    And how many columns of the features each stage has, where they are of several.
    """
    if model is None:

        def frozen(paths: Sequence[Path], digests: Sequence[str]) -> tuple[np.ndarray, None]:
            def compute(rows: list[int]) -> np.ndarray:
                table = pd.DataFrame({"path": [str(paths[row].absolute()) for row in rows]})
                table.attrs["root"] = "/"
                reading: dict[str, Any] = {"window": window, "frame": frame, "bs": _BS, "progress": progress}
                return embed_table(table, arch, weights=weights, all_stages=True, **reading)

            return kept_features(f"{arch} {weights} {window} {frame} all stages", digests, compute), None

        return frozen, stage_widths(arch)

    def own(paths: Sequence[Path], digests: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        spec = model.spec
        n_out = len(spec.vocab)

        def compute(rows: list[int]) -> np.ndarray:
            return _logits_and_features(model, [paths[row] for row in rows], progress)

        name = f"bundle {model.hash}" if isinstance(model, Predictor) else ""
        both = kept_features(name, digests, compute)
        logits = both[:, :n_out].astype(float)
        if isinstance(model, Predictor):  # so that a suggestion is as sure as its prediction
            logits = logits / temperatures(model.calibration) + biases(model.calibration)
        return both[:, n_out:], to_probs(logits, multi_label=spec.multi_label)

    return own, _widths(model)


def _widths(model: Any) -> tuple[int, ...]:
    """How many columns of a model's features each stage has; () where they are the last stage's alone."""
    if isinstance(model, Predictor) and not isinstance(model, Bundle):  # an exported file has no body
        return stage_widths(model.spec.arch) if model.spec.all_stages else ()
    return widths_of(model.runnable.body if isinstance(model, Bundle) else next(model.model.children()))


def _logits_and_features(model: Any, paths: Sequence[Path], progress: bool) -> np.ndarray:
    """(n, n_out + f) float32, NaN where a file cannot be read."""
    outputs = model.outputs_stream(paths, _BS) if isinstance(model, Predictor) else _of_learner(model, paths)
    watched = watch(outputs, len(paths), "Computing features", progress=progress)
    found = [None if isinstance(one, ReadError) else np.concatenate(one) for one in watched]
    width = max((len(one) for one in found if one is not None), default=1)
    return np.stack([np.full(width, np.nan) if one is None else one for one in found]).astype(np.float32)


def _of_learner(learn: Any, paths: Sequence[Path]) -> Iterator[tuple[np.ndarray, np.ndarray] | ReadError]:
    """Logits and features of each file, by the network as it stands."""
    runnable, how = Runnable(learn.model, learn.spec), learn.spec.preprocessing

    def read(path: Path) -> np.ndarray | ReadError:
        try:
            return np.asarray(how.prepare(path))
        except ReadError as error:
            return error

    training = learn.model.training
    learn.model.eval()
    try:
        images = map_ahead(read, paths, ahead=_BS)
        while batch := list(islice(images, _BS)):
            sound = [image for image in batch if not isinstance(image, ReadError)]
            rows = iter(zip(*runnable.run(np.stack(sound)), strict=True) if sound else ())
            yield from (image if isinstance(image, ReadError) else next(rows) for image in batch)
    finally:
        if training:
            learn.model.train()
