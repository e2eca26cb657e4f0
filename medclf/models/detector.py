"""A detector: torchvision's FCOS (its head, losses and suppression) on the stages of medclf's own backbones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.boxes import clip_boxes_to_image

from medclf.errors import MedclfError, argument
from medclf.models.backbones import build_body
from medclf.models.detector_spec import LEAST_PROB, MOST_BOXES, OVERLAP, DetectorSpec, Neck
from medclf.models.inputs import Inputs
from medclf.models.stages import is_chain, stages

Outputs = tuple[Tensor, Tensor, Tensor]
"""Logits (B, N, labels), distances to the four sides (B, N, 4) and centredness (B, N, 1) at N places of the image."""

CHANNELS = 128


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
            nms_thresh=OVERLAP,
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

    def candidates(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """What `detections` chooses from: a box (B, N, 4) and a probability of each label (B, labels, N) at each place.

        The probabilities are 0 for all but the highest of each feature map, as many as torchvision takes. No step
        depends on the values, so that it can be traced.
        """
        logits, sides, centred = (one.float() for one in outputs)
        probs = (logits.sigmoid() * centred.sigmoid()).sqrt()
        levels = []
        for level in torch.split(probs, self.per_level, dim=1):
            if level.shape[1] * level.shape[2] > self.net.topk_candidates:
                least = level.flatten(1).topk(self.net.topk_candidates).values[:, -1]
                level = torch.where(level >= least[:, None, None], level, 0.0)
            levels.append(level)
        boxes = clip_boxes_to_image(self.net.box_coder.decode(sides, self.anchors), self.spec.preprocessing.size)
        return boxes, torch.cat(levels, dim=1).transpose(1, 2)


class FromPixels(nn.Module):
    """uint8 pixels (B, H, W, C) -> logits, centredness, and the `candidates`, of a detector; shared, not copied."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.inputs = Inputs(detector.spec.preprocessing, detector.spec.normalization, detector.anchors.device)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        outputs = self.detector(self.inputs(pixels))
        return outputs[0], outputs[2], *self.detector.candidates(outputs)


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
        >>> from medclf.images.preprocessing import Preprocessing
        >>> from medclf.models.spec import Normalization
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
