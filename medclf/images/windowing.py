"""From stored values to grey levels: modality LUT, then VOI, then inversion (DICOM PS3.3 C.11, C.7.6.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from medclf.config import Window
from medclf.errors import MedclfError, argument, did_you_mean

SampleWindow = tuple[float, float] | str | None  # a window whose name is looked up: a pair, STRETCH or None
VOI_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
STRETCH = "stretch"  # from the smallest to the largest value of the image, whatever the file says

# Center and width in Hounsfield units, the usual ones for CT (Radiopaedia, "Windowing (CT)").
CT_WINDOWS: dict[str, tuple[float, float]] = {
    "abdomen": (50, 400),
    "bone": (400, 1800),
    "brain": (40, 80),
    "liver": (30, 150),
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
    "spine": (50, 250),
    "stroke": (40, 40),
    "subdural": (75, 215),
    "temporal bone": (600, 2800),
}


@dataclass(frozen=True)
class Lut:
    """A DICOM lookup table: input `first` gives entries[0]; inputs beyond an end give that end's."""

    entries: np.ndarray
    first: int
    bits: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Look each value up."""
        index = np.clip(values - self.first, 0, len(self.entries) - 1).astype(np.intp)
        return np.asarray(self.entries[index].astype(np.float64))


@dataclass(frozen=True)
class GreyRules:
    """What a DICOM header says about turning its stored values into grey levels."""

    bits_stored: int
    signed: bool = False
    inverted: bool = False
    slope: float = 1.0
    intercept: float = 0.0
    modality_lut: Lut | None = None
    voi_lut: Lut | None = None
    window: tuple[float, float] | None = None
    function: str = "LINEAR"
    padding: tuple[int, int] | None = None
    unit: str = ""

    @property
    def rescaled(self) -> bool:
        """Whether a modality transform changes the stored values."""
        return self.modality_lut is not None or (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def gives_negatives(self) -> bool:
        """Whether the modality transform's output can be negative."""
        if self.modality_lut is not None:
            return False
        low = -(1 << (self.bits_stored - 1)) if self.signed else 0
        high = low + (1 << self.bits_stored) - 1
        return min(low * self.slope, high * self.slope) + self.intercept < 0

    @property
    def spread(self) -> bool:
        """Whether the file says nothing of black and white, so that each image is spread over its own values."""
        return self.voi_lut is None and self.window is None and (self.bits_stored > 8 or self.rescaled)

    def with_voi_lut(self, lut: Lut | None) -> GreyRules:
        """The same rules with this VOI LUT."""
        return replace(self, voi_lut=lut)


def is_hounsfield(window: Window) -> bool:
    """Whether a window is one of the named ones for CT, in Hounsfield units."""
    return isinstance(window, str) and window != STRETCH


def resolve_window(window: Window) -> SampleWindow:
    """A window as (center, width): a pair as it is, a name from the CT windows; None and "stretch" as they are.

    Raises:
        MedclfError: no such name, or not a pair of numbers with a width of at least 1.

    Example:
        >>> resolve_window("lung")
        (-600, 1500)
    """
    if window is None:
        return None
    if isinstance(window, str):
        if window in ("none", STRETCH):
            return None if window == "none" else window
        if window not in CT_WINDOWS:
            known = (*CT_WINDOWS, STRETCH)
            remedy = did_you_mean(window, known) or f"give CENTER,WIDTH, or one of {', '.join(known)}"
            raise MedclfError(f"{argument('window')} has no name {window!r}", remedy)
        return CT_WINDOWS[window]
    try:
        center, width = (float(number) for number in window)
    except (TypeError, ValueError):
        raise MedclfError(
            f"{argument('window')} must be a center and a width, not {window!r}", "give two numbers or a name"
        ) from None
    if not (np.isfinite(center) and np.isfinite(width) and width > 0):
        raise MedclfError(
            f"{argument('window')} must have a width above 0, not {window!r}",
            "give a center and a width, such as 40 and 400",
        )
    return center, width


def voi_window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Modality values through a window, as fractions of the display's range.

    Args:
        values: after the modality transform.
        center: Window Center (0028,1050).
        width: Window Width (0028,1051).
        function: VOI LUT Function (0028,1056): LINEAR, LINEAR_EXACT or SIGMOID.

    Returns:
        float64 in [0, 1]. Source: DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Example:
        >>> voi_window(np.array([0.0, 50.0, 150.0]), 50, 101)
        array([0.005, 0.505, 1.   ])
        >>> voi_window(np.array([0.1, 0.25, 0.5]), 0.25, 0.5)  # narrower than 1: as LINEAR_EXACT
        array([0.2, 0.5, 1. ])
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT" or width < 1:  # LINEAR has no such width (PS3.3 C.11.2.1.2.1)
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:  # the formula's limit: a step
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def render_grey(stored: np.ndarray, rules: GreyRules, window: SampleWindow = None) -> np.ndarray:
    """Stored values to grey levels a reader would see: modality, then VOI, then MONOCHROME1's inversion.

    Where the file gives no window and none is asked for: pixels of 8 bits or fewer that are not rescaled
    are grey levels already and keep their full range; all others are spread from the image's own smallest
    to its largest value (padding left out), as viewers do. The range of Bits Stored would not
    do there: detectors seldom fill it, and most CT and MR files would come out all but black.

    Args:
        stored: any unsigned integer array; bits above `bits_stored` tell padding of such a value, and else nothing.
        rules: what the header says.
        window: (center, width) in place of the file's own VOI LUT or window; "stretch" spreads the values in any case.

    Returns:
        uint8 (0..255) where 8 bits or fewer are stored, else uint16 (0..65535); same shape.

    Example:
        >>> render_grey(np.array([0, 100, 300], np.uint16), GreyRules(bits_stored=12, inverted=True))
        array([65535, 43690,     0], dtype=uint16)
    """
    bits = rules.bits_stored
    patterns = stored & stored.dtype.type((1 << bits) - 1)
    with np.errstate(over="raise", invalid="raise"):
        if bits > 16:
            codes = patterns.astype(np.int64)
            return _grey_levels(codes, lambda: np.ones(codes.shape, bool), rules, window)
        # one table of every value a pixel can have, then one lookup a pixel
        codes = np.arange(1 << bits, dtype=np.int64)
        beyond = _padding_beyond(stored, rules)
        image = patterns.ravel() if beyond is None else patterns[~beyond]
        table = _grey_levels(codes, lambda: np.bincount(image, minlength=1 << bits) > 0, rules, window)
        levels = np.asarray(table.take(patterns))
        if beyond is not None:
            levels[beyond] = 0
        return levels


def _padding_beyond(stored: np.ndarray, rules: GreyRules) -> np.ndarray | None:
    """Which samples are padding of a value that Bits Stored cannot hold, by their whole bits; None where it can."""
    low, high = rules.padding or (0, 0)
    end = 1 << (rules.bits_stored - rules.signed)
    if -end * rules.signed <= low and high < end:
        return None
    whole = stored.view(f"i{stored.itemsize}") if rules.signed else stored
    beyond = (whole >= low) & (whole <= high)
    return None if beyond.all() else beyond


def _grey_levels(
    codes: np.ndarray, present: Callable[[], np.ndarray], rules: GreyRules, window: SampleWindow
) -> np.ndarray:
    """Grey level of each bit pattern; `present` says which occur in the image."""
    sign = 1 << (rules.bits_stored - 1)
    numbers = (codes ^ sign) - sign if rules.signed else codes
    values = rules.modality_lut(numbers) if rules.modality_lut else numbers * rules.slope + rules.intercept
    if window == STRETCH:
        fraction = _stretched(values, numbers, present(), rules.padding)
    elif window is not None:
        fraction = voi_window(values, *window)
    elif rules.voi_lut is not None:
        fraction = np.clip(rules.voi_lut(values) / ((1 << rules.voi_lut.bits) - 1), 0, 1)
    elif rules.window is not None:
        fraction = voi_window(values, *rules.window, rules.function)
    elif rules.spread:
        fraction = _stretched(values, numbers, present(), rules.padding)
    else:
        fraction = (numbers + (sign if rules.signed else 0)) / (2 * sign - 1)
    if rules.inverted:
        fraction = 1 - fraction
    if rules.padding is not None:  # no part of the image: background (PS3.3 C.7.5.1.1.2)
        fraction[(numbers >= rules.padding[0]) & (numbers <= rules.padding[1])] = 0
    peak, kind = (65535, np.uint16) if rules.bits_stored > 8 else (255, np.uint8)
    return np.floor(fraction * peak + 0.5).astype(kind)


def _stretched(
    values: np.ndarray, numbers: np.ndarray, present: np.ndarray, padding: tuple[int, int] | None
) -> np.ndarray:
    """From the smallest to the largest value present, padding left out."""
    if padding is not None:
        kept = present & ((numbers < padding[0]) | (numbers > padding[1]))
        present = kept if kept.any() else present
    low, high = values[present].min(), values[present].max()
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)
