import numpy as np
import pytest
import torch
from torchvision.models.detection.fcos import FCOS

from medclf.errors import BundleError, MedclfError
from medclf.images.preprocessing import Preprocessing
from medclf.models.detector import _is_wide, build_detector
from medclf.models.detector_spec import DetectorSpec
from medclf.models.spec import Normalization

HALF = Normalization([0.5] * 3, [0.5] * 3)


def spec(neck: str = "pyramid", arch: str = "resnet18", size=(64, 96), vocab=("polyp", "ulcer")) -> DetectorSpec:
    return DetectorSpec(arch, vocab, Preprocessing(size), HALF, neck)


@pytest.mark.slow
@pytest.mark.parametrize("neck", ["pyramid", "light"])
def test_loss_is_that_of_torchvision_and_falls(neck: str) -> None:
    """One image and its box, learned by heart: the box comes back."""
    torch.manual_seed(0)
    detector = build_detector(spec(neck), weights=None).train()
    images = torch.randn(2, 3, 64, 96)
    given = torch.full((2, 2, 5), -1.0)
    given[0, 0] = torch.tensor([20.0, 10, 70, 50, 1])
    optimiser = torch.optim.AdamW(detector.parameters(), 2e-3)
    losses = []
    for _ in range(30):
        loss = detector.loss(detector(images), given)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    first, second = detector.eval().detections(detector(images))
    assert int(first["labels"][0]) == 1
    np.testing.assert_allclose(first["boxes"][0].numpy(), [20, 10, 70, 50], atol=8 if neck == "pyramid" else 14)
    assert not len(second["scores"]) or second["scores"][0] < first["scores"][0]


def test_outputs_go_through_torchvisions_own_forward() -> None:
    """The same network called as torchvision calls it gives the same boxes, but for those without a pixel."""
    detector = build_detector(spec(), weights=None).eval()
    detector.net.score_thresh = 0.0
    image = torch.rand(3, 64, 96)
    mine = detector.detections(detector(image[None]))[0]

    class Plain(torch.nn.Module):
        def forward(self, images, targets=None):
            from torchvision.models.detection.image_list import ImageList

            return ImageList(torch.stack(images), [tuple(images[0].shape[1:])]), targets

    class Named(torch.nn.Module):
        out_channels = detector.net.backbone.out_channels

        def forward(self, images):
            return {str(place): one for place, one in enumerate(detector.net.backbone(images))}

    theirs = FCOS(
        Named(),
        2,
        anchor_generator=detector.net.anchor_generator,
        head=detector.net.head,
        score_thresh=0.0,
        nms_thresh=detector.net.nms_thresh,
        detections_per_img=detector.net.detections_per_img,
    ).eval()
    theirs.transform.forward = Plain().forward
    theirs.transform.postprocess = lambda result, *_: result
    with torch.no_grad():
        wanted = theirs([image])[0]
    wanted = {name: values[_is_wide(wanted["boxes"])] for name, values in wanted.items()}
    np.testing.assert_allclose(mine["boxes"].numpy(), wanted["boxes"].numpy(), atol=1e-4)
    np.testing.assert_allclose(mine["scores"].numpy(), wanted["scores"].numpy(), atol=1e-6)


def test_a_frozen_body_stays_as_it_was() -> None:
    detector = build_detector(spec(), weights=None, frozen=True).train()
    before = {name: tensor.clone() for name, tensor in detector.body.state_dict().items()}
    given = torch.tensor([[[20.0, 10, 70, 50, 1]]])
    detector.loss(detector(torch.randn(1, 3, 64, 96)), given).backward()
    optimiser = torch.optim.SGD([one for one in detector.parameters() if one.requires_grad], 0.1)
    optimiser.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.body.state_dict().items())


def test_images_without_a_finding_teach_too() -> None:
    detector = build_detector(spec(), weights=None)
    loss = detector.loss(detector(torch.randn(1, 3, 64, 96)), torch.full((1, 1, 5), -1.0))
    loss.backward()
    assert loss.item() > 0 and torch.isfinite(loss)


def test_boxes_without_a_pixel_are_none():
    wide = _is_wide(torch.tensor([[0.0, 0, 9, 9], [64, 45, 64, 53], [3, 3, 3.5, 9]]))
    assert wide.tolist() == [True, False, False]


def test_what_gives_no_maps_or_is_no_description_is_refused() -> None:
    for arch in ("vit_tiny_patch16_224", "swin_t"):  # the latter gives maps with channels last
        with pytest.raises(MedclfError, match="no feature maps stage by stage"):
            build_detector(spec(arch=arch, size=(224, 224)), weights=None)
    good = spec().as_dict()
    for change in (
        {"vocab": []},
        {"vocab": ["a", "a"]},
        {"neck": "wide"},
        {"arch": 3},
        {"preprocessing": {"size": -1}},
    ):
        with pytest.raises(BundleError):
            DetectorSpec.from_dict(good | change)
    with pytest.raises(BundleError, match="lacks or misstates"):
        DetectorSpec.from_dict({"arch": "resnet18"})
