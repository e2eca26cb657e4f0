"""Grad-CAM: values worked out by hand, every kind of backbone, and maps that follow the weights and the finding."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from medclf.errors import DataError, MedclfError
from medclf.images.heatmap import at_size, hottest_box
from medclf.models.backbones import build_network
from medclf.models.saliency import grad_cam, heat_maps


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Fixed(nn.Module):
    """A body that gives the same feature map for every image."""

    def __init__(self, maps):
        super().__init__()
        self.maps = nn.Parameter(torch.tensor(maps))

    def forward(self, x):
        return self.maps.expand(len(x), *self.maps.shape)


def linear_head(weights):
    linear = nn.Linear(len(weights[0]), len(weights), bias=False)
    linear.weight.data = torch.tensor(weights)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def test_against_values_worked_out_by_hand():
    body = Fixed([[[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 4.0]]])
    network = nn.Sequential(body, linear_head([[1.0, -1.0], [-2.0, 1.0]]))
    # The mean over 2 x 2 makes each gradient a quarter of the weight: (1/4, -1/4) and (-1/2, 1/4). So the sums are
    # [[1/4, 1/2], [0, -1]] and [[-1/2, -1], [0, 1]]; what lies below zero goes, and the hottest becomes 1.
    found = heat_maps(network, torch.zeros(2, 1, 8, 8), [0, 1])
    assert np.allclose(found, [[[0.5, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    logits = network(torch.zeros(1, 1, 8, 8))[0].tolist()
    assert logits == [-0.25, -0.5]
    assert np.allclose(heat_maps(network, torch.zeros(1, 1, 8, 8))[0], found[0])  # the most probable is the first


def test_occlusion_against_values_worked_out_by_hand():
    """Of a logit that is the pixels' sum, a covered patch takes its own; where patches overlap, their mean stands."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    network[1].weight.data = torch.tensor([[0.0] * 12, [1.0] * 12])
    x = torch.tensor([[1.0, 0.0, 0.0, 2.0], [0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])[None, None]
    # 2 x 2 patches from rows 0 and 1, columns 0, 1, 2 hold 4, 3, 2 and 3, 3, 0.
    falls = [[4.0, 3.5, 2.5, 2.0], [3.5, 3.25, 2.0, 1.0], [3.0, 3.0, 1.5, 0.0]]
    found = heat_maps(network, x, [1], "occlusion", patch=2, stride=1)
    assert np.allclose(found, np.array(falls) / 4)


def test_a_label_that_nothing_speaks_for_has_an_empty_map():
    network = nn.Sequential(Fixed([[[1.0, 2.0], [0.0, 3.0]]]), linear_head([[-1.0], [1.0]]))
    assert not heat_maps(network, torch.zeros(1, 1, 8, 8), [0]).any()


def test_behind_a_mean_and_a_linear_layer_it_is_the_weighted_feature_map():
    torch.manual_seed(0)
    network = build_network("efficientnet_lite0", 3, weights=None).eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        maps = torch.einsum("k,bkhw->bhw", network[1][-1].weight[2], network[0](x)).clamp(min=0).numpy()
    scaled = maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-9)
    assert scaled.any() and np.allclose(heat_maps(network, x, [2, 2]), scaled, atol=1e-4)


@pytest.mark.parametrize(
    ("arch", "size", "grid"),
    [
        ("resnet18", 64, (2, 2)),
        ("resnet50", 64, (2, 2)),
        ("inception_v3", 107, (2, 2)),
        ("efficientnet_lite0", 64, (2, 2)),
        ("timm/mobilenetv3_small_050", 64, (2, 2)),
        ("timm/convnext_atto", 64, (2, 2)),
        ("timm/vit_tiny_patch16_224", 64, (4, 4)),
        ("timm/vit_tiny_r_s16_p8_224", 224, (7, 7)),
        ("timm/mixer_s32_224", 224, (7, 7)),
    ],
)
def test_every_kind_of_backbone_has_a_map_and_is_left_as_it_was(arch, size, grid):
    torch.manual_seed(0)
    network = build_network(arch, 3, weights=None)
    before = state_of(network)
    found = heat_maps(network, torch.randn(2, 3, size, size), [0, 2])
    assert found.shape == (2, *grid) and found.min() >= 0 and found.max() <= 1 and found.any()
    assert state_of(network) == before


def test_a_network_that_keeps_what_it_computed_while_it_predicted_has_a_map_too():
    network = build_network("timm/convit_tiny?img_size=64", 2, weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        network(x)  # keeps the distances of its patches
    assert heat_maps(network, x, [1]).shape == (1, 4, 4)


def test_a_map_is_the_same_where_no_gradients_are_kept():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    x = torch.rand(2, 3, 8, 8)
    for around in (torch.no_grad(), torch.inference_mode()):
        with around:
            found = heat_maps(network, x + 0, [0, 1])
        np.testing.assert_array_equal(found, heat_maps(network, x, [0, 1]))


def test_a_map_leaves_out_what_completed_the_patches():
    torch.manual_seed(0)
    network = build_network("timm/vit_small_patch14_dinov2?depth=2&embed_dim=192&num_heads=3", 2, weights=None)
    x = torch.randn(1, 3, 32, 40)
    padded = nn.functional.pad(x, (0, 2, 0, 10))  # to 42 x 42, which 3 x 3 patches of 14 pixels cover
    whole, found = heat_maps(network, padded, [1])[0], heat_maps(network, x, [1])[0]
    part = at_size(whole, (42, 42))[:32, :40]
    assert whole.shape == (3, 3) and found.shape == (32, 40)
    assert np.allclose(found, part / part.max(), atol=0.02)  # Pillow's own bilinear, in single precision


def state_of(network):
    """All that an explanation might leave changed."""
    tensors = {name: (value.double().sum().item(), value.device) for name, value in network.state_dict().items()}
    modules = {
        name: (module.training, len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
        for name, module in network.named_modules()
    }
    grads = {
        name: (p.requires_grad, None if p.grad is None else p.grad.sum().item())
        for name, p in network.named_parameters()
    }
    return tensors, modules, grads


@pytest.mark.parametrize("arch", ["resnet18", "timm/vit_tiny_patch16_224"])
@pytest.mark.parametrize("method", ["grad-cam", "occlusion"])
def test_a_failure_leaves_the_network_as_it_was(arch, method):
    network = build_network(arch, 2, weights=None)
    network[1][-1].requires_grad_(False)
    network[1].eval()
    first = next(network.parameters())
    first.grad = torch.ones_like(first)
    before = state_of(network)
    with pytest.raises((IndexError, AssertionError, RuntimeError)):
        heat_maps(network, torch.randn(1, 3, 64, 64), [7], method)
    assert state_of(network) == before


def test_hooks_of_others_are_called_and_stay():
    network = build_network("resnet18", 2, weights=None)
    seen = []
    network[0].register_forward_hook(lambda *_: seen.append(1))
    heat_maps(network, torch.randn(1, 3, 64, 64), [0])
    assert seen and len(network[0]._forward_hooks) == 1


@pytest.mark.parametrize(
    ("network", "size", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), 8, "no feature map"),
        (nn.Sequential(nn.Conv2d(1, 2, 8), linear_head([[1.0, 0.0]])), 8, "has 1 x 1 places: too coarse to show where"),
        (nn.Conv2d(1, 2, 8), 8, "body followed by a head"),
    ],
)
def test_networks_without_a_map_say_so(network, size, reason):
    with pytest.raises(MedclfError, match=reason):
        heat_maps(network, torch.zeros(1, 1, size, size))


@pytest.mark.parametrize("options", [{"patch": 0}, {"patch": 99}, {"patch": 4, "stride": 5}, {"method": "lime"}])
def test_settings_that_cannot_be_are_refused(options):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), linear_head([[1.0, 0.0], [0.0, 1.0]]))
    with pytest.raises(DataError):
        heat_maps(network, torch.zeros(1, 1, 16, 16), **({"method": "occlusion"} | options))


# --- a planted finding: where it is, is known ---

SIDE, SPOT = 48, 10


def planted(count, seed):
    """Noise, in every second image a bright spot; its top left corner, or None."""
    random = np.random.default_rng(seed)
    images = random.normal(0, 0.5, (count, 1, SIDE, SIDE)).astype(np.float32)
    corners = [tuple(random.integers(0, SIDE - SPOT, 2)) if i % 2 else None for i in range(count)]
    for image, corner in zip(images, corners, strict=True):
        if corner:
            image[0, corner[0] : corner[0] + SPOT, corner[1] : corner[1] + SPOT] += 1.5
    return torch.from_numpy(images), corners


def small_network():
    body = nn.Sequential(
        *(nn.Conv2d(1, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1)),
        nn.ReLU(),
    )
    return nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)))


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(1)
    network, (images, corners) = small_network(), planted(128, 0)
    y = torch.tensor([int(corner is not None) for corner in corners])
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(60):
        loss = nn.functional.cross_entropy(network(images), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    assert (network(planted(64, 1)[0]).argmax(1).numpy() == np.arange(64) % 2).mean() > 0.95
    return network


@pytest.fixture(scope="module")
def fresh():
    images, corners = planted(64, 2)
    return images[1::2], corners[1::2]


def share_found(maps, corners):
    """How often the centre of the hottest box lies on the spot."""
    hits = 0
    for heat, (top, left) in zip(maps, corners, strict=True):
        scale = SIDE / heat.shape[0]
        box = hottest_box(heat, 0.5)
        if box is not None:
            row, column = (box.top + box.bottom) / 2 * scale, (box.left + box.right) / 2 * scale
            hits += top <= row <= top + SPOT and left <= column <= left + SPOT
    return hits / len(corners)


def test_the_hottest_box_lies_on_a_planted_finding_by_both_methods(trained, fresh):
    images, corners = fresh
    assert share_found(heat_maps(trained, images, [1] * len(images)), corners) > 0.9
    covered = heat_maps(trained, images, [1] * len(images), "occlusion", patch=8, stride=4)
    assert covered.shape == (len(images), SIDE, SIDE)
    assert share_found(covered, corners) > 0.9


def test_the_map_follows_the_weights(trained, fresh):
    """The sanity check of Adebayo et al. 2018: layer by layer from the top, random weights take the map away."""
    images, corners = fresh
    before = heat_maps(trained, images, [1] * len(images))
    twin = small_network()
    twin.load_state_dict(trained.state_dict())
    assert np.array_equal(heat_maps(twin, images, [1] * len(images)), before)
    torch.manual_seed(5)
    layers = [module for module in twin.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][::-1]
    agreement = []
    for layer in layers:
        nn.init.normal_(layer.weight, 0, layer.weight[0].numel() ** -0.5)
        after = heat_maps(twin, images, [1] * len(images))
        agreement.append(np.mean([rank_agreement(a, b) for a, b in zip(before, after, strict=True)]))
    # Random weights in the last layer alone mix the same features, which all saw the spot.
    assert max(np.abs(agreement[1:])) < 0.6
    assert abs(agreement[-1]) < 0.3
    assert share_found(after, corners) < 0.5


def rank_agreement(one, other):
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return spearmanr(one.ravel(), other.ravel()).statistic


def test_what_is_no_learner_is_named():
    with pytest.raises(MedclfError, match="a learner is wanted here, not a Sequential"):
        grad_cam(small_network(), "image.png")
