"""shortcut_test against models whose behaviour is known: one reads the box alone, one the anatomy alone."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from medclf.auditing.shortcut_test import _elsewhere, _sentences, shortcut_test
from medclf.errors import DataError
from medclf.images.overlays import Overlay, covered, find_overlays, inpainted, pasted
from medclf.images.preprocessing import Preprocessing
from medclf.models.spec import ModelSpec, Normalization
from medclf.results.shortcut_words import NO_CONTROL, depends

SIZE = 96
BOX = (4, 62, 34, 92)  # left, top, right, bottom
GREEN = (18, 112, 62)


def tissue(random, redness):
    """Smooth, never twice the same, its mean red set."""
    noise = ndimage.gaussian_filter(random.normal(size=(SIZE, SIZE, 3)), (5, 5, 0))
    image = 120 + 30 * noise / noise.std()
    image[..., 0] += redness - image[..., 0].mean()
    return image.clip(30, 225).astype(np.uint8)


def with_box(image, random):
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    pen.rectangle([BOX[0], BOX[1], BOX[2] - 1, BOX[3] - 1], fill=GREEN)
    points = [
        tuple(int(v) for v in random.integers((BOX[0] + 4, BOX[1] + 4), (BOX[2] - 4, BOX[3] - 4))) for _ in range(4)
    ]
    pen.line(points, fill=(196, 214, 120), width=2)  # what the box shows changes
    return np.asarray(picture)


@pytest.fixture(scope="module")
def confounded(tmp_path_factory):
    """40 pale and 40 red images; the red ones carry a green box nine times in ten, the pale ones never."""
    folder = tmp_path_factory.mktemp("confounded")
    random = np.random.default_rng(0)
    rows = []
    for number in range(80):
        label = "red" if number % 2 else "pale"
        image = tissue(random, 185 if label == "red" else 120)
        boxed = label == "red" and number % 20 != 1
        Image.fromarray(with_box(image, random) if boxed else image).save(folder / f"{number:02d}.png")
        rows.append({"path": f"{number:02d}.png", "label": label, "boxed": boxed, "problem": ""})
    table = pd.DataFrame(rows)
    table.attrs["root"] = str(folder)
    return table


class FakeBundle:
    """A bundle that computes its answer from the pixels by a rule."""

    spec = ModelSpec("", ("pale", "red"), Preprocessing(SIZE), Normalization((0.5,) * 3, (0.5,) * 3))

    def __init__(self, rule):
        self.rule = rule

    def predict_pixels(self, prepared):
        scores = np.array([self.rule(image.astype(float)) for image in prepared])
        return [SimpleNamespace(probs={"pale": 1 - score, "red": score}) for score in scores]


def reads_the_box(image):
    inside = image[BOX[1] : BOX[3], BOX[0] : BOX[2]]
    return 0.95 if (inside[..., 1] - inside[..., 0]).mean() > 40 else 0.1


def reads_the_tissue(image):
    return 0.95 if image[:55, 40:, 0].mean() > 152 else 0.1


def effect(test, edit, label):
    rows = test.effects
    (row,) = rows[(rows["overlay"] == 1) & (rows["edit"] == edit) & (rows["label"] == label)].to_dict("records")
    return row


@pytest.fixture(scope="module")
def leaning(confounded):
    return shortcut_test(FakeBundle(reads_the_box), confounded, thin=False)


def test_the_box_is_found_where_it_is_and_on_whom(confounded, leaning):
    assert len(leaning.overlays) == 1
    row = leaning.overlays.iloc[0]
    assert (row["kind"], row["place"]) == ("box", "bottom left")
    assert row["carriers"] == confounded["boxed"].sum() == 36
    assert (row["share_pale"], row["share_red"]) == (0, 0.9)
    truth = np.zeros((SIZE, SIZE), bool)
    truth[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    assert (leaning.masks[0] & truth).sum() / (leaning.masks[0] | truth).sum() > 0.75
    assert leaning.masks[0][truth].all()


@pytest.mark.parametrize("edit", ["masked", "inpainted"])
def test_a_model_that_reads_the_box_changes_its_mind_without_it(leaning, edit):
    row = effect(leaning, edit, "red")
    assert row["n"] == 36
    assert row["moved"].value == 1.0
    assert row["moved"].low == pytest.approx(36 / (36 + 1.959964**2))  # Wilson's lower end of n in n
    assert row["change"].value == pytest.approx(-0.85)
    assert effect(leaning, edit, "pale")["n"] == 0


def test_another_place_is_no_matter_to_it(leaning):
    assert effect(leaning, "inpainted elsewhere", "red")["moved"].value == 0


def test_pasting_the_box_makes_pale_images_red(leaning):
    row = effect(leaning, "swapped", "pale")
    assert (row["donor"], row["donor_carries"]) == ("red", True)
    assert row["towards"].value == pytest.approx(0.85)
    assert effect(leaning, "swapped elsewhere", "pale")["towards"].value == 0
    back = effect(leaning, "swapped", "red")  # the four without a box were called pale already
    assert (back["donor"], back["donor_carries"]) == ("pale", False)
    assert back["towards"].value == pytest.approx(0.85 * 36 / 40)


def test_the_rim_of_the_field_of_view_is_not_what_is_in_it(tmp_path):
    random = np.random.default_rng(1)
    rows = []
    for number in range(40):
        label = "red" if number % 2 else "pale"
        image = tissue(random, 185 if label == "red" else 120)
        picture = Image.fromarray(image)
        ImageDraw.Draw(picture).ellipse((8, 8, 88, 88), outline=(0, 0, 0), width=2)
        picture.save(tmp_path / f"{number}.png")
        rows.append({"path": f"{number}.png", "label": label, "problem": ""})
    table = pd.DataFrame(rows)
    table.attrs["root"] = str(tmp_path)
    test = shortcut_test(FakeBundle(reads_the_tissue), table, thin=False)
    assert len(test.overlays) and not test.masks[:, 30:66, 30:66].any()
    assert not any(map(depends, test.sentences)), test.sentences


def test_a_control_is_looked_for_all_over_the_picture(confounded):
    whole = (0.0, 0.0, 1.0, 0.8)
    alone = shortcut_test(FakeBundle(reads_the_tissue), confounded, boxes=[whole], thin=False)
    assert alone.sentences[-1].endswith(f"is on 100 % of every label; {NO_CONTROL}.")
    corners = np.zeros((SIZE, SIZE), bool)
    corners[:12, :12] = True
    place = _elsewhere(corners, corners | corners[::-1] | corners[:, ::-1] | corners[::-1, ::-1])
    assert place.sum() == corners.sum() and not place[:12, :12].any() and not place[-12:, -12:].any()
    assert _elsewhere(np.ones((SIZE, SIZE), bool), np.ones((SIZE, SIZE), bool)) is None


def test_an_overlay_that_each_label_has_as_often_is_said_once(leaning):
    even = leaning.overlays.assign(share_red=1.0, share_pale=1.0)
    (sentence,) = _sentences(even, leaning.effects)
    assert sentence.startswith("Overlay 1 (box, bottom left) is on 100 % of every label.")


def test_it_is_said_in_words(leaning):
    (sentence,) = leaning.sentences
    assert sentence.startswith("Overlay 1 (box, bottom left) is on 90 % of 'red' and 0 % of 'pale'.")
    assert "Masked, it changes 100 % (90 to 100 %) of the predictions of 'red', against 0 % elsewhere" in sentence
    assert "taken from images of 'red' with it, 'pale' gains 0.85" in sentence
    assert sentence.endswith("; more such effects in the tables: 2.")  # inpainted; and 'red' with the place of 'pale'


def test_a_model_that_reads_the_tissue_is_cleared(confounded):
    told = []
    test = shortcut_test(FakeBundle(reads_the_tissue), confounded, thin=False, say=told.append)
    assert told[0] == "80 images are searched for boxes, text and borders"
    assert told[1].startswith(f"testing overlay 1 of {len(test.overlays)}: ")
    assert len(test.overlays) == 1
    assert test.sentences[0].endswith("no evidence that predictions depend on it.")
    assert effect(test, "masked", "red")["moved"].value == 0


def test_facts_are_json(leaning):
    facts = json.loads(json.dumps(leaning.facts(), allow_nan=False))
    assert facts["effects"][0]["moved"].keys() >= {"value", "low", "high", "n"}
    assert facts["overlays"][0]["place"] == "bottom left"


def test_a_learner_is_read_by_its_spec(confounded):
    """A convolution that sees only the green of the box, with the weights written by hand."""
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [-300.0, 300.0, 0.0]]))
        network[2].bias.copy_(torch.tensor([0.0, 3.0]))
    network.train()
    learn = SimpleNamespace(model=network, spec=FakeBundle.spec)
    test = shortcut_test(learn, confounded, n_per_label=40, thin=False)
    assert network.training
    paths = [str(confounded.attrs["root"]) + "/" + path for path in confounded["path"]]
    images = np.stack([np.asarray(Image.open(path)) for path in paths]) / 255
    scores = 3 + 300 * (images.mean((1, 2))[:, 1] - images.mean((1, 2))[:, 0]) / 0.5
    red = (confounded["label"] == "red").to_numpy()
    boxed = confounded["boxed"].to_numpy()
    before = 1 / (1 + np.exp(-scores))
    masked = np.stack(
        [covered(image[None], test.masks[0], (images * 255).mean((0, 1, 2)))[0] for image in images[boxed] * 255]
    )
    after = 1 / (1 + np.exp(-(3 + 300 * (masked.mean((1, 2))[:, 1] - masked.mean((1, 2))[:, 0]) / 127.5)))
    assert red[boxed].all()
    assert effect(test, "masked", "red")["change"].value == pytest.approx((after - before[boxed]).mean(), abs=0.02)


def test_repeated_frames_do_not_stand_for_overlays(tmp_path):
    """Ten copies of one frame among others stand still altogether; one of them is looked at."""
    random = np.random.default_rng(4)
    rows = []
    for number in range(40):
        label = "red" if number % 2 else "pale"
        image = tissue(random, 170 if label == "red" else 120)
        picture = Image.fromarray(image)
        ImageDraw.Draw(picture).ellipse([20 + number % 7, 20, 60, 60 + number % 5], outline=(40, 10, 10), width=3)
        repeats = 10 if number == 1 else 1
        for copy in range(repeats):
            name = f"{number:02d}-{copy}.jpg"
            picture.save(tmp_path / name, quality=95 - copy)
            rows.append({"path": name, "label": label, "problem": "", "group": "one" if number == 1 else None})
    table = pd.DataFrame(rows)
    table.attrs["root"] = str(tmp_path)
    thinned = shortcut_test(FakeBundle(reads_the_tissue), table)
    assert thinned.n_images == 40
    searched = shortcut_test(FakeBundle(reads_the_tissue), table.drop(columns="group"))
    assert searched.n_images == 40
    assert shortcut_test(FakeBundle(reads_the_tissue), table, thin=False).n_images == 49


def test_places_of_the_caller_s_own(confounded):
    test = shortcut_test(
        FakeBundle(reads_the_box), confounded, boxes=[(0.5, 0.0, 1.0, 0.5)], n_per_label=12, thin=False
    )
    assert list(test.overlays["place"]) == ["bottom left", "top right"]
    with pytest.raises(DataError, match="covers nothing"):
        shortcut_test(FakeBundle(reads_the_box), confounded, boxes=[(0.5, 0.5, 0.5, 0.6)], say=pytest.fail)


def test_what_it_cannot_read(confounded):
    with pytest.raises(DataError, match="does not say how it reads images"):
        shortcut_test(object(), confounded)
    with pytest.raises(DataError, match="no image carries a label of the model"):
        shortcut_test(FakeBundle(reads_the_box), confounded.assign(label="blue"))


# --- finding and painting over


def test_nothing_is_found_in_tissue_alone():
    random = np.random.default_rng(1)
    images = np.stack([tissue(random, 150) for _ in range(60)])
    members = np.arange(60)[:, None] % 2 == np.arange(2)
    assert find_overlays(images, members) == []


def test_black_corners_and_letters_are_found():
    random = np.random.default_rng(2)
    y, x = np.mgrid[:SIZE, :SIZE]
    outside = np.abs(x - 47.5) + np.abs(y - 47.5) > 75
    images = []
    for number in range(60):
        image = tissue(random, 150)
        image[outside] = 0
        if number % 2:
            picture = Image.fromarray(image)
            ImageDraw.Draw(picture).text((30, 6), "LEFT AP", fill=(255, 255, 255))
            image = np.asarray(picture)
        images.append(image)
    members = np.arange(60)[:, None] % 2 == np.arange(2)
    found = find_overlays(np.stack(images), members)
    text = [overlay for overlay in found if overlay.kind == "text"]
    assert text[0] is found[0]  # what tells the labels apart comes first
    assert (text[0].carriers == (np.arange(60) % 2 == 1)).all()
    corners = [overlay for overlay in found if overlay.kind == "border"]
    assert len(corners) == 4
    assert all(overlay.carriers.all() for overlay in corners)


def test_edits_touch_the_mask_alone():
    random = np.random.default_rng(3)
    images = np.stack([tissue(random, 150) for _ in range(3)])
    mask = np.zeros((SIZE, SIZE), bool)
    mask[30:60, 20:50] = True
    for edited in (inpainted(images, mask), covered(images, mask, (1, 2, 3)), pasted(images, mask, images[::-1])):
        assert (edited[:, ~mask] == images[:, ~mask]).all()
        assert not (edited[:, mask] == images[:, mask]).all()
    assert (covered(images, mask, (1, 2, 3))[:, mask] == (1, 2, 3)).all()
    assert (pasted(images, mask, images[::-1])[0][mask] == images[2][mask]).all()


def test_inpainting_leaves_no_edge():
    ramp = np.repeat(np.linspace(40, 200, SIZE)[None, :, None], SIZE, 0).repeat(3, 2)
    image = ramp.copy()
    mask = np.zeros((SIZE, SIZE), bool)
    mask[35:60, 35:60] = True
    image[mask] = GREEN
    filled = inpainted(image.astype(np.uint8)[None], mask)[0].astype(float)
    assert np.abs(filled - ramp).max() < 30  # the ramp rises by 42 across the mask
    across = np.abs(np.diff(filled[:, :, 0], axis=1)).max()
    assert across < 25


def test_the_place_in_words():
    mask = np.zeros((90, 90), bool)
    mask[40:50, 40:50] = True
    assert Overlay("text", mask, np.ones(1, bool)).place == "middle"
    assert Overlay("text", mask, np.ones(1, bool)).box == (40, 40, 50, 50)


def test_examples_show_what_was_done(leaning):
    shown = [example for example in leaning.examples if (example.edit, example.label) == ("masked", "red")]
    assert len(shown) == 2
    mask = leaning.masks[0]
    for example in shown:
        assert example.preds == ("red", "pale") and example.watched == "red"
        assert example.probs == pytest.approx((0.95, 0.1))
        assert (example.before[~mask] == example.after[~mask]).all()
        assert len(np.unique(example.after[mask], axis=0)) == 1  # one even colour
    swapped = next(e for e in leaning.examples if (e.edit, e.label) == ("swapped", "pale"))
    assert swapped.watched == "red" and swapped.probs == pytest.approx((0.1, 0.95))
    assert swapped.preds == ("pale", "red")
    assert not [example for example in leaning.examples if "elsewhere" in example.edit]
