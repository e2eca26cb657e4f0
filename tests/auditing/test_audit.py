"""The audit: planted twins are found and strangers are not, leaks are counted, clues beside the anatomy are told."""

import io
import json
import math
import warnings

import imagehash
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy import ndimage

from medclf.auditing.audit import audit, with_groups
from medclf.auditing.confounders import find_clues
from medclf.auditing.kinds import KINDS
from medclf.auditing.near_duplicates.align import Features, align
from medclf.auditing.near_duplicates.candidates import candidates, perceptual_hashes
from medclf.auditing.near_duplicates.compare import compare, fine_detail, mean_detail
from medclf.auditing.near_duplicates.fingerprint import fingerprint, take_fingerprints
from medclf.auditing.near_duplicates.keypoints import SIDE, find_keypoints, mirror_order
from medclf.auditing.near_duplicates.search import find_twins
from medclf.dataset.groups import cluster
from medclf.dataset.scan import scan
from medclf.dataset.splits import split_table
from medclf.demo_images import draw_endoscopy
from medclf.errors import DataError
from medclf.images.rim_marks import PLACES, mark_flags, measure_marks


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def cropped(image):
    width, height = image.size
    return image.crop((round(0.12 * width), round(0.02 * height), round(0.97 * width), round(0.87 * height)))


def boxed(image):
    image = image.copy()
    ImageDraw.Draw(image).rectangle((150, 90, 230, 170), fill=(240, 240, 200))
    return image


CHANGES = {
    "jpeg": lambda image: jpeg(image, 35),
    "cropped": cropped,
    "turned": lambda image: image.rotate(37, resample=Image.Resampling.BICUBIC),
    "upside down": lambda image: image.rotate(180),
    "mirrored": ImageOps.mirror,
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "greyer": lambda image: ImageEnhance.Color(image).enhance(0.4),
    "boxed": boxed,
    "squeezed": lambda image: image.resize((224, 224), Image.Resampling.BILINEAR),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """16 drawn images and a changed copy of one of them for each change, in the class `copy`."""
    folder = draw_endoscopy(tmp_path_factory.mktemp("drawn"), n_per_class=4)
    (folder / "copy").mkdir()
    truth = {}
    for number, (name, change) in enumerate(CHANGES.items()):
        source = sorted(folder.glob("[dinp]*/*.jpg"))[number + 3]
        path = folder / "copy" / f"{name.replace(' ', '-')}.jpg"
        change(Image.open(source)).save(path, quality=85)
        truth[path.relative_to(folder).as_posix()] = source.relative_to(folder).as_posix()
    return folder, truth


@pytest.fixture(scope="module")
def audited(drawn):
    return audit(drawn[0], progress=False)


def pairs_of(found, kind="near-duplicate"):
    rows = found.findings[found.findings["kind"] == kind]
    return {frozenset(pair) for pair in zip(rows["path_a"], rows["path_b"], strict=True)}


def test_every_planted_twin_is_found_and_no_stranger_is(drawn, audited):
    assert pairs_of(audited) == {frozenset(pair) for pair in drawn[1].items()}


def test_twins_of_different_labels_are_told(drawn, audited):
    assert pairs_of(audited, "label-conflict") == pairs_of(audited)


@pytest.mark.parametrize(
    ("copy", "words"),
    [
        ("mirrored", "mirrored"),
        ("turned", "turned by 37°"),
        ("upside-down", "turned by 180°"),
        ("jpeg", "the same view"),
    ],
)
def test_the_change_is_named(audited, copy, words):
    found = audited.findings
    row = found[(found["kind"] == "near-duplicate") & found["path_a"].str.contains(f"copy/{copy}")].iloc[0]
    # Which of the two was turned is not known: the angle may be its opposite.
    assert words in row["detail"] or words.replace("37", "323") in row["detail"]


def test_clusters_hold_the_twins_and_give_groups_to_a_split(drawn, audited):
    assert audited.clusters.nunique() == len(CHANGES)
    assert set(audited.clusters.index) == {*drawn[1], *drawn[1].values()}
    table = with_groups(audited.table, audited)
    partition = split_table(table, "grouped", valid_pct=0.3)
    sides = partition.groupby(table["group"]).nunique()
    assert len(sides) == len(CHANGES)
    assert (sides == 1).all()


def test_grouped_split_leaves_no_twin_in_train_and_a_random_one_does(audited):
    table = with_groups(audited.table, audited)
    grouped = audited.twin_in_train(split_table(table, "grouped", valid_pct=0.3))
    part = split_table(table, "grouped", valid_pct=0.3)
    assert not grouped.to_numpy()[(part == "valid").to_numpy()].any()
    part = split_table(table, "random", valid_pct=0.5)
    leaking = audited.twin_in_train(part).to_numpy()[(part == "valid").to_numpy()].sum()
    both = part.groupby(table["group"]).nunique()
    assert leaking == (both == 2).sum() > 0


def test_two_runs_are_equal(drawn, audited):
    again = audit(scan(drawn[0], progress=False), progress=False)
    pd.testing.assert_frame_equal(again.findings, audited.findings)
    pd.testing.assert_series_equal(again.clusters, audited.clusters)


def test_files_and_facts(audited, tmp_path):
    audited.save(tmp_path)
    written = pd.read_csv(tmp_path / "audit.csv", keep_default_na=False)
    assert list(written["path_a"]) == list(audited.findings["path_a"])
    facts = json.loads((tmp_path / "audit.json").read_text())
    assert facts["found"]["near-duplicate"] == len(CHANGES)
    assert facts["clusters"] == {
        name: sorted(paths) for name, paths in audited.clusters.groupby(audited.clusters).groups.items()
    }
    assert facts["pairs"][0]["kind"] == "label-conflict"  # what does harm comes first


@pytest.fixture
def messy(tmp_path):
    """Twins in every way that needs no likeness: files, pixels, labels, partitions, patients; and broken files."""
    texture = np.random.default_rng(3)
    rows = []

    def add(name, image, label, patient, partition, **options):
        image.save(tmp_path / name, **options)
        rows.append((name, label, patient, partition))

    pictures = [Image.fromarray(texture.integers(0, 255, (40, 50, 3), np.uint8)) for _ in range(4)]
    add("a1.png", pictures[0], "a", "p1", "train")
    add("a2.png", pictures[0], "a", "p1", "train")  # the same file
    add("b1.png", pictures[0], "b", "p2", "valid", compress_level=1)  # the same pixels
    add("b2.tif", pictures[1], "b", "p2", "train")
    add("c1.png", pictures[2], "a", "p3", "train")
    add("c2.png", pictures[3], "b", "p4", "valid")
    whole = (tmp_path / "c1.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    rows.append(("cut.png", "a", "p5", "train"))
    (tmp_path / "text.png").write_text("no image")
    rows.append(("text.png", "b", "p6", "train"))
    csv = tmp_path / "labels.csv"
    pd.DataFrame(rows, columns=["path", "label", "patient", "part"]).to_csv(csv, index=False)
    return csv


def test_what_needs_no_likeness(messy):
    with pytest.warns(match="cannot be used"):
        found = audit(messy, patient_col="patient", partition_col="part", progress=False)
    by_kind = {kind: sorted(map(sorted, pairs_of(found, kind))) for kind in KINDS}
    assert by_kind["same-file"] == [["a1.png", "a2.png"]]
    assert by_kind["same-pixels"] == [["a1.png", "b1.png"]]
    assert by_kind["label-conflict"] == [["a1.png", "b1.png"]]
    assert by_kind["twin-across-split"] == [["a1.png", "b1.png"]]
    assert by_kind["twin-of-two-patients"] == [["a1.png", "b1.png"]]
    assert by_kind["patient-across-split"] == [["b1.png", "b2.tif"]]
    assert {path for pair in by_kind["corrupt"] for path in pair if path} == {"cut.png", "text.png"}
    assert by_kind["near-duplicate"] == []
    assert found.summary["leaks"] == {"valid": {"n": 2, "with_twin_in_train": 1, "share": 0.5}}
    assert found.summary["n_images"] == 6
    assert list(found.table.loc[found.table["problem"] != "", "path"]) == ["cut.png", "text.png"]
    assert found.twins()["a1.png"] == ["a2.png", "b1.png"]


def test_images_without_a_label_are_not_called_unreadable(messy):
    rows = pd.read_csv(messy)
    rows.loc[rows["path"] == "a1.png", "label"] = ""
    rows[~rows["path"].isin(["cut.png", "text.png"])].to_csv(messy, index=False)
    with pytest.warns(match="blank label"):
        found = audit(messy, patient_col="patient", partition_col="part", progress=False)
    assert "1 image cannot be used." in str(found) and "cannot be read" not in str(found)


def test_near_can_be_left_out(drawn):
    found = audit(drawn[0], near=False, progress=False)
    assert found.summary["n_pairs_compared"] == 0
    assert not pairs_of(found)
    assert found.summary["searched_by"] == ["file hash", "pixel hash"]


def test_an_embedding_is_a_row_for_each_image(drawn, messy):
    with pytest.raises(DataError, match=r"shape \(3, 2\) for 25 images"):
        audit(drawn[0], embed=np.zeros((3, 2)), progress=False)
    asked = []

    def embed(table):
        asked.append(list(table["path"]))
        return np.full((len(table), 4), np.nan)

    with pytest.warns(match="cannot be used"):
        found = audit(messy, embed=embed, progress=False)
    assert "text.png" not in asked[0]
    assert found.summary["searched_by"][-1] == "embedding"
    assert len(pairs_of(found, "same-pixels")) == 1


def test_own_groups_stay_linked(audited):
    table = audited.table.assign(group=None)
    first = audited.clusters.index[0]
    alone = next(path for path in table["path"] if path not in audited.clusters.index)
    table.loc[table["path"].isin([first, alone]), "group"] = "mine"
    groups = with_groups(table, audited).set_index("path")["group"]
    assert groups[alone] == groups[first]
    assert groups[audited.twins()[first][0]] == groups[first]
    assert groups.isna().sum() == len(table) - len(audited.clusters) - 1


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_clusters_are_what_can_be_reached(n, pairs):
    pairs = [(a % n, b % n) for a, b in pairs]
    names = [f"{k:02d}" for k in range(n)]
    reached = {k: {k} for k in range(n)}
    for _ in range(n):  # spread along the links until nothing changes
        for a, b in pairs:
            reached[a] |= reached[b]
            reached[b] |= reached[a]
    found = cluster(names, [a for a, _ in pairs], [b for _, b in pairs])
    assert set(found.index) == {names[k] for k in range(n) if len(reached[k]) > 1}
    for name, group in found.items():
        assert {other for other, its in found.items() if its == group} == {names[k] for k in reached[int(name)]}


# --- the parts of the search


@pytest.fixture(scope="module")
def frame():
    from medclf.demo_images import draw_frame

    return draw_frame("polyp", np.random.default_rng(5), (192, 176))


def test_keypoints_turn_with_the_image(frame):
    grey = np.asarray(frame.convert("L"))
    upright, turned = find_keypoints(grey), find_keypoints(np.ascontiguousarray(np.rot90(grey)))
    # np.rot90 takes (x, y) from the centre to (y, -x); directions turn along.
    wanted = np.column_stack([upright.points[: upright.n, 1], -upright.points[: upright.n, 0]])
    distance = np.abs(wanted[:, None] - turned.points[None, : turned.n, :2]).max(2)
    nearest = distance.argmin(1)
    same = distance.min(1) < 1.5 / SIDE
    assert upright.n > 30
    assert same.mean() > 0.9
    turn = upright.points[: upright.n, 3] - turned.points[nearest, 3]
    off = np.abs(np.angle(np.exp(1j * (turn - math.pi / 2))))
    assert np.median(off[same]) < 0.05
    a = upright.descriptors[: upright.n][same].astype(float)
    b = turned.descriptors[nearest][same].astype(float)
    assert np.median((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)) > 0.97


def test_a_descriptor_reordered_is_that_of_the_mirrored_image(frame):
    grey = np.asarray(frame.convert("L"))
    plain, mirrored = find_keypoints(grey), find_keypoints(np.ascontiguousarray(grey[:, ::-1]))
    distance = np.abs(plain.points[: plain.n, None, :2] * [-1, 1] - mirrored.points[None, : mirrored.n, :2]).max(2)
    same = distance.min(1) < 0.5 / SIDE
    a = plain.descriptors[: plain.n][same][:, mirror_order()].astype(float)
    b = mirrored.descriptors[distance.argmin(1)[same]].astype(float)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert same.mean() > 0.9
    assert np.median(cosine) > 0.98


def sides(grey):
    found = find_keypoints(grey)
    return Features(*(torch.from_numpy(np.asarray(part)[None]) for part in (found.points, found.descriptors, found.n)))


@pytest.mark.parametrize(
    ("angle", "scale", "mirrored"), [(0, 1, False), (25, 1.1, False), (-140, 0.9, False), (10, 1, True)]
)
def test_alignment_recovers_a_known_transform(frame, angle, scale, mirrored):
    grey = frame.convert("L")
    turn = math.radians(angle)
    linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = linear @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    centre = (np.array(grey.size) - 1) / 2
    back = np.linalg.inv(linear)  # Pillow asks where each pixel of the result comes from, from pixel corners
    shift = centre + 0.5 - back @ (centre + 0.5)
    moved = grey.transform(
        grey.size, Image.Transform.AFFINE, (*back[0], shift[0], *back[1], shift[1]), Image.Resampling.BICUBIC
    )
    found = align(sides(np.asarray(grey)), sides(np.asarray(moved)), torch.tensor([mirrored]))
    assert int(found.inliers) > 10
    assert np.abs(found.matrix[0, :, :2].numpy() - linear).max() < 0.03
    assert np.abs(found.matrix[0, :, 2].numpy()).max() < 0.01


def test_comparison_is_one_for_the_same_and_low_for_another(frame):
    from medclf.demo_images import draw_frame

    other = draw_frame("polyp", np.random.default_rng(6), (192, 176))
    details = [
        torch.from_numpy(fine_detail(np.asarray(im.convert("L").resize((96, 96)))))[None] for im in (frame, other)
    ]
    square, identity = torch.ones(1, 2), torch.eye(2, 3)[None]
    same = compare(details[0], details[0], square, square, identity)
    assert float(same.similarity) == pytest.approx(1, abs=1e-3)
    assert float(same.overlap) == 1
    assert float(compare(details[0], details[1], square, square, identity).similarity) < 0.5
    halfway = identity + torch.tensor([[[0, 0, 0.5], [0, 0, 0]]])
    assert float(compare(details[0], details[0], square, square, halfway).overlap) == pytest.approx(0.5, abs=0.02)


def test_a_surround_and_what_all_share_carry_no_match():
    """Two discs of smooth light on black, their own noise apart: rim and light are the same, the content is not."""
    y, x = np.mgrid[:96, :96] / 96 - 0.5
    rng = np.random.default_rng(3)
    light = 120 + 60 * np.cos(3 * x) * np.cos(2 * y)
    stripes = 25 * np.sign(np.sin(40 * x))  # anatomy that every image has
    inside = np.hypot(x, y) < 0.45

    def disc(own):
        return torch.from_numpy(fine_detail(((light + stripes + own) * inside).clip(0, 255).astype(np.uint8)))[None]

    textures = [ndimage.gaussian_filter(rng.normal(0, 1, (96, 96)), 1) * 30 for _ in range(40)]
    details = [disc(one) for one in textures]
    mean = mean_detail(torch.cat(details).numpy(), np.ones(40))
    square, identity = torch.ones(1, 2), torch.eye(2, 3)[None]
    assert float(compare(details[0], details[1], square, square, identity).similarity) > 0.4
    apart = compare(details[0], details[1], square, square, identity, mean)
    again = compare(details[0], disc(textures[0] + rng.normal(0, 2, (96, 96))), square, square, identity, mean)
    assert float(apart.similarity) < 0.25 < 0.8 < float(again.similarity) and int(again.blocks) > 20


def fundus(rng, side=192):
    """A smooth orange disc on black with an optic disc and a few vessels: another eye with each state of `rng`."""
    y, x = np.mgrid[:side, :side] / side * 2 - 1
    centre = rng.choice([-1, 1]) * rng.uniform(0.3, 0.45), rng.uniform(-0.1, 0.1)
    pixels = (1 - 0.3 * np.hypot(x - rng.uniform(-0.3, 0.3), y))[..., None] * np.array([200, 95, 40])
    pixels += 70 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 0.015)[..., None]
    for _ in range(8):
        angle, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.8)
        reach = np.hypot(x - centre[0], y - centre[1])
        off = np.arctan2(y - centre[1], x - centre[0]) - angle - bend * reach
        pixels *= 1 - 0.4 * np.exp(-((np.angle(np.exp(1j * off)) * reach / 0.02) ** 2))[..., None]
    pixels += rng.normal(0, 2.5, pixels.shape)
    pixels[np.hypot(x, y) > 0.93] = 0
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_different_discs_are_no_near_duplicates(tmp_path):
    eyes = [fundus(np.random.default_rng(seed)) for seed in range(30)]
    for number, eye in enumerate(eyes):
        eye.save(tmp_path / f"{number:02}.jpg", quality=92)
    for number in range(4):
        changed = (eyes[number], eyes[number].transpose(Image.Transpose.FLIP_LEFT_RIGHT))[number % 2]
        changed.save(tmp_path / f"{number:02}-again.jpg", quality=60)
    paths = sorted(tmp_path.iterdir())
    found = find_twins(take_fingerprints(paths, progress=False), np.arange(len(paths)), progress=False)
    pairs = {(paths[a].stem[:2], paths[b].stem[:2]) for a, b in zip(found.first, found.second, strict=True)}
    assert pairs == {(f"{number:02}",) * 2 for number in range(4)}


def test_small_things_on_black_are_content_and_the_black_no_surround(tmp_path):
    rng = np.random.default_rng(4)
    for number in range(22):
        cells = Image.new("L", (192, 192), 4)
        for x, y, radius in rng.uniform((0, 0, 3), (192, 192, 8), (25, 3)):
            ImageDraw.Draw(cells).ellipse((x - radius, y - radius, x + radius, y + radius), fill=150)
        cells.save(tmp_path / f"{number}.png")
    jpeg(Image.open(tmp_path / "3.png"), 60).save(tmp_path / "again.jpg")
    found = find_twins(take_fingerprints(sorted(tmp_path.iterdir()), progress=False), np.arange(23), progress=False)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    pairs = zip(found.first, found.second, strict=True)
    assert [{names[a], names[b]} for a, b in pairs] == [{"3.png", "again.jpg"}]


def test_the_step_at_a_surrounds_edge_is_no_detail_on_the_diagonal_either():
    y, x = np.mgrid[:96, :96]
    even = fine_detail(np.where(np.hypot(x - 48, y - 48) < 44, 150, 0).astype(np.uint8))
    assert (even != -128).mean() > 0.3 and not even[even != -128].any()


def test_a_small_disc_is_no_thin_structure():
    y, x = np.mgrid[:96, :96]
    disc = np.where(np.hypot(x - 50, y - 45) < 11, 150, 3).astype(np.uint8)
    assert (fine_detail(disc) == -128).mean() > 0.95  # its rim is the device's
    lines = np.where((x + y) % 16 < 2, 150, 3).astype(np.uint8)
    assert (fine_detail(lines) != -128).all()


def test_hashes_are_imagehash_s_own(frame):
    grey = frame.convert("L").resize((96, 96))
    hashes = perceptual_hashes(np.asarray(grey))
    for view, turned in ((0, grey), (1, grey.rotate(90)), (4, ImageOps.mirror(grey)), (8, grey.crop((6, 6, 90, 90)))):
        bits = np.unpackbits(hashes[view]).astype(bool).reshape(8, 8)
        assert imagehash.ImageHash(bits) - imagehash.phash(turned) == 0


@pytest.mark.parametrize("n", [3, 400, 1500])
def test_candidates_hold_the_nearest_neighbours(n):
    random = np.random.default_rng(0)
    centres = random.normal(size=(n // 3, 32))
    vectors = (centres[np.arange(n) % len(centres)] + 0.3 * random.normal(size=(n, 32))).astype(np.float32)
    hashes = random.integers(0, 256, (n, 13, 8)).astype(np.uint8)
    found = candidates(hashes, vectors, random.normal(size=(n, 32)).astype(np.float32), None)
    assert (found.first < found.second).all()
    plain = set(zip(found.first[~found.mirrored], found.second[~found.mirrored], strict=True))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(n)
    nearest = cosine.argmax(1)
    hits = [(min(a, b), max(a, b)) in plain for a, b in enumerate(nearest) if cosine[a, b] > 0]
    assert np.mean(hits) > 0.99
    assert len(found) <= 24 * n  # not all pairs


def test_a_fingerprint_knows_equal_pixels(tmp_path, frame):
    grey = frame.convert("L")
    grey.save(tmp_path / "grey.png")
    grey.convert("RGB").save(tmp_path / "colour.tif")
    ImageOps.mirror(grey).save(tmp_path / "other.png")
    a, b, c = (fingerprint(tmp_path / name) for name in ("grey.png", "colour.tif", "other.png"))
    assert a.pixels == b.pixels != c.pixels
    assert (a.depth, b.depth) == (("PNG", 8, 1), ("TIFF", 8, 3))


def test_flat_and_tiny_images_are_no_twins_of_each_other(tmp_path):
    for number, size in enumerate([(1, 1), (3, 200), (50, 50), (64, 64), (300, 2)]):
        Image.new("RGB", size, (number * 20, 90, 60)).save(tmp_path / f"{number}.png")
    prints = take_fingerprints(sorted(tmp_path.glob("*.png")), progress=False)
    assert not prints.problems
    assert len(find_twins(prints, np.arange(5), progress=False).first) == 0


# --- clues


def test_marks_see_a_painted_corner_and_a_border():
    image = np.full((120, 150, 3), (150, 90, 70), np.uint8)
    image[85:, :40] = (18, 112, 62)
    image[:, -15:] = 0
    flags = mark_flags(measure_marks(image)[None])
    assert {name for name, on in flags.items() if on[0]} == {
        ("a green area", "the bottom left corner"),
        ("an even border", "the right"),
    }


def test_an_overlay_tied_to_the_class_is_told_and_a_chance_one_is_not():
    random = np.random.default_rng(0)
    labels = ["polyp"] * 60 + ["normal"] * 60
    marks = np.zeros((120, 36))
    column = {tuple(place): 4 + 4 * place[1] + place[0] for place in np.ndindex(4, 8)}  # of colour and place
    tied, chance = column[2, 5], column[0, 1]  # green at the bottom left, black at the top
    marks[:, chance] = random.random(120) < 0.5
    marks[:50, tied] = 1
    clues = find_clues(labels, np.full((120, 2), 300), [("JPEG", 8, 3)] * 120, marks)
    assert [clue.facts["mark"] for clue in clues] == ["a green area at the bottom left corner"]
    assert "occurs in 83 % of 'polyp' and 0 % of 'normal' images" in clues[0].sentence
    squares = 120 * (50 * 60) ** 2 / (60 * 60 * 50 * 70)  # chi squared of a 2 x 2 table: n (ad - bc)^2 / margins
    assert clues[0].strength == pytest.approx(math.sqrt(squares / 120))


def _stained(random, kind):
    tint = np.array([(190, 100, 160), (95, 90, 190)][kind]) + random.normal(0, 8, 3)
    nuclei = random.random((90, 90, 1)) < 0.25
    return np.where(nuclei, tint * 0.55, tint) + random.normal(0, 12, (90, 90, 3))


def _patchy_stain(random, kind):
    """Blue in a few places of each image, other ones each time."""
    tissue = np.kron(random.random((3, 3)) < 0.3 * kind, np.ones((30, 30)))[..., None]
    return np.where(tissue, (90, 90, 190), (190, 100, 160)) + random.normal(0, 12, (90, 90, 3))


def _lamp(random, kind):
    """A cold lamp with its light anywhere in the picture, or a warm one."""
    y, x = np.mgrid[:90, :90] / 90
    light = 1.2 - 0.5 * np.hypot(y - random.random(), x - random.random())[..., None]
    return light * np.array([(180, 140, 100), (100, 110, 170)][kind]) + random.normal(0, 6, (90, 90, 3))


def _dark_camera(random, kind):
    """One of the cameras sees nothing away from the middle."""
    y, x = np.mgrid[:90, :90] / 45 - 1
    light = np.clip(1.5 - 1.7 * np.hypot(y, x), 0, 1)[..., None] if kind else 1
    return light * random.normal(130, 30, (90, 90, 3))


def _clues_of(draw, n):
    random = np.random.default_rng(3)
    kinds = np.arange(n) % 2
    images = [draw(random, kind).clip(0, 255).astype(np.uint8) for kind in kinds]
    marks = np.stack([measure_marks(image) for image in images])
    labels = [("benign", "tumor")[kind] for kind in kinds]
    return find_clues(labels, np.full((n, 2), 90), [("PNG", 8, 3)] * n, marks)


@pytest.mark.parametrize(("draw", "n"), [(_stained, 60), (_patchy_stain, 300), (_lamp, 60), (_dark_camera, 60)])
def test_what_belongs_to_the_whole_picture_is_told_once_and_at_no_place(draw, n):
    clues = _clues_of(draw, n)
    assert [clue.kind for clue in clues] == ["colour-tells-class"]
    assert not any(place in clues[0].sentence for place in (*PLACES, "the top"))


@pytest.mark.parametrize("ground", [_stained, _lamp])
def test_painted_corners_are_found_at_their_places_whatever_the_whole_picture_looks_like(ground):
    def with_corners(random, kind):
        image = ground(random, 0)
        image[60:, :30] = (15, 110, 60) if kind else image[60:, :30]
        image[:30, 60:] = image[:30, 60:] if kind else 0
        return image

    clues = _clues_of(with_corners, 60)
    assert {clue.facts["mark"] for clue in clues} == {
        "a green area at the bottom left corner",
        "a black area at the top right corner",
    }
    assert {clue.kind for clue in clues} == {"overlay-tells-class"}


def test_sizes_and_depths_without_a_link_are_no_clue():
    random = np.random.default_rng(1)
    labels = random.choice(["a", "b", "c"], 150).tolist()
    depths = [("PNG", int(bits), 1) for bits in random.choice([8, 16], 150)]
    assert find_clues(labels, random.integers(200, 260, (150, 2)), depths, np.zeros((150, 36))) == []


def test_bit_depth_that_tells_the_class():
    labels = ["old"] * 30 + ["new"] * 30
    depths = [("PNG", 8, 1)] * 30 + [("DICOM", 12, 1)] * 30
    clues = find_clues(labels, np.full((60, 2), 512), depths, np.zeros((60, 36)))
    assert [(clue.kind, clue.strength) for clue in clues] == [("depth-tells-class", 1.0)]


def test_multi_label_clues_name_the_label():
    labels = [("nodule",) if k % 2 else ("mass", "nodule") for k in range(60)]
    sizes = np.array([[300, 300] if k % 2 else [400, 300] for k in range(60)])
    clues = find_clues(labels, sizes, [("PNG", 8, 1)] * 60, np.zeros((60, 36)))
    assert [clue.facts["label"] for clue in clues] == ["mass"]  # every image has a nodule: nothing to tell


def test_patients_are_kept_together_when_sizes_are_judged():
    # Each patient has one size of its own, and sizes differ between patients alone: no clue to the class of others.
    random = np.random.default_rng(2)
    patients = np.repeat(np.arange(24), 10)
    labels = np.where(random.permutation(24)[patients] % 2, "a", "b").tolist()
    sizes = np.column_stack([300 + random.permutation(24)[patients], np.full(240, 300)])
    alone = find_clues(labels, sizes, [("PNG", 8, 1)] * 240, np.zeros((240, 36)))
    grouped = find_clues(labels, sizes, [("PNG", 8, 1)] * 240, np.zeros((240, 36)), patients)
    assert [clue.kind for clue in alone] == ["size-tells-class"]
    assert grouped == []


# --- real images


@pytest.mark.slow
def test_hello_world_s_known_duplicate_and_sizes(shared_data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = audit(shared_data / "hello-world", progress=False)
    (pair,) = pairs_of(found, "same-file")
    assert all(path.startswith("VAL/") and "PMC2584007" in path for path in pair)
    told = found.findings[found.findings["kind"] == "size-tells-class"]
    assert told["similarity"].item() > 0.9
    assert "alone predicts the class" in told["detail"].item()
    assert found.summary["leaks"]["valid"]["with_twin_in_train"] == 0


@pytest.mark.slow
def test_planted_twins_among_real_frames(shared_data, tmp_path):
    sources = sorted((shared_data / "hyperkvasir-lower-gi" / "polyp").glob("*.jpg"))[:30]
    paths = list(sources)
    for number, source in enumerate(sources[:18]):
        change = list(CHANGES.values())[number % len(CHANGES)]
        paths.append(tmp_path / f"{number:02d}.jpg")
        change(Image.open(source)).save(paths[-1], quality=85)
    twins = find_twins(take_fingerprints(paths, progress=False), np.arange(48), progress=False)
    found = set(zip(twins.first.tolist(), twins.second.tolist(), strict=True))
    planted = {(number, 30 + number) for number in range(18)}
    assert planted <= found
    assert len(found - planted) <= 2  # frames of one procedure recur


def test_repeats_of_a_patient_found_among_radiographs_are_of_one_patient(shared_data):
    labels = pd.read_csv(shared_data / "nih-multilabel-64" / "labels.csv").head(220)
    paths = [shared_data / "nih-multilabel-64" / name for name in labels["file"]]
    twins = find_twins(take_fingerprints(paths, progress=False), np.arange(len(paths)), progress=False)
    patient = labels["patient_id"].to_numpy()
    assert len(twins.first) > 30
    assert (patient[twins.first] == patient[twins.second]).mean() > 0.95


def test_a_similarity_in_percent_is_refused(tmp_path):
    with pytest.raises(DataError, match="min_similarity must be from 0 to 1, not 60"):
        audit(tmp_path, min_similarity=60)
