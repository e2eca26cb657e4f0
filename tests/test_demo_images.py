import hashlib

import numpy as np
import pytest
from PIL import Image

from medclf.dataset.boxes import read_boxes
from medclf.dataset.scan import scan
from medclf.demo_images import CLASSES, draw_endoscopy, draw_frame
from medclf.errors import OutputError

SIZE = (160, 144)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_endoscopy(tmp_path_factory.mktemp("drawn"), n_per_class=12, size=SIZE)


def hashes(folder) -> dict[str, str]:
    files = sorted(folder.glob("*/*.jpg"))
    return {f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_class_folders_of_jpegs(drawn):
    table = scan(drawn)
    assert table["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 12)
    assert set(table["problem"]) == {""} and table["sha256"].is_unique
    assert set(zip(table["width"], table["height"], strict=True)) == {SIZE}


def test_it_says_that_it_is_drawn(drawn):
    text = (drawn / "README.txt").read_text()
    assert "drawn by a program" in text and "No patient" in text


def test_a_seed_draws_the_same_and_another_does_not(drawn, tmp_path):
    again = hashes(draw_endoscopy(tmp_path / "again", n_per_class=2, size=SIZE))
    assert len(again) == 8 and again.items() <= hashes(drawn).items()
    other = hashes(draw_endoscopy(tmp_path / "other", n_per_class=2, size=SIZE, seed=1))
    assert not set(other.values()) & set(hashes(drawn).values())


def test_the_boxes_lie_on_the_growths(drawn):
    """A dyed growth is bluer than what is around its box."""
    boxes = read_boxes(drawn / "boxes.csv", scan(drawn, progress=False))
    counts = boxes.table["path"].str.split("/").str[0].value_counts().to_dict()
    assert counts == {"dyed": 12, "polyp": 12} and len(boxes.listed) == 48 and not boxes.left_out
    apart = []
    for row in boxes.table[boxes.table["path"].str.startswith("dyed")].itertuples():
        pixels = np.asarray(Image.open(drawn / row.path), dtype=float)
        blue = pixels[..., 2] - pixels[..., 0]
        inside = np.zeros(blue.shape, bool)
        inside[int(row.y_min) : int(row.y_max), int(row.x_min) : int(row.x_max)] = True
        apart.append(blue[inside].mean() - blue[~inside].mean())
    assert np.mean(apart) > 15 and sum(one > 0 for one in apart) >= 10


def test_drawing_leaves_the_global_random_state_alone():
    before = np.random.get_state()[1].tolist()
    draw_frame("polyp", np.random.default_rng(0), (64, 56))
    assert np.random.get_state()[1].tolist() == before


def colours(file) -> np.ndarray:
    pixels = np.asarray(Image.open(file), dtype=float)
    seen = pixels[pixels.sum(axis=2) > 60]
    return np.concatenate([seen.mean(axis=0), seen.std(axis=0)])


def test_learnable_but_not_by_colour_alone(drawn):
    """Mean colours tell the stained from the rest, and not everything: the task needs a look at shapes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    files = sorted(drawn.glob("*/*.jpg"))
    features, labels = np.stack([colours(file) for file in files]), [file.parent.name for file in files]
    scores = cross_val_score(make_pipeline(StandardScaler(), LogisticRegression()), features, labels, cv=4)
    assert 0.35 < scores.mean() < 0.85


def test_the_green_box_has_nothing_to_do_with_the_class(tmp_path):
    def has_box(label: str, number: int) -> bool:
        frame = draw_frame(label, np.random.default_rng([number, CLASSES.index(label)]), (48, 44))
        red, green, blue = np.asarray(frame.convert("RGB"), dtype=int)[-8:, :14].mean(axis=(0, 1))
        return green > 1.5 * red and green > 1.2 * blue

    shares = {label: np.mean([has_box(label, number) for number in range(50)]) for label in CLASSES}
    deviation = (0.35 * 0.65 / 50) ** 0.5
    assert all(abs(share - 0.35) < 4 * deviation for share in shares.values()), shares


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        draw_endoscopy(tmp_path / "file", n_per_class=1)
