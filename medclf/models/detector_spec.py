"""What a detector is: all that a bundle or an exported file needs of it besides its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from medclf.errors import BundleError, MedclfError
from medclf.images.preprocessing import Preprocessing
from medclf.models.spec import Normalization, weights_name

Neck = Literal["pyramid", "light"]

LEAST_PROB, MOST_BOXES = 0.05, 20
OVERLAP = 0.5  # of two boxes of one label, above which the less probable one is dropped


@dataclass(frozen=True)
class DetectorSpec:
    """What a bundle needs of a detector besides its weights.

    Args:
        arch: of the backbone; a name that `build_body` takes.
        vocab: the labels of the boxes.
        preprocessing: how a file becomes the network's input; without `sampling`.
        normalization: of that input.
        neck: "pyramid" (feature maps of three sizes, for findings large and small) or "light" (the last map alone).
        weights: what the backbone began with.

    Raises:
        BundleError: a value that no detector can have.

    Example:
        >>> half = Normalization([0.5] * 3, [0.5] * 3)
        >>> spec = DetectorSpec("resnet18", ("polyp",), Preprocessing(128), half)
        >>> DetectorSpec.from_dict(spec.as_dict()) == spec
        True
    """

    arch: str
    vocab: tuple[str, ...]
    preprocessing: Preprocessing
    normalization: Normalization
    neck: Neck = "pyramid"
    weights: str | None = None

    def __post_init__(self) -> None:
        vocab = self.vocab
        fits = isinstance(vocab, (list, tuple)) and all(isinstance(label, str) for label in vocab) and vocab
        if not isinstance(self.arch, str) or not fits or len(set(vocab)) < len(vocab) or len(vocab) > 1000:
            raise BundleError("the detector's description misstates arch or vocab", "save the bundle again")
        if self.neck not in get_args(Neck) or self.preprocessing.sampling is not None:
            raise BundleError("the detector's description misstates neck or preprocessing", "save the bundle again")
        object.__setattr__(self, "vocab", tuple(vocab))

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        plain = {name: getattr(self, name) for name in ("arch", "neck")}
        plain |= {"weights": weights_name(self.weights), "vocab": list(self.vocab)}
        seen = {"preprocessing": self.preprocessing.as_dict(), "normalization": asdict(self.normalization)}
        return plain | seen

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectorSpec:
        """What `as_dict` gave.

        Raises:
            BundleError: a value is missing, or none that a detector can have.
        """
        try:
            stats = values["normalization"]
            return cls(
                values["arch"],
                values["vocab"],
                Preprocessing.from_dict(values["preprocessing"]),
                Normalization(stats["mean"], stats["std"]),
                values["neck"],
                values["weights"],
            )
        except BundleError:
            raise
        except MedclfError as error:
            raise BundleError(error.message, error.remedy) from error
        except (AttributeError, KeyError, TypeError) as error:
            raise BundleError(f"the detector's description lacks or misstates: {error}", "save it again") from error
