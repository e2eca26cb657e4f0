"""What a trained network is: all that a bundle needs to build it again and to give it the pixels it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any

from medclf.errors import BundleError, MedclfError
from medclf.files import is_number
from medclf.images.preprocessing import Preprocessing
from medclf.models.head_layers import Layer, check_head

MAX_LABELS = 100_000
_REMEDY = "save the bundle again"


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise BundleError(f"the model's description lacks or misstates: {what}", _REMEDY)


def weights_name(weights: str | None) -> str | None:
    """What a bundle says of the weights it began with: of a path the name alone, since a bundle travels.

    Example:
        >>> weights_name("/home/me/dino.pth"), weights_name("local-dir:/home/me/dino"), weights_name("hf-hub:me/dino")
        ('dino.pth', 'dino', 'hf-hub:me/dino')
    """
    return weights if weights is None or str(weights).startswith("hf-hub:") else PurePath(str(weights)).name


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, of pixels in [0, 1].

    Example:
        >>> Normalization([0.5], [0.25])
        Normalization(mean=(0.5,), std=(0.25,))
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            _expect(isinstance(values, (list, tuple)) and all(map(is_number, values)), name)
            object.__setattr__(self, name, tuple(values))
        _expect(all(value > 0 for value in self.std), "std")

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def none(cls, channels: int) -> Normalization:
        """The one that changes nothing."""
        return cls((0.0,) * channels, (1.0,) * channels)


@dataclass(frozen=True)
class SplitSettings:
    """How the images were split: see `MedDataLoaders.from_table`."""

    kind: str
    valid_pct: float = 0.2
    seed: int = 42
    fold: int | None = 0
    n_folds: int = 5


@dataclass(frozen=True)
class LoaderSettings:
    """What the loaders were made with that is not to be seen in their transforms.

    Args:
        modality: whose augmentation was used.
        split: how the images were split.
        bs: the largest batch.
        seed: of the order and the augmentation.
    """

    modality: str | None = None
    split: SplitSettings | None = None
    bs: int | None = None
    seed: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it; what is not known is left out, but the modality."""
        return {key: value for key, value in asdict(self).items() if value is not None or key == "modality"}


@dataclass(frozen=True)
class ModelSpec:
    """What a bundle needs of a network besides its weights.

    Args:
        arch: a name that `build_network` takes.
        vocab: the labels, in the order of the outputs.
        preprocessing: how a file becomes the network's input.
        normalization: of that input.
        multi_label: whether an image can carry several labels.
        dropout: before the linear layer, in [0, 1).
        weights: what the body began with; None for random weights.
        settings: of the loaders that it was trained with.
        head: its layers (see `medclf.models.heads`), where it is another than pooling, dropout and one linear layer.
        ordinal: `vocab` is an order, lowest grade first.
        all_stages: the head takes the maps of all stages; see `medclf.models.stage_maps`.

    Raises:
        BundleError: a value that no network can have.

    Example:
        >>> spec = ModelSpec("resnet18", ["cat", "dog"], Preprocessing(), Normalization([0.5] * 3, [0.5] * 3))
        >>> spec.n_in, spec.n_out, ModelSpec.from_dict(spec.as_dict()) == spec
        (3, 2, True)
    """

    arch: str
    vocab: tuple[str, ...]
    preprocessing: Preprocessing
    normalization: Normalization
    multi_label: bool = False
    dropout: float = 0.2
    weights: str | None = None
    settings: LoaderSettings = field(default_factory=LoaderSettings)
    head: list[Layer] | None = None
    ordinal: bool = False
    all_stages: bool = False

    def __post_init__(self) -> None:
        _expect(isinstance(self.arch, str) and ":" not in self.arch, "arch")
        vocab = self.vocab
        _expect(isinstance(vocab, (list, tuple)) and all(isinstance(label, str) for label in vocab), "vocab")
        _expect(0 < len(vocab) <= MAX_LABELS and len(set(vocab)) == len(vocab), "vocab")
        object.__setattr__(self, "vocab", tuple(vocab))
        _expect(isinstance(self.multi_label, bool), "multi_label")
        _expect(isinstance(self.ordinal, bool) and not (self.ordinal and self.multi_label), "ordinal")
        _expect(is_number(self.dropout) and 0 <= self.dropout < 1, "dropout")
        for name in ("mean", "std"):
            _expect(len(getattr(self.normalization, name)) == self.n_in, name)
        _expect(isinstance(self.all_stages, bool) and not (self.all_stages and self.head), "all_stages")
        if self.head is not None:
            check_head(self.head)

    @property
    def n_in(self) -> int:
        """Channels of the input."""
        return self.preprocessing.channels

    @property
    def n_out(self) -> int:
        """Number of labels."""
        return len(self.vocab)

    def as_dict(self) -> dict[str, Any]:
        """As a bundle's JSON holds it, under "recipe"."""
        weights = weights_name(self.weights)
        made: dict[str, Any] = {"arch": self.arch, "weights": weights, "n_in": self.n_in, "n_out": self.n_out}
        made |= {"dropout": self.dropout, "vocab": list(self.vocab), "multi_label": self.multi_label}
        seen = {"preprocessing": self.preprocessing.as_dict(), "normalization": self.normalization.as_dict()}
        head = {} if self.head is None else {"head": self.head}
        flags = {name: True for name in ("ordinal", "all_stages") if getattr(self, name)}
        return {**made, **flags, **head, **seen, **self.settings.as_dict()}

    @classmethod
    def from_dict(cls, recipe: Mapping[str, Any]) -> ModelSpec:
        """What `as_dict` gave, of this version or of 0.1.

        Raises:
            BundleError: a value is missing, or none that a network can have.
        """
        try:
            preprocessing = Preprocessing.from_dict(recipe["preprocessing"])
            stats = recipe["normalization"]
            spec = cls(
                recipe["arch"],
                recipe["vocab"],
                preprocessing,
                Normalization(stats["mean"], stats["std"]),
                recipe["multi_label"],
                recipe["dropout"],
                recipe.get("weights"),
                _settings(recipe),
                recipe.get("head"),
                recipe.get("ordinal", False),
                recipe.get("all_stages", False),
            )
            _expect(recipe["n_out"] == spec.n_out, "n_out is not the number of labels")
            _expect(recipe["n_in"] == spec.n_in, "channels")
        except BundleError:
            raise
        except MedclfError as error:
            raise BundleError(error.message, error.remedy) from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"the model's description lacks or misstates: {error}", _REMEDY) from error
        return spec


def _settings(recipe: Mapping[str, Any]) -> LoaderSettings:
    split = recipe.get("split")
    values = _of(LoaderSettings, recipe)
    return LoaderSettings(**{**values, "split": SplitSettings(**_of(SplitSettings, split)) if split else None})


def _of(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: values[one.name] for one in fields(kind) if one.name in values}
