"""What an audit can find: the column `kind` of its findings."""

from __future__ import annotations

PAIR_KINDS = ("same-file", "same-pixels", "near-duplicate")
KINDS = {  # kind: one, several
    "corrupt": ("image cannot be used", "images cannot be used"),
    "same-file": ("pair of identical files", "pairs of identical files"),
    "same-pixels": ("pair of files with identical pixels", "pairs of files with identical pixels"),
    "near-duplicate": ("pair of near-duplicates", "pairs of near-duplicates"),
    "label-conflict": (
        "pair of near-duplicates has different labels",
        "pairs of near-duplicates have different labels",
    ),
    "twin-across-split": (
        "pair of near-duplicates is split across training, validation or test set",
        "pairs of near-duplicates are split across training, validation or test set",
    ),
    "twin-of-two-patients": (
        "pair of near-duplicates is from two patients",
        "pairs of near-duplicates are from two patients each",
    ),
    "patient-across-split": (
        "patient is in more than one of training, validation and test set",
        "patients are in more than one of training, validation and test set",
    ),
    "size-tells-class": ("link between image size and class", "links between image size and class"),
    "depth-tells-class": ("link between file format and class", "links between file format and class"),
    "overlay-tells-class": ("border or overlay tied to the class", "borders or overlays tied to the class"),
    "colour-tells-class": (
        "colour of the whole picture tied to the class",
        "colours of the whole picture tied to classes",
    ),
}
