"""What a fastai user knows works: the calls of fastai_calls.txt, run with fastai's objects and with medclf's."""

import contextlib
import io
import warnings
from functools import wraps
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from fastai.vision.models import xresnet
from PIL import Image

import medclf.all as everything
from medclf.errors import DataError, MedclfError

matplotlib.use("Agg")
LIST = Path(__file__).with_name("fastai_calls.txt")
OURS = {
    "vision_learner": "med_learner",
    "ImageDataLoaders": "MedDataLoaders",
    "ImageBlock": "MedImageBlock",
    "Interpretation": "MedInterpretation",
    "ClassificationInterpretation": "MedInterpretation",
}


def groups():
    """[(title, [(line, reason of a refusal or ""), ...]), ...]"""
    found = []
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            found.append((line[3:], []))
        elif line and not line.startswith("#"):
            call, _, reason = line.partition("  #! ")
            found[-1][1].append((call, reason))
    return found


GROUPS = groups()


@pytest.fixture(autouse=True)
def images_are_read_here(monkeypatch):
    """Starting processes for each loader took most of the time."""
    monkeypatch.setattr(everything.defaults, "cpus", 0)


@pytest.fixture(autouse=True)
def networks_are_shallow(shallow_networks, monkeypatch):
    """One block a layer, in torchvision's and fastai's too."""
    shallow = (1, 1, 1, 1)
    resnet = torchvision.models.resnet
    make, make_x = resnet._resnet, xresnet._xresnet
    monkeypatch.setattr(resnet, "_resnet", lambda block, _, *args, **kw: make(block, shallow, *args, **kw))
    monkeypatch.setattr(xresnet, "_xresnet", lambda pretrained, by, _, **kw: make_x(pretrained, by, shallow, **kw))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Photos named by their label, a folder a label in train and valid, and tables of both kinds."""
    root, rng = tmp_path_factory.mktemp("calls"), np.random.default_rng(0)
    for name in ("pets", "out", "models"):
        (root / name).mkdir()

    def draw(file, number):
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 200, (48 + number % 3, 52, 3), dtype=np.uint8)
        pixels[..., 0 if "cat" in str(file) else 2] += 50
        Image.fromarray(pixels).save(file)

    names = [f"{label}_{i}.jpg" for label in ("cat", "dog") for i in range(1, 7)]
    for number, name in enumerate(names):
        draw(root / "pets" / name, number)
        label = name[:3]
        draw(root / "tree" / ("train" if number % 3 else "valid") / label / name, number)
        draw(root / "odd" / ("learning" if number % 3 else "checking") / label / name, number)
    table = pd.DataFrame({"name": names, "label": [name[:3] for name in names]})
    table["is_valid"] = table.index % 3 == 0
    table.to_csv(root / "pets" / "labels.csv", index=False)
    table[["name", "label"]].to_csv(root / "pets" / "plain.tsv", index=False, header=False, sep="\t")
    several = pd.DataFrame(
        {"name": names, "labels": ["cat", "dog cat", "dog", "cat"] * 3, "is_valid": table["is_valid"]}
    )
    return root, table, several


def tiny_net(pretrained=False, **_):
    def layer(n_in, n_out):
        return torch.nn.Sequential(torch.nn.Conv2d(n_in, n_out, 3, 2, 1), torch.nn.BatchNorm2d(n_out), torch.nn.ReLU())

    end = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10)]
    return torch.nn.Sequential(layer(3, 8), layer(8, 16), *end)


def namespace(places, ours):
    root, table, several = places
    known = dict(vars(everything))
    fastai = __import__("fastai.vision.all", fromlist=["*"])
    known |= {name: getattr(fastai, name) for name in OURS} | {"cnn_learner": fastai.cnn_learner}
    known |= {"hook_output_": known["hook_output"], "fastai_vision_learner": known["vision_learner"]}
    if ours:
        known |= {theirs: known[own] for theirs, own in OURS.items()}
    learner = known["vision_learner"]

    @wraps(learner)
    def vision_learner(*args, **kwargs):
        if len(args) < 5:
            kwargs.setdefault("pretrained", False)
        return learner(*args, **kwargs)

    known["vision_learner"] = vision_learner
    loaders = known["ImageDataLoaders"].from_name_func(
        root / "pets",
        known["get_image_files"](root / "pets").sorted(),
        lambda name: name[:3],
        valid_pct=0.4,
        seed=1,
        item_tfms=known["Resize"](32),
        bs=4,
    )
    files = known["get_image_files"](root / "pets").sorted()
    known |= {"pets": root / "pets", "tree": root / "tree", "odd": root / "odd", "out": str(root / "out")}
    known |= {"files": files, "table": table.copy(), "several": several.copy(), "cpu": torch.device("cpu")}
    known |= {
        "dls": loaders,
        "learn": vision_learner(loaders, tiny_net, metrics=known["accuracy"]),
        "tiny_net": tiny_net,
    }
    return known


def run(title, lines, known, tmp_path, monkeypatch, ours):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    wrong = []
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for call, reason in lines:
            if reason and not ours:
                continue
            try:
                exec(compile(call + "\n", title, "single"), known)
                said = f"no refusal, though {reason}" if reason else ""
            except Exception as error:  # noqa: BLE001 - any is told
                refused = isinstance(error, MedclfError) and error.remedy
                said = "" if reason and refused else f"{type(error).__name__}: {error}"
            if said:
                wrong.append(f"{call}\n    {said}")
            matplotlib.pyplot.close("all")
    assert not wrong, f"{len(wrong)} of {len(lines)}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("title, lines", GROUPS, ids=[title for title, _ in GROUPS])
def test_a_call_of_fastais_users_works_with_medclf(title, lines, places, tmp_path, monkeypatch):
    run(title, lines, namespace(places, ours=True), tmp_path, monkeypatch, ours=True)


@pytest.mark.slow
@pytest.mark.parametrize("title, lines", GROUPS, ids=[title for title, _ in GROUPS])
def test_the_list_says_what_works_in_fastai(title, lines, places, tmp_path, monkeypatch):
    run(title, lines, namespace(places, ours=False), tmp_path, monkeypatch, ours=False)


def test_the_list_is_of_many_sources():
    assert sum(len(lines) for _, lines in GROUPS) >= 400
    assert len({title.partition(" | ")[0] for title, _ in GROUPS}) >= 10


def test_what_needs_labels_is_refused_of_images_without(small, folder):
    files = sorted(folder.rglob("*.png"))
    unlabelled = small.dls.test_dl(files)
    for call in (
        lambda: small.show_results(dl=unlabelled),
        lambda: small.validate(dl=unlabelled),
        lambda: small.get_preds(dl=unlabelled, with_loss=True),
        lambda: everything.ClassificationInterpretation.from_learner(small, dl=unlabelled),
    ):
        with pytest.raises(DataError, match="labels, and these images have none"):
            call()
    assert len(small.get_preds(dl=unlabelled)[0]) == len(files)
    assert len(small.validate(dl=small.dls.test_dl(files, with_labels=True))) == 2


def test_loaders_of_other_labels_and_sets_that_are_not_there_are_refused(small, folder):
    other = everything.MedDataLoaders.from_folder(folder, size=32, bs=8, cache=False, drop=["red"], device="cpu")
    renamed = everything.MedDataLoaders.from_folder(
        folder, size=32, bs=8, cache=False, merge={"white": ["blue"]}, device="cpu"
    )
    for loaders in (other, renamed):
        for call in (small.validate, small.get_preds, small.show_results):
            with pytest.raises(DataError, match="the network predicts"):
                call(dl=loaders.valid)
    for call in (small.validate, small.get_preds, small.show_results):
        with pytest.raises(DataError, match="ds_idx=2: the loaders have 2 sets"):
            call(ds_idx=2)


def test_a_network_of_half_precision_is_refused_before_it_predicts(small, folder):
    small.model.half()
    for call in (small.validate, small.get_preds, small.show_results, lambda: small.predict(folder / "red" / "1.png")):
        with pytest.raises(MedclfError, match="weights are float16"):
            call()
