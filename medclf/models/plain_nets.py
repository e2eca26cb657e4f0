"""ResNet and EfficientNet-Lite in torch alone, with torchvision's and timm's parameter names.

Importing torchvision or timm costs more than importing torch itself, so the two families that medclf trains by
default need neither, and a bundle of theirs answers sooner. One image from a cold start, in seconds of the processors
(`python benchmarks/ablation.py --only predict`): EfficientNet-Lite0 3.9, with timm imported 9.5; ResNet-34 4.7, with
torchvision 9.7. Tests hold them equal to the originals.
ResNet: He et al., 2015, arXiv:1512.03385. EfficientNet-Lite: Tan and Le, 2019, arXiv:1905.11946, without
squeeze-and-excitation and with ReLU6.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

RESNETS: dict[str, tuple[bool, tuple[int, int, int, int]]] = {  # name -> bottleneck?, blocks of each layer
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
LITE_NETS: dict[str, tuple[float, float, int]] = {  # name -> width factor, depth factor, image size
    "efficientnet_lite0": (1.0, 1.0, 224),
    "efficientnet_lite1": (1.0, 1.1, 240),
    "efficientnet_lite2": (1.1, 1.2, 260),
}
LITE_FEATURES = 1280
_LITE_STAGES = (  # expansion, width, blocks, stride, kernel; of lite0
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def _conv(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or a 1x1, 3x3, 1x1 bottleneck, added to what came in."""

    def __init__(self, n_in: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        n_out = width * 4 if bottleneck else width
        self.bottleneck = bottleneck
        self.conv1 = _conv(n_in, width, 1) if bottleneck else _conv(n_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride if bottleneck else 1)
        self.bn2 = nn.BatchNorm2d(width)
        if bottleneck:
            self.conv3 = _conv(width, n_out, 1)
            self.bn3 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(_conv(n_in, n_out, 1, stride), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Features in, features out."""
        kept = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            x = self.bn3(self.conv3(self.relu(x)))
        result: Tensor = self.relu(x + kept)
        return result


def resnet_body(name: str) -> nn.Sequential:
    """The convolutional part of a ResNet: conv1, bn1, relu, maxpool, layer1 .. layer4.

    Example:
        >>> list(dict(resnet_body("resnet18").named_children()))[-2:]
        ['layer3', 'layer4']
    """
    bottleneck, depths = RESNETS[name]
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, 2, 1),
    )
    n_in = 64
    for number, depth in enumerate(depths, start=1):
        width, blocks = 32 * 2**number, []
        for block in range(depth):
            stride = 2 if block == 0 and number > 1 else 1
            blocks.append(ResidualBlock(n_in, width, stride, bottleneck=bottleneck))
            n_in = width * 4 if bottleneck else width
        parts[f"layer{number}"] = nn.Sequential(*blocks)
    return _initialised(nn.Sequential(parts))


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow does: what is odd goes to the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        """Features in, features out: ceil(size / stride) high and wide."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return functional.conv2d(x, self.weight, self.bias, 1, kernel // 2, groups=self.groups)
        height, width = (max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        x = functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return functional.conv2d(x, self.weight, self.bias, stride, groups=self.groups)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class MobileBlock(nn.Module):
    """Inverted residual: widen by a 1x1 convolution, filter each channel by itself, narrow again."""

    def __init__(self, n_in: int, n_out: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = n_in * expansion
        depthwise = SameConv2d(width, width, kernel, stride, groups=width, bias=False)
        if expansion == 1:  # the names are timm's, and so is their order
            parts = [("conv_dw", depthwise), ("bn1", _norm(width)), ("act1", nn.ReLU6(inplace=True))]
            parts += [("conv_pw", _conv(width, n_out, 1)), ("bn2", _norm(n_out))]
        else:
            parts = [
                ("conv_pw", _conv(n_in, width, 1)),
                ("bn1", _norm(width)),
                ("act1", nn.ReLU6(inplace=True)),
            ]
            parts += [("conv_dw", depthwise), ("bn2", _norm(width)), ("act2", nn.ReLU6(inplace=True))]
            parts += [("conv_pwl", _conv(width, n_out, 1)), ("bn3", _norm(n_out))]
        for name, part in parts:
            self.add_module(name, part)
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """Features in, features out."""
        out = x
        for part in self.children():
            out = part(out)
        return out + x if self.adds else out


def _rounded(width: float) -> int:
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


def lite_body(name: str) -> nn.Sequential:
    """The convolutional part of an EfficientNet-Lite: conv_stem .. blocks .. conv_head, 1280 features.

    Example:
        >>> len(lite_body("efficientnet_lite0").state_dict())  # the classifier has two more
        294
    """
    width_factor, depth_factor, _ = LITE_NETS[name]
    n_in, stages = 32, []  # lite nets scale neither the stem, nor the first and last stages' depth
    for number, (expansion, width, depth, first_stride, kernel) in enumerate(_LITE_STAGES):
        n_out, blocks = _rounded(width * width_factor), []
        ends = number in (0, len(_LITE_STAGES) - 1)
        for block in range(depth if ends else math.ceil(depth * depth_factor)):
            stride = first_stride if block == 0 else 1
            blocks.append(MobileBlock(n_in, n_out, expansion=expansion, kernel=kernel, stride=stride))
            n_in = n_out
        stages.append(nn.Sequential(*blocks))
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv_stem=SameConv2d(3, 32, 3, 2, bias=False),
        bn1=_norm(32),
        act1=nn.ReLU6(inplace=True),
        blocks=nn.Sequential(*stages),
        conv_head=_conv(n_in, LITE_FEATURES, 1),
        bn2=_norm(LITE_FEATURES),
        act2=nn.ReLU6(inplace=True),
    )
    return _initialised(nn.Sequential(parts))


def _initialised(body: nn.Sequential) -> nn.Sequential:
    """He's normal initialisation by fan-out, of which a depthwise convolution has one channel's."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # on meta it imports torch._dynamo
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2 / fan_out))
    return body
