"""A drawn endoscopy set: learnable, not trivial, and honest about being drawn."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from medclf.files import write_text
from medclf.parallel import map_ahead, n_cores

Plane = NDArray[np.floating]  # (H, W)

CLASSES = ("dyed", "inflamed", "normal", "polyp")

README = """These images are drawn by a program (medclf.demo_images). No patient and no endoscope
were involved. They look somewhat like frames of a colonoscopy and serve to try medclf out. A score on them
says nothing about any real task. The four folders are the labels:

normal    mucosa with folds and vessels
polyp     the same with a raised growth
dyed      a growth lifted and stained with blue dye
inflamed  reddened, patchy mucosa without visible vessels, with pale ulcers

Light, rotation, texture and size vary. About a third of the images carry a green box in a corner, as real
scopes show their position; it is drawn without regard to the label. boxes.csv has the box around each growth (of
polyp and dyed), and a row without numbers for each image that has none.

Drawn with seed {seed}, {n_per_class} images a class, {width} x {height} pixels.
"""


def draw_endoscopy(
    folder: str | Path,
    n_per_class: int = 40,
    size: tuple[int, int] = (320, 288),
    seed: int = 0,
) -> Path:
    """Draw a small endoscopy-like set: JPEG files in the class folders dyed, inflamed, normal, polyp.

    Args:
        folder: where to draw; made if need be. Files of the same names are replaced.
        n_per_class: images of each class.
        size: (width, height) in pixels.
        seed: the same seed draws the same pictures, each also independent of how many there are.

    Returns:
        The folder as a Path; it also holds README.txt, which says that the images are drawn, and boxes.csv, the boxes
        around growths in pixels, as `medclf train --boxes` reads them.

    Raises:
        OutputError: the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> folder = draw_endoscopy(tempfile.mkdtemp(), n_per_class=1, size=(64, 56))
        >>> sorted(path.parent.name for path in folder.glob("*/*.jpg"))
        ['dyed', 'inflamed', 'normal', 'polyp']
    """
    folder = Path(folder)
    width, height = size
    write_text(folder / "README.txt", README.format(seed=seed, n_per_class=n_per_class, width=width, height=height))

    def draw(task: tuple[str, int]) -> str:
        label, number = task
        canvas = _drawn(label, np.random.default_rng([seed, CLASSES.index(label), number]), size)
        path = f"{label}/{label}-{number:04d}.jpg"
        canvas.finished().save(folder / path, quality=90)
        return f"{path},growth,{','.join(map(str, canvas.box or ('',) * 4))}"

    for label in CLASSES:
        (folder / label).mkdir(exist_ok=True)
    tasks = [(label, number) for label in CLASSES for number in range(n_per_class)]
    rows = map_ahead(draw, tasks, threads=n_cores(4))
    write_text(folder / "boxes.csv", "\n".join(["path,label,x_min,y_min,x_max,y_max", *rows, ""]))
    return folder


def draw_frame(label: str, random: np.random.Generator, size: tuple[int, int] = (320, 288)) -> Image.Image:
    """Draw one frame.

    Args:
        label: one of CLASSES.
        random: where all of its variety comes from.
        size: (width, height) in pixels.

    Returns:
        An RGB image.
    """
    return _drawn(label, random, size).finished()


def _drawn(label: str, random: np.random.Generator, size: tuple[int, int]) -> _Canvas:
    canvas = _Canvas(random, size)
    {"normal": _normal, "polyp": _polyp, "dyed": _dyed, "inflamed": _inflamed}[label](canvas)
    return canvas


class _Canvas:
    """A frame while it is drawn: a gut seen from inside, its wall lit from where the camera is.

    `box` is (x_min, y_min, x_max, y_max) around its growth; None where it has none.
    """

    box: tuple[int, int, int, int] | None = None

    def __init__(self, random: np.random.Generator, size: tuple[int, int]) -> None:
        self.random, (self.width, self.height) = random, size
        self.scale = min(size)
        rows, columns = np.mgrid[: self.height, : self.width].astype(np.float32)
        self.x = (columns - self.width / 2) / self.scale
        self.y = (rows - self.height / 2) / self.scale
        self.picture = self._wall()

    def noise(self, cells: float, octaves: int = 1) -> Plane:
        """Smooth noise of mean 0 and deviation about 1, `cells` bumps across the frame."""
        total = np.zeros((self.height, self.width), dtype=np.float32)
        for octave in range(octaves):
            n = max(2, round(cells * 2**octave))
            grid = self.random.standard_normal((n, n)).astype(np.float32)
            total += _enlarged(grid, self.width, self.height) * 0.6**octave
        return total * 1.3

    def _wall(self) -> NDArray[np.float32]:
        """Mucosa with folds around a dark lumen."""
        random = self.random
        angle, far = random.uniform(0, 2 * math.pi), random.uniform(0.02, 0.42)
        bend = 0.035 * self.noise(5)
        x, y = self.x - far * math.cos(angle) + bend, self.y - far * math.sin(angle) + 0.035 * self.noise(4)
        along, across = _turned(x, y, random.uniform(0, math.pi))
        squash = random.uniform(0.75, 1.3)
        radius = np.hypot(along * squash, across / squash) + 0.02
        lobes = 0.16 * np.cos(3 * np.arctan2(along, across) + random.uniform(0, 6))
        phase = (np.log(radius) * random.uniform(1.3, 2.2) + lobes + 3 * bend + random.uniform(0, 1)) % 1
        crest = np.exp(-phase / 0.34) * _step(phase - 0.03, 0.035)  # bright edge, dark behind, then fading
        self.crest = crest * np.clip(0.7 + 0.5 * self.noise(3), 0.05, 1.2)
        reach = random.uniform(0.12, 0.32)
        vignette = np.exp(-((np.hypot(self.x, self.y) / 0.85) ** 4))
        self.light = (1 - np.exp(-((radius / reach) ** 1.4))) * vignette
        grain = 0.022 * self.noise(24, 3)
        self.light = self.light * (0.74 + 0.05 * self.noise(3) + random.uniform(0.15, 0.45) * self.crest)
        self.hue = (1.0, random.uniform(0.46, 0.60), random.uniform(0.32, 0.46))
        wall = (self.light + grain)[..., None] * np.array(self.hue, dtype=np.float32)
        wall[..., 1:] *= (1 + 0.06 * bend / 0.035)[..., None]
        return np.asarray(wall.astype(np.float32))

    def tint(self, where: Plane, colour: tuple[float, float, float], shaded: bool = True) -> None:
        """Blend `colour` in, by `where` from 0 to 1; shaded as the wall is, or as it stands."""
        where = np.clip(where, 0, 1)[..., None]
        target = np.array(colour, dtype=np.float32) * (self.light[..., None] if shaded else 1)
        self.picture += where * (target - self.picture)

    def vessels(self, strength: float) -> None:
        """Thin branching vessels."""
        mask = Image.new("L", (self.width, self.height))
        pen = ImageDraw.Draw(mask)
        for _ in range(self.random.integers(5, 10)):
            start = self.random.uniform(0, 1, 2) * (self.width, self.height)
            self._branch(pen, start, self.random.uniform(0, 2 * math.pi), self.scale / 130)
        plane = _plane(mask.filter(ImageFilter.GaussianBlur(self.scale / 350)))
        self.picture *= 1 - strength * plane[..., None] * np.array([0.25, 0.62, 0.55], dtype=np.float32)

    def _branch(self, pen: ImageDraw.ImageDraw, at: NDArray[np.float64], heading: float, width: float) -> None:
        step = self.scale / 32
        for _ in range(int(self.random.integers(6, 16))):
            heading += self.random.normal(0, 0.35)
            ahead = at + step * np.array([math.cos(heading), math.sin(heading)])
            pen.line([*at, *ahead], fill=230, width=max(1, round(width)))
            at = ahead
            if width > self.scale / 300 and self.random.random() < 0.22:
                self._branch(pen, at, heading + self.random.choice([-1, 1]) * 0.8, width * 0.55)

    def growth(self, smallest: float, largest: float, redness: float, blend: float) -> Plane:
        """A rounded growth, lit from the middle of the frame; returns where it is."""
        random = self.random
        angle, far = random.uniform(0, 2 * math.pi), random.uniform(0.10, 0.33)
        toward = (-math.cos(angle), -math.sin(angle))
        self.x0, self.y0 = self.x + far * toward[0], self.y + far * toward[1]
        radius, squash = random.uniform(smallest, largest), random.uniform(0.65, 1.0)
        lump = 0.10 * radius * self.noise(7)
        along, across = _turned(self.x0 + lump, self.y0 + lump, random.uniform(0, math.pi))
        out = np.hypot(along, across / squash) / radius
        inside = _step(1 - out, 0.07)
        self.box = _box_around(inside > 0.5)
        slope = (self.x0 * toward[0] + self.y0 * toward[1]) / radius
        up = np.sqrt(np.clip(1 - out**2, 0, 1))
        shade = 0.40 + 0.42 * up + 0.26 * slope + 0.02 * self.noise(30, 2)
        shadow = np.exp(-(((out - 1.08) / 0.20) ** 2)) * _step(-slope - 0.1, 0.6)
        self.picture *= 1 - 0.55 * (shadow * (1 - inside))[..., None]
        lit = 0.75 + 0.5 * float((self.light * inside).sum() / max(inside.sum(), 1.0))
        colour = np.array(self.hue, dtype=np.float32) * (1.0, redness, redness)
        self.picture += (blend * inside)[..., None] * ((shade * lit)[..., None] * colour - self.picture)
        self.light = self.light + inside * (np.clip(shade, 0.2, 1.2) * lit - self.light) * blend
        self.crest = self.crest * (1 - inside) + inside * np.clip(slope + 0.3, 0, 1) * up
        return inside

    def highlights(self) -> None:
        """Wet reflections: clusters of small streaks, most on what faces the camera."""
        streaks = np.maximum(0.9 * self.noise(30), 0.8 * self.noise(52))
        wet = 2.5 - 0.8 * self.crest - 0.55 * self.noise(4) + self.random.uniform(-0.2, 0.6)
        spots = _step(streaks - wet, 0.15) * np.clip(self.light * 1.8 - 0.5, 0, 1)
        self.tint(spots, (1.0, 0.97, 0.93), shaded=False)

    def residue(self) -> None:
        """Yellowish liquid and specks, in any class."""
        self.tint(0.55 * _step(self.noise(4) - 1.6, 0.35), (0.85, 0.66, 0.20))

    def finished(self) -> Image.Image:
        """Light, focus, camera noise, the scope's frame and, now and then, its green box."""
        random = self.random
        self.highlights()
        warmth = np.array([random.uniform(0.94, 1.06), 1.0, random.uniform(0.86, 1.16)], dtype=np.float32)
        picture = np.clip(self.picture * random.uniform(0.85, 1.35) * warmth, 0, 1) ** random.uniform(0.78, 1.05)
        picture += random.normal(0, random.uniform(0.004, 0.014), picture.shape).astype(np.float32)
        image = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0, self.scale / 260)))
        image.paste((8, 8, 9), mask=Image.eval(_scope_mask(image.size), lambda value: 255 - value))
        if random.random() < 0.35:
            self._draw_box(image)
        return image

    def _draw_box(self, image: Image.Image) -> None:
        side = round(self.scale * self.random.uniform(0.22, 0.30))
        left, top = round(0.02 * self.width), image.height - side - round(0.02 * self.height)
        pen = ImageDraw.Draw(image)
        pen.rectangle([left, top, left + side, top + side], fill=(18, 112, 62))
        bends = np.cumsum(self.random.normal(0, 0.16, (7, 2)), axis=0)
        bends = (bends - bends.min(axis=0)) / (np.ptp(bends, axis=0) + 1e-6)
        points = [(left + side * (0.15 + 0.7 * a), top + side * (0.15 + 0.7 * b)) for a, b in bends]
        pen.line(points, fill=(196, 214, 120), width=max(1, side // 14), joint="curve")


def _normal(canvas: _Canvas) -> None:
    canvas.vessels(canvas.random.uniform(0.35, 0.95))
    if canvas.random.random() < 0.35:
        canvas.residue()


def _polyp(canvas: _Canvas) -> None:
    random = canvas.random
    canvas.vessels(random.uniform(0.25, 0.9))
    if random.random() < 0.35:
        canvas.residue()
    canvas.growth(0.12, 0.25, redness=random.uniform(0.82, 1.08), blend=random.uniform(0.75, 0.95))


def _dyed(canvas: _Canvas) -> None:
    random = canvas.random
    canvas.vessels(random.uniform(0.1, 0.6))
    inside = canvas.growth(0.13, 0.28, redness=1.1, blend=0.85)
    spread = np.hypot(canvas.x0, canvas.y0)
    stain = _step(random.uniform(0.26, 0.44) - spread + 0.07 * canvas.noise(6, 2), 0.12) * (1 - 0.5 * inside)
    blue = (random.uniform(0.10, 0.34), random.uniform(0.42, 0.62), random.uniform(0.72, 0.95))
    canvas.tint(stain * random.uniform(0.28, 0.75), blue)


def _inflamed(canvas: _Canvas) -> None:
    random = canvas.random
    canvas.vessels(random.uniform(0.0, 0.2))
    patches = _step(canvas.noise(5, 3) - random.uniform(-0.9, 0.3), 0.8)
    canvas.tint(patches * random.uniform(0.35, 0.75), (0.92, random.uniform(0.28, 0.38), random.uniform(0.22, 0.30)))
    canvas.picture *= (1 + random.uniform(0.03, 0.07) * canvas.noise(55))[..., None]
    ulcers = canvas.noise(9, 2) - random.uniform(2.0, 2.8)
    canvas.tint(0.6 * _step(ulcers + 0.5, 0.4), (0.80, 0.20, 0.16))
    canvas.tint(0.8 * _step(ulcers, 0.2), (1.15, 1.05, 0.82))


def _box_around(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else None


def _turned(x: Plane, y: Plane, angle: float) -> tuple[Plane, Plane]:
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _step(plane: Plane, width: float) -> Plane:
    """From 0 to 1 where `plane` goes from -width to width, smoothly."""
    t = np.clip((plane / width + 1) / 2, 0, 1)
    return t * t * (3 - 2 * t)


def _enlarged(grid: Plane, width: int, height: int) -> Plane:
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def _plane(mask: Image.Image) -> Plane:
    return np.asarray(mask, dtype=np.float32) / 255


def _scope_mask(size: tuple[int, int]) -> Image.Image:
    """White where the scope sees: a rectangle with its corners cut off."""
    width, height = size
    x, y, cut = round(width * 0.03), round(height * 0.03), round(min(size) * 0.16)
    right, bottom = width - x, height - y
    corners = [(x + cut, y), (right - cut, y), (right, y + cut), (right, bottom - cut)]
    corners += [(right - cut, bottom), (x + cut, bottom), (x, bottom - cut), (x, y + cut)]
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    return mask.filter(ImageFilter.GaussianBlur(1))
