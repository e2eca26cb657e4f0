"""What every runtime of a detector shares: files in, boxes in the pixels of each file out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from medclf.errors import ReadError
from medclf.images.box_places import to_file
from medclf.models.detector_spec import DetectorSpec
from medclf.parallel import map_ahead

if TYPE_CHECKING:
    from medclf.images.preprocessing import Item

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of one image: corners (n, 4) in prepared pixels, probs (n,) and places in the vocab (n,), the most probable first."""


@dataclass(frozen=True)
class FoundBox:
    """A box that a detector found.

    Args:
        label: what it shows.
        prob: how sure the detector is, in [0, 1].
        x_min, y_min, x_max, y_max: in the file's pixels; x_max and y_max are the first that are not in.
    """

    label: str
    prob: float
    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True)
class FoundBoxes:
    """What a detector found in one image.

    Args:
        boxes: the most probable first.
        threshold: prob from which a box is shown.
        width, height: of the file in pixels.
        vocab: the labels that the detector knows.
    """

    boxes: tuple[FoundBox, ...]
    threshold: float
    width: int
    height: int
    vocab: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[FoundBox, ...]:
        """The boxes from the threshold on."""
        return tuple(box for box in self.boxes if box.prob >= self.threshold)

    @property
    def label(self) -> tuple[str, ...]:
        """The labels of the boxes that are shown."""
        return tuple(dict.fromkeys(box.label for box in self.shown))

    @property
    def probs(self) -> dict[str, float]:
        """Of each label, the prob of its surest box; 0 where there is none."""
        return {label: max([0.0, *(box.prob for box in self.boxes if box.label == label)]) for label in self.vocab}


class BoxPredictor:
    """A loaded detector.

    Attributes:
        spec: what it is; its `vocab` and `preprocessing` too.
        threshold: prob from which a box is shown.
        card: what its maker says of it.
        name: the folder's or the file's.
        hash: of everything in it.

    Args:
        spec, threshold, card, name, hash: as above.
        run: prepared images (B, H, W, C) -> the `Rows` of each.
    """

    def __init__(
        self,
        spec: DetectorSpec,
        run: Callable[[np.ndarray], Sequence[Rows]],
        *,
        threshold: float = 0.5,
        card: Mapping[str, Any] | None = None,
        name: str = "detector",
        hash: str = "",
    ) -> None:
        self.spec, self.vocab, self.preprocessing = spec, spec.vocab, spec.preprocessing
        self.threshold, self.card = threshold, dict(card or {})
        self.name, self.hash = name, hash
        self._find = run

    def find(self, prepared: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[FoundBoxes]:
        """Boxes in prepared images.

        Args:
            prepared: uint8 (B, H, W, C), as `Preprocessing.prepare` gives them.
            shapes: height and width of each file; boxes stay in the prepared pixels where there is none.
        """
        height, width = self.preprocessing.size
        answers = []
        for corners, probs, places in self._find(prepared):
            names = [self.vocab[int(place)] for place in places]
            rows = zip(names, probs.tolist(), corners.tolist(), strict=True)
            boxes = tuple(FoundBox(label, prob, *sides) for label, prob, sides in rows)
            answers.append(FoundBoxes(boxes, self.threshold, width, height, self.vocab))
        return [self.on_file(*one) for one in zip(answers, shapes, strict=True)] if shapes else answers

    def predict_pixels(self, pixels: np.ndarray) -> list[FoundBoxes]:
        """Boxes in prepared images (B, H, W, C), in their own pixels; `on_file` brings them to the file's."""
        return self.find(pixels, [])

    def on_file(self, found: FoundBoxes, shape: tuple[int, ...]) -> FoundBoxes:
        """What `predict_pixels` found, in the pixels of a file of (height, width).

        A box that lies in the padding alone is in no pixel of the file, and left out.
        """
        corners = np.array([[box.x_min, box.y_min, box.x_max, box.y_max] for box in found.boxes])
        moved = to_file(corners, self.preprocessing, shape).tolist()
        pairs = zip(found.boxes, moved, strict=True)
        kept = [(box, sides) for box, sides in pairs if sides[2] > sides[0] and sides[3] > sides[1]]
        boxes = tuple(FoundBox(box.label, box.prob, *sides) for box, sides in kept)
        return replace(found, boxes=boxes, width=shape[1], height=shape[0])

    def predict(self, item: Item) -> FoundBoxes:
        """Boxes in one image.

        Args:
            item: a file's path or bytes, an open file, a PIL image, or an array (H, W) or (H, W, 3) of uint8 or uint16.

        Raises:
            ReadError: the image cannot be read.
        """
        image = self.preprocessing.read(item)
        return self.find(self.preprocessing.fit(image)[None], [image.shape])[0]

    def predict_stream(self, items: Iterable[Item], bs: int = 16) -> Iterator[FoundBoxes | ReadError]:
        """Boxes in many images, read ahead; an image that cannot be read gives its error."""

        def read(item: Item) -> tuple[np.ndarray, tuple[int, ...]] | ReadError:
            try:
                image = self.preprocessing.read(item)
                return self.preprocessing.fit(image), image.shape
            except ReadError as error:
                return error

        images = iter(map_ahead(read, items, ahead=bs))
        while batch := list(islice(images, bs)):
            sound = [one for one in batch if not isinstance(one, ReadError)]
            found = iter(self.find(np.stack([one[0] for one in sound]), [one[1] for one in sound]) if sound else [])
            for one in batch:
                yield one if isinstance(one, ReadError) else next(found)
