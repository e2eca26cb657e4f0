"""Boxes, text and borders that stand still while the anatomy moves: finding them, and painting them over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_EDGE = 10.0  # grey levels a pixel: a sharp edge
_STANDS = 0.25  # share of a class's images whose edge must lie and point the same
_SIGMAS = 4.0  # ... and more than edges strewn at random would
_CARRIES = 0.6  # share of the overlay's edges that an image must show
_FEWEST = 5  # images that must carry it
_SMALLEST, _LARGEST = 0.0004, 0.4  # of the picture's area
_EVEN, _DARK, _LIGHT = 8.0, 24.0, 232.0
_LINES, _COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")


@dataclass(frozen=True)
class Overlay:
    """Something that stands still across images.

    Args:
        kind: "box", "text" or "border".
        mask: (H, W) bool, where it is.
        carriers: (n,) bool, which images carry it.
    """

    kind: str
    mask: np.ndarray
    carriers: np.ndarray

    @property
    def box(self) -> tuple[int, int, int, int]:
        """left, top, right, bottom in pixels."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @property
    def place(self) -> str:
        """Where it is, in words.

        Example:
            >>> mask = np.zeros((90, 90), bool)
            >>> mask[70:85, 5:20] = True
            >>> Overlay("box", mask, np.ones(3, bool)).place
            'bottom left'
        """
        y, x = ndimage.center_of_mass(self.mask)
        line = _LINES[min(2, int(3 * y / self.mask.shape[0]))]
        column = _COLUMNS[min(2, int(3 * x / self.mask.shape[1]))]
        return line if line == column else f"{line} {column}"


def find_overlays(images: np.ndarray, members: np.ndarray, most: int = 6) -> list[Overlay]:
    """Find what stands still across the images of a label.

    The edges of an overlay lie in the same place and point the same way in every image that carries it, so that their
    unit vectors add up; edges of anatomy cancel out. What is evenly dark or light beside them in all carriers belongs
    to them: a painted box, the corners outside a round field of view. A find is kept where single images show nearly
    all of it, which anatomy that is merely alike does not.

    Args:
        images: (n, H, W, 3) uint8, all of one size; near-duplicates stand still as well, and are better left out.
        members: (n, n_labels) bool: which labels each image has.
        most: how many to return.

    Returns:
        The overlays, those first whose share of carriers differs most between the labels.
    """
    grey = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    found: list[Overlay] = []
    for held in _groups(members):
        for overlay in [*_even_areas(grey, held, None), *_by_edges(grey, held)]:
            enough = overlay.carriers.sum() >= _FEWEST
            if enough and not any(_overlap(overlay.mask, other.mask) > 0.5 for other in found):
                found.append(overlay)
    return sorted(found, key=lambda overlay: (-_contrast(overlay, members), -overlay.mask.sum()))[:most]


def _groups(members: np.ndarray) -> list[np.ndarray]:
    """Rows of all images and of each label with enough of them."""
    rows = [np.arange(len(members)), *(np.flatnonzero(column) for column in members.T)]
    return [held for held in rows if len(held) >= 2 * _FEWEST]


def _contrast(overlay: Overlay, members: np.ndarray) -> float:
    """How differently the labels carry it: the largest share less the smallest."""
    shares = [overlay.carriers[column].mean() for column in members.T if column.any()]
    return float(max(shares) - min(shares)) if shares else 0.0


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, min(a.sum(), b.sum())))


def _by_edges(grey: np.ndarray, held: np.ndarray) -> list[Overlay]:
    """Edges that stand still, with the even areas beside them."""
    direction, share = _mean_direction(grey[held])
    stands = np.abs(direction) > np.maximum(_STANDS, _SIGMAS * np.sqrt(share.mean() / len(held)))
    reach = _reach(grey)
    result: list[Overlay] = []
    for part in _parts(stands, reach):
        ridge = part & stands
        carriers = _shares_of_ridge(grey, ridge, direction) > _CARRIES
        if carriers[held].sum() < _FEWEST:
            continue
        areas = _even_areas(grey, np.flatnonzero(carriers), ndimage.binary_dilation(part, iterations=2 * reach))
        result += areas
        rest = ridge & ~np.logical_or.reduce([np.zeros_like(part), *(area.mask for area in areas)])
        for own in _parts(rest, reach):
            filled = ndimage.binary_fill_holes(own)
            filled = own if filled.mean() > _LARGEST else filled  # the rim of the field of view, not what is in it
            mask = ndimage.binary_dilation(filled, iterations=reach)
            lines = float((own & rest).sum() / max(1, filled.sum()))
            carriers = _shares_of_ridge(grey, own & rest, direction) > _CARRIES
            result.append(Overlay(_kind(mask, lines), mask, carriers))
    return result


def _reach(grey: np.ndarray) -> int:
    """Pixels over which parts of one overlay (its letters) are joined."""
    return max(1, round(int(grey.shape[1]) / 100))


def _parts(ridge: np.ndarray, reach: int) -> list[np.ndarray]:
    """Connected parts of a sensible size, gaps of a few pixels closed."""
    joined = ndimage.binary_closing(np.pad(ridge, reach), np.ones((3, 3)), reach)[reach:-reach, reach:-reach]
    labels, _ = ndimage.label(joined, np.ones((3, 3)))
    parts = []
    for index, area in enumerate(ndimage.find_objects(labels), start=1):
        part = labels == index
        size = (area[0].stop - area[0].start) * (area[1].stop - area[1].start) / part.size
        if size > _SMALLEST and (part & ridge).sum() >= 8:
            parts.append(part)
    return parts


def _kind(mask: np.ndarray, lines: float) -> str:
    """What a mask is, by its shape and by how much of it is edges."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    full = mask.sum() / ((rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1))
    if lines > 0.5 and not _touches_rim(mask):
        return "text"
    return "box" if full > 0.7 else "border" if _touches_rim(mask) else "text"


def _even_areas(grey: np.ndarray, held: np.ndarray, beside: np.ndarray | None) -> list[Overlay]:
    """Dark or light areas that are the same in all of some images, all of them or those beside given edges."""
    mean, spread = grey[held].mean(0), grey[held].std(0)
    even = (spread < _EVEN) & ((mean < _DARK) | (mean > _LIGHT))
    thin = 2 * _reach(grey)
    opened = ndimage.binary_opening(np.pad(even, thin, mode="edge"), iterations=thin)
    labels, n = ndimage.label(opened[thin:-thin, thin:-thin])
    result = []
    for index in range(1, n + 1):
        area = labels == index
        if not 0.005 < area.mean() < _LARGEST or (beside is not None and not (area & beside).any()):
            continue
        off = np.abs(grey[:, area] - mean[area])
        carriers = (off < 2 * _EVEN).mean(1) > 0.97
        mask = ndimage.binary_dilation(area, iterations=_reach(grey))
        result.append(Overlay(_kind(mask, 0.0), mask, carriers))
    return result


def _touches_rim(mask: np.ndarray) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def _directions(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of the gradient as complex numbers, 0 where there is no sharp edge, and where there is one."""
    across = np.zeros_like(grey)
    down = np.zeros_like(grey)
    across[:, :, 1:-1] = (grey[:, :, 2:] - grey[:, :, :-2]) / 2
    down[:, 1:-1] = (grey[:, 2:] - grey[:, :-2]) / 2
    size = np.hypot(across, down)
    sharp = size > _EDGE
    return np.where(sharp, (across + 1j * down) / np.maximum(size, 1e-6), 0).astype(np.complex64), sharp


def _mean_direction(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) mean unit vector of the gradient, and share of images with a sharp edge."""
    total = np.zeros(grey.shape[1:], np.complex64)
    count = np.zeros(grey.shape[1:], np.float32)
    for start in range(0, len(grey), 32):  # in blocks, for memory
        unit, sharp = _directions(grey[start : start + 32])
        total += unit.sum(0)
        count += sharp.sum(0)
    return total / len(grey), count / len(grey)


def _shares_of_ridge(grey: np.ndarray, ridge: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """(n,) share of the overlay's edges that each image shows, pointing the same way."""
    rows, columns = np.nonzero(ridge)
    top, left = max(rows.min() - 1, 0), max(columns.min() - 1, 0)
    window = np.s_[:, top : rows.max() + 2, left : columns.max() + 2]
    wanted = direction[rows, columns] / np.abs(direction[rows, columns])
    unit = _directions(grey[window])[0][:, rows - top, columns - left]
    agree: np.ndarray = ((unit * wanted.conj()).real > 0.8).mean(1)
    return agree


def covered(images: np.ndarray, mask: np.ndarray, colour: Sequence[float]) -> np.ndarray:
    """The images with one even colour where the mask is; copies."""
    result = images.copy()
    result[:, mask] = np.asarray(colour, np.uint8)
    return result


def inpainted(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The images with the mask filled from around it; copies.

    Every masked pixel takes the nearest one outside, and the filling is then smoothed, so that no edge is left.
    """
    if mask.all():
        return images.copy()
    depth, (rows, columns) = ndimage.distance_transform_edt(mask, return_indices=True)
    result = images.copy()
    sigma = float(depth.max()) / 2
    for index, image in enumerate(images):
        filled = image[rows, columns].astype(np.float32)
        smooth = np.stack([ndimage.gaussian_filter(plane, sigma) for plane in np.moveaxis(filled, 2, 0)], 2)
        blend = np.clip(depth / max(sigma, 1.0), 0, 1)[..., None]
        mixed = filled + blend * (smooth - filled)
        result[index, mask] = mixed[mask].round().clip(0, 255).astype(np.uint8)
    return result


def pasted(images: np.ndarray, mask: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """The images with what the donors show where the mask is; copies."""
    result = images.copy()
    result[:, mask] = donors[:, mask]
    return result
