"""Encoders ranked on drawn images: the better one first, ties called noise, patients kept together."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medclf.errors import DataError, MedclfError
from medclf.models.registry import ARCHITECTURES, register_arch
from medclf.run import encoders as module
from medclf.run.encoders import at_hand, encoders, table_of


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Bright and dark pictures, three of each patient."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    rows = ["path,label,patient"]
    for label, grey in (("bright", 170), ("dark", 90)):
        for number in range(24):
            name = f"{label}{number}.png"
            Image.fromarray(rng.normal(grey, 15, (40, 40, 3)).clip(0, 255).astype(np.uint8)).save(root / name)
            rows.append(f"{name},{label},{label}{number // 3}")
    (root / "labels.csv").write_text("\n".join(rows))
    return root / "labels.csv"


@pytest.fixture(scope="module", autouse=True)
def own_encoders():
    """One sees how bright an image is, its copy does too, one sees nothing."""

    class Constant(nn.Module):
        def __init__(self, seen):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.seen = seen

        def forward(self, x):
            return nn.functional.adaptive_avg_pool2d(x if self.seen else 0 * x, 4) * self.scale

    for name, seen in (("seeing", True), ("likewise", True), ("blind", False)):
        register_arch(name, lambda seen=seen: Constant(seen), size=32, weights=lambda: {"scale": torch.ones(1)})
    yield
    for name in ("seeing", "likewise", "blind"):
        del ARCHITECTURES[name]


def test_the_better_one_comes_first_and_ties_are_noise(images):
    said = []
    found = encoders(
        images, ["blind", "seeing", "likewise"], patient_col="patient", near=False, progress=False, say=said.append
    )
    best, second, last = found.rows
    assert {best.name, second.name} == {"seeing", "likewise"} and last.name == "blind"
    assert best.accuracy > 0.95 and second.noise and not last.noise
    assert last.behind == pytest.approx(best.accuracy - last.accuracy) and last.behind_low > 0
    assert found.n == 48 and found.unit == "patients" and found.n_folds == 5 and len(said) == 3
    assert best.n_features == 3 and best.seconds > 0 and best.parameters == 1e-6
    text = " ".join([*found.sentences, *table_of(found)])
    assert "No clear difference" in text and "Clearly behind it: blind" in text
    assert list(found.frame()["name"]) == [row.name for row in found.rows]


def test_images_of_a_patient_are_never_on_both_sides(images, monkeypatch):
    seen = []
    real = module.folds
    monkeypatch.setattr(
        module, "folds", lambda y, groups, *a, **k: seen.append((groups, real(y, groups, *a, **k))) or seen[-1][1]
    )
    encoders(images, ["seeing"], patient_col="patient", near=False, progress=False)
    groups, fold_of = seen[0]
    assert all(len(set(fold_of[groups == group])) == 1 for group in set(groups))


def test_names_carry_weights():
    assert module._parted("resnet18") == ("resnet18", "default")
    assert module._parted("resnet18=none") == ("resnet18", None)
    assert module._parted("timm/vit_tiny_patch16_224?img_size=64") == (
        "timm/vit_tiny_patch16_224?img_size=64",
        "default",
    )
    assert at_hand()[-1] == "efficientnet_lite0=none"


def test_what_cannot_be_ranked_is_said(images, tmp_path):
    with pytest.raises(MedclfError, match="resnet43"):
        encoders(images, ["resnet43"], near=False, progress=False)
    (tmp_path / "few.csv").write_text("path,label\n")
    with pytest.raises(DataError):
        encoders(tmp_path / "few.csv", ["seeing"], progress=False)


def test_one_encoder_needs_no_list_and_one_fold_judges_nothing(images):
    (row,) = encoders(images, "seeing=none", n_folds=2, progress=False).rows
    assert row.name == "seeing=none"
    with pytest.raises(DataError, match="n_folds must be 2 or more, not 1"):
        encoders(images, "seeing=none", n_folds=1)


@pytest.mark.parametrize(("name", "said"), [("seeing=gone.pth", r"gone\.pth"), ("sightless", "unknown architecture")])
def test_an_encoder_that_cannot_be_had_is_told_before_the_others_are_tried(images, name, said):
    told = []
    with pytest.raises(MedclfError, match=said) as error:
        encoders(images, ["blind", name], near=False, progress=False, say=told.append)
    assert not told and "weights" not in error.value.remedy.replace("file of weights", "")


@pytest.mark.parametrize(
    "given, said",
    [
        ({"names": 5}, "encoders are given by name, and one is of type int"),
        ({"names": [nn.Flatten()]}, "encoders are given by name, and one is of type Flatten"),
        ({"archs": ["seeing"]}, "encoders has no argument 'archs'"),
        ({"seed": "x"}, "seed must be a whole number, not 'x'"),
        ({"size": "32"}, "size must be a whole number, not '32'"),
        ({"size": 0}, "size must be 1 or more, not 0"),
    ],
)
def test_arguments_that_cannot_be_are_named(images, given, said):
    with pytest.raises(MedclfError, match=said):
        encoders(images, **given)
