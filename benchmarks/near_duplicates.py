"""Planted near-duplicates: how many the audit finds, and how many of what it finds are near-duplicates.

    python benchmarks/near_duplicates.py [--data FOLDER] [--sources 560] [--only crop,box] [--no-embedding] [--sheets X]

For each transformation every image of the folder gets one changed copy. The audit then searches originals and copies
together. Sensitivity is the share of copies linked with their own original. Precision is judged on the found pairs that
hold a copy: a pair of one original is right; a pair of two originals is right only where these two show the same scene
themselves, since frames of one procedure recur in real sets. Whether they do is decided by other methods than the
audit's, on the originals, outside the places where the video system writes its text; either of two is enough:

- SIFT of scikit-image at half size, Lowe's ratio test, an affine transform by RANSAC on which 15 matches agree;
- normalised cross-correlation of scikit-image (at 112 pixels, band-passed, over shifts and scales): higher than in each
  of 1,000 random pairs of images with different labels. SIFT finds few points on smooth mucosa.

"strict" counts every pair of two originals as wrong. --sheets writes contact sheets of the pairs of two originals, to
look at.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from medclf.auditing.near_duplicates.fingerprint import Fingerprints, take_fingerprints
from medclf.auditing.near_duplicates.search import find_twins
from medclf.models.features import embed_table

Random = np.random.Generator
Changed = tuple[Image.Image, int]  # the copy and the quality of its JPEG


def recompressed(image: Image.Image, random: Random) -> Changed:
    return image, int(random.integers(30, 91))


def cropped(image: Image.Image, random: Random) -> Changed:
    share = random.uniform(0.8, 0.95)
    width, height = round(image.width * share), round(image.height * share)
    x, y = random.integers(0, image.width - width + 1), random.integers(0, image.height - height + 1)
    return image.crop((x, y, x + width, y + height)), 90


def turned(image: Image.Image, random: Random) -> Changed:
    return image.rotate(random.uniform(-180, 180), resample=Image.Resampling.BICUBIC), 90


def quarter_turned(image: Image.Image, random: Random) -> Changed:
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return image.transpose(turns[random.integers(3)]), 90


def relit(image: Image.Image, random: Random) -> Changed:
    image = ImageEnhance.Brightness(image).enhance(random.uniform(0.7, 1.3))
    image = ImageEnhance.Contrast(image).enhance(random.uniform(0.75, 1.25))
    gamma = random.uniform(0.8, 1.25)
    return image.point([round(255 * (v / 255) ** gamma) for v in range(256)] * 3), 90


def recoloured(image: Image.Image, random: Random) -> Changed:
    hsv = np.array(image.convert("HSV")).astype(int)
    hsv[..., 0] = (hsv[..., 0] + random.integers(-13, 14)) % 256
    hsv[..., 1] = np.clip(hsv[..., 1] * random.uniform(0.6, 1.4), 0, 255)
    rgb = np.array(Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")) * random.uniform(0.85, 1.15, 3)
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8)), 90


def boxed(image: Image.Image, random: Random) -> Changed:
    image = image.copy()
    width, height = (round(side * random.uniform(0.2, 0.4)) for side in image.size)
    x, y = random.integers(0, image.width - width), random.integers(0, image.height - height)
    colour = tuple(int(v) for v in random.integers(0, 256, 3))
    ImageDraw.Draw(image).rectangle((int(x), int(y), int(x) + width, int(y) + height), fill=colour)
    return image, 90


def mirrored(image: Image.Image, random: Random) -> Changed:
    return (ImageOps.mirror if random.random() < 0.5 else ImageOps.flip)(image), 90


def squeezed(image: Image.Image, random: Random) -> Changed:
    return image.resize((224, 224), Image.Resampling.BILINEAR), 85


def several(image: Image.Image, random: Random) -> Changed:
    image = relit(recoloured(image, random)[0], random)[0]
    image = image.rotate(random.uniform(-30, 30), resample=Image.Resampling.BICUBIC)
    image = ImageOps.mirror(image) if random.random() < 0.5 else image
    return cropped(image, random)[0], 60


CHANGES: dict[str, Callable[[Image.Image, Random], Changed]] = {
    "JPEG of quality 30 to 90": recompressed,
    "cropped to 80-95 % of each side": cropped,
    "turned by any angle": turned,
    "turned by quarters": quarter_turned,
    "brightness, contrast, gamma": relit,
    "hue, saturation, colour cast": recoloured,
    "a box over 4-16 % drawn in": boxed,
    "mirrored": mirrored,
    "squeezed to 224 x 224": squeezed,
    "light, colour, turn, mirror, crop, JPEG 60": several,
}


def plant(paths: list[Path], change: str, folder: Path) -> list[Path]:
    """A changed copy of each image."""
    folder.mkdir()
    copies = []
    for index, path in enumerate(paths):
        image, quality = CHANGES[change](
            Image.open(path).convert("RGB"), np.random.default_rng([list(CHANGES).index(change), index])
        )
        copies.append(folder / f"{index:05d}.jpg")
        image.save(copies[-1], quality=quality)
    return copies


def joined(a: Fingerprints, b: Fingerprints) -> Fingerprints:
    """The fingerprints of both."""
    columns = {}
    for field in dataclasses.fields(Fingerprints):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if field.name != "problems":
            columns[field.name] = one + other if isinstance(one, list) else np.concatenate([one, other])
    return Fingerprints(**columns, problems={})


def embedding(paths: list[Path]) -> np.ndarray:
    table = pd.DataFrame({"path": [str(path) for path in paths]})
    table.attrs["root"] = "/"
    return embed_table(table, size=128, progress=False)


class SameScene:
    """Whether two originals show the same scene, by methods of its own."""

    def __init__(self, paths: list[Path], n_random: int = 1000) -> None:
        self.paths = paths
        random, labels = np.random.default_rng(0), [path.parent.name for path in paths]
        pairs = [tuple(map(int, random.integers(0, len(paths), 2))) for _ in range(4 * n_random)]
        others = [pair for pair in pairs if labels[pair[0]] != labels[pair[1]]][:n_random]
        self.chance = max((self.correlation(a, b) for a, b in others), default=1.0)

    @functools.lru_cache(maxsize=10_000)  # noqa: B019 - one object a run
    def __call__(self, a: int, b: int) -> bool:
        return self.correlation(a, b) > self.chance or self.points_agree(a, b)

    def correlation(self, a: int, b: int) -> float:
        """The highest correlation of the middle of b, at several scales, with any place of a."""
        from skimage.feature import match_template
        from skimage.transform import rescale

        whole, part = self.band(a), self.band(b)[10:82, 40:100]
        scaled = (rescale(part, scale) for scale in (0.85, 0.92, 1.0, 1.08))
        return max(float(match_template(whole[:, 36:], one).max()) for one in scaled)

    @functools.lru_cache(maxsize=2000)  # noqa: B019
    def band(self, row: int) -> np.ndarray:
        """Structures of 3 to 12 pixels of the picture at 112 x 96."""
        from skimage.filters import gaussian

        grey = np.asarray(Image.open(self.paths[row]).convert("L").resize((112, 96)), np.float32)
        return gaussian(grey, 1) - gaussian(grey, 4)

    @functools.lru_cache(maxsize=1000)  # noqa: B019
    def features(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        from skimage.feature import SIFT

        image = Image.open(self.paths[row]).convert("L").reduce(2)
        grey = np.asarray(image, np.float32) / 255
        sift = SIFT(upsampling=1)
        sift.detect_and_extract(grey)
        y, x = sift.keypoints.T
        height, width = grey.shape
        # Text, box and icon of the video system lie at the left and at the rim, the same in every frame.
        kept = (x > 0.36 * width) & (x < 0.93 * width) & (y > 0.03 * height) & (y < 0.95 * height)
        return np.column_stack([x, y])[kept], sift.descriptors[kept]

    def points_agree(self, a: int, b: int) -> bool:
        from skimage.feature import match_descriptors
        from skimage.measure import ransac
        from skimage.transform import AffineTransform

        (points_a, words_a), (points_b, words_b) = self.features(a), self.features(b)
        if min(len(words_a), len(words_b)) < 15:
            return False
        pairs = match_descriptors(words_a, words_b, max_ratio=0.85, cross_check=True)
        if len(pairs) < 15:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, inliers = ransac(
                (points_a[pairs[:, 0]], points_b[pairs[:, 1]]),
                AffineTransform,
                min_samples=3,
                residual_threshold=4,
                max_trials=2000,
                rng=0,
            )
        return inliers is not None and int(inliers.sum()) >= 15


def contact_sheets(folder: Path, paths: list[Path], pairs: list[tuple[int, int, float, bool]]) -> None:
    """Pairs side by side, 24 a page, least similar first."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = sorted(pairs, key=lambda pair: pair[2])
    for page in range(0, len(pairs), 24):
        sheet = Image.new("RGB", (8 * 170, 6 * 165))
        pen = ImageDraw.Draw(sheet)
        for place, (a, b, similarity, same) in enumerate(pairs[page : page + 24]):
            x, y = place % 4 * 340, place // 4 * 165
            for k, row in enumerate((a, b)):
                sheet.paste(Image.open(paths[row]).convert("RGB").resize((168, 145)), (x + 170 * k, y + 16))
            pen.text((x + 2, y + 2), f"{similarity:.2f} {'same scene' if same else 'OTHER SCENE'}?", fill="white")
        sheet.save(folder / f"pairs-{page // 24:02d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/hyperkvasir-lower-gi"))
    parser.add_argument("--sources", type=int, default=10_000)
    parser.add_argument("--only", default="", help="words of the transformations to run, separated by commas")
    parser.add_argument("--no-embedding", action="store_true")
    parser.add_argument("--sheets", type=Path)
    options = parser.parse_args()
    paths = sorted(path.resolve() for path in options.data.rglob("*.jpg"))
    paths = paths[:: max(1, -(-len(paths) // options.sources))]
    n = len(paths)
    originals, own = take_fingerprints(paths, progress=False), None if options.no_embedding else embedding(paths)
    same_scene = SameScene(paths)
    natural: dict[tuple[int, int], float] = {}
    print(f"random pairs correlate up to {same_scene.chance:.3f}")
    print(f"{n} originals, one copy of each a row; embedding: {'no' if own is None else 'efficientnet_lite0 at 128'}")
    print(f"{'transformation':44} sensitivity  precision  strict  pairs  seconds")
    worst = [1.0, 1.0]
    for change in CHANGES:
        if options.only and not any(word in change for word in options.only.split(",")):
            continue
        with tempfile.TemporaryDirectory() as folder:
            copies = plant(paths, change, Path(folder) / "copies")
            start = time.perf_counter()
            prints = joined(originals, take_fingerprints(copies, progress=False))
            features = None if own is None else np.concatenate([own, embedding(copies)])
            twins = find_twins(prints, np.arange(2 * n), features, progress=False)
            seconds = time.perf_counter() - start
        found = list(zip(twins.first.tolist(), twins.second.tolist(), twins.similarity.tolist(), strict=True))
        hits = {a for a, b, _ in found if b - a == n}
        held = [(a % n, b % n, s) for a, b, s in found if b >= n]
        for a, b, similarity in held + [pair for pair in found if pair[1] < n]:
            if a != b:
                key = (min(a, b), max(a, b))
                natural[key] = max(natural.get(key, 0.0), similarity)
        right = [a == b or same_scene(min(a, b), max(a, b)) for a, b, _ in held]
        sensitivity, precision = len(hits) / n, float(np.mean(right))
        strict = float(np.mean([a == b for a, b, _ in held]))
        worst = [min(worst[0], sensitivity), min(worst[1], precision)]
        print(
            f"{change:44} {sensitivity:11.4f} {precision:10.4f} {strict:7.3f} {len(held):6} {seconds:8.1f}", flush=True
        )
    print(f"lowest: sensitivity {worst[0]:.4f} (wished 0.98), precision {worst[1]:.4f} (wished 0.95)")
    judged = [(a, b, s, same_scene(a, b)) for (a, b), s in natural.items()]
    print(f"pairs of two originals found in any row: {len(judged)}, of one scene: {sum(p[3] for p in judged)}")
    if options.sheets:
        contact_sheets(options.sheets, paths, judged)
        print(f"contact sheets: {options.sheets}")


if __name__ == "__main__":
    main()
