"""A detector: torchvision's FCOS (its head, losses and suppression) on the stages of medclf's own backbones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork

from medclf.errors import BundleError, MedclfError, argument
from medclf.images.preprocessing import Preprocessing
from medclf.models.backbones import build_body
from medclf.models.spec import Normalization, weights_name
from medclf.models.stages import is_chain, stages

Neck = Literal["pyramid", "light"]
Outputs = tuple[Tensor, Tensor, Tensor]
"""Logits (B, N, labels), distances to the four sides (B, N, 4) and centredness (B, N, 1) at N places of the image."""

CHANNELS = 128
LEAST_PROB, MOST_BOXES = 0.05, 20
_OVERLAP = 0.5  # of two boxes of one label, above which the less probable one is dropped


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


class _Maps(nn.Module):
    """A body's feature maps, brought to one number of channels: the `backbone` that FCOS asks for."""

    out_channels = CHANNELS

    def __init__(self, body: nn.Module, neck: Neck, n_in: int) -> None:
        super().__init__()
        self.body = body
        self.neck = neck
        self.stages = list(stages(nn.Sequential(body, nn.Identity())))[:-1]  # a list: the body has them already
        maps = self._of_body(torch.zeros(1, n_in, 64, 64))
        if neck == "light":
            self.lateral: nn.Module = nn.Sequential(
                nn.Conv2d(maps[-1].shape[1], CHANNELS, 1), nn.GroupNorm(32, CHANNELS), nn.ReLU()
            )
        else:
            self.lateral = FeaturePyramidNetwork([one.shape[1] for one in maps], CHANNELS)

    @torch.no_grad()
    def _sizes(self, size: tuple[int, int], n_in: int) -> list[tuple[int, int]]:
        return [(one.shape[2], one.shape[3]) for one in self(torch.zeros(1, n_in, *size))]

    def _of_body(self, images: Tensor) -> list[Tensor]:
        """Of the last three stages."""
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-3:]

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self._of_body(images)
        if self.neck == "light":
            return [self.lateral(maps[-1])]
        found = self.lateral({str(place): one for place, one in enumerate(maps)})
        return list(found.values())


class Detector(nn.Module):
    """Boxes from images: see `build_detector`.

    Attributes:
        spec: what it is.
        frozen: whether the body keeps its weights while the rest is trained.
    """

    anchors: Tensor

    def __init__(self, body: nn.Module, spec: DetectorSpec, *, frozen: bool = False) -> None:
        super().__init__()
        size, n_in = spec.preprocessing.size, spec.preprocessing.channels
        was_training = body.training
        body.eval()
        maps = _Maps(body, spec.neck, n_in)
        self.level_sizes = maps._sizes(size, n_in)
        body.train(was_training)
        strides = [max(round(size[0] / rows), 1) for rows, _ in self.level_sizes]
        generator = AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
        n_convs = 1 if spec.neck == "light" else 2
        head = FCOSHead(CHANNELS, 1, len(spec.vocab), num_convs=n_convs)
        self.net = FCOS(
            maps,
            len(spec.vocab),
            anchor_generator=generator,
            head=head,
            score_thresh=LEAST_PROB,
            nms_thresh=_OVERLAP,
            detections_per_img=MOST_BOXES,
        )
        places = [torch.zeros(1, 1, *level) for level in self.level_sizes]
        anchors = generator(ImageList(torch.zeros(1, 1, *size), [size]), places)[0]
        self.register_buffer("anchors", anchors, persistent=False)
        self.spec = spec
        self.frozen = frozen
        body.requires_grad_(not frozen)

    @property
    def body(self) -> nn.Module:
        """The backbone."""
        return self.net.backbone.body  # type: ignore[no-any-return]

    @property
    def per_level(self) -> list[int]:
        """Places of each feature map."""
        return [rows * columns for rows, columns in self.level_sizes]

    def train(self, mode: bool = True) -> Detector:
        """As always, but the body's BatchNorm layers keep their statistics: batches are small."""
        super().train(mode)
        for module in self.body.modules():
            if self.frozen or isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Outputs:
        """See `Outputs`.

        Args:
            images: (B, C, H, W) normalised, of the spec's size.
        """
        found = self.net.head(self.net.backbone(images))
        return found["cls_logits"], found["bbox_regression"], found["bbox_ctrness"]

    def loss(self, outputs: Outputs, given: Tensor) -> Tensor:
        """FCOS's: focal loss of the labels, generalised IoU of the boxes, and centredness.

        Args:
            outputs: of `forward`.
            given: (B, M, 5) of x_min, y_min, x_max, y_max in pixels of the input, and the label's place in the vocab;
                rows of a negative label stand for nothing.
        """
        targets = []
        for rows in given.as_subclass(Tensor):
            rows = rows[rows[:, 4] >= 0]
            targets.append({"boxes": rows[:, :4], "labels": rows[:, 4].long()})
        anchors = [self.anchors] * len(targets)
        losses = self.net.compute_loss(targets, _named(outputs), anchors, self.per_level)
        return torch.stack(list(losses.values())).sum()

    @torch.no_grad()
    def detections(self, outputs: Outputs) -> list[dict[str, Tensor]]:
        """What is found in each image: boxes (n, 4) in pixels of the input, scores (n,) and labels (n,).

        The most probable first, `MOST_BOXES` at most, none below `LEAST_PROB` and none smaller than a pixel; of boxes
        that show the same, one.
        """
        shapes = [self.spec.preprocessing.size] * len(outputs[0])
        by_level = {name: list(torch.split(one, self.per_level, dim=1)) for name, one in _named(outputs).items()}
        anchors = [list(torch.split(self.anchors, self.per_level))] * len(shapes)
        found: list[dict[str, Tensor]] = self.net.postprocess_detections(by_level, anchors, shapes)
        return [{name: values[_is_wide(one["boxes"])] for name, values in one.items()} for one in found]


def _is_wide(boxes: Tensor) -> Tensor:
    """Which of (n, 4) boxes hold a pixel of the input at least: a network can give a box of no width."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1)


def _named(outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    names = ("cls_logits", "bbox_regression", "bbox_ctrness")
    return {name: one.as_subclass(Tensor).float() for name, one in zip(names, outputs, strict=True)}


def build_detector(spec: DetectorSpec, *, weights: Any = "default", frozen: bool = False) -> Detector:
    """A detector on a backbone whose stages can be called one after the other.

    Args:
        spec: what it is.
        weights: of the backbone; see `build_body`.
        frozen: keep the backbone as it is.

    Raises:
        MedclfError: the architecture is unknown, or gives no feature maps stage by stage (vision transformers, timm's).
        WeightsError: the weights cannot be had.

    Example:
        >>> half = Normalization([0.5] * 3, [0.5] * 3)
        >>> detector = build_detector(DetectorSpec("resnet18", ("polyp",), Preprocessing(64), half), weights=None)
        >>> [tuple(one.shape) for one in detector(torch.zeros(2, 3, 64, 64))]
        [(2, 84, 1), (2, 84, 4), (2, 84, 1)]
    """
    body = build_body(spec.arch, weights=weights, n_in=spec.preprocessing.channels)
    check_chain(body, spec.arch)
    return Detector(body, spec, frozen=frozen)


def check_chain(body: nn.Module, arch: str) -> None:
    """See that a body gives feature maps stage by stage, channels first, each smaller than the one before.

    Raises:
        MedclfError: it does not.
    """
    network = nn.Sequential(body, nn.Identity())
    if not is_chain(network) or not _narrowing(stages(network)[:-1], body):
        raise MedclfError(
            f"{arch} gives no feature maps stage by stage, which a detector needs",
            f"use {argument('arch', 'efficientnet_lite0')} or a ResNet, ConvNeXt or EfficientNet of torchvision",
        )


@torch.no_grad()
def _narrowing(parts: Sequence[nn.Module], body: nn.Module) -> bool:
    n_in = next((module.in_channels for module in body.modules() if isinstance(module, nn.Conv2d)), 3)
    was_training = body.training
    body.eval()
    x, heights = torch.zeros(1, n_in, 64, 64), []
    for part in parts:
        x = part(x)
        heights.append(tuple(x.shape[2:]) if x.ndim == 4 else (0, 0))
    body.train(was_training)
    last = heights[-3:]
    return len(last) == 3 and all(a[0] == a[1] and a[0] > b[0] > 0 for a, b in itertools.pairwise(last))
