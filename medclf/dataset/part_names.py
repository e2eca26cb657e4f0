"""Which partition a name speaks of: train, valid or test, as sets have it in several languages."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

# What parts of a set are called, without accents: in English, and as sets in other languages have it
_PART_NAMES = {
    "train": "train(?:ing|val)?|trn|entrenamiento|entrainement|apprentissage|treino|treinamento|addestramento|egitim"
    "|xunlian|训练|訓練|学習|학습|훈련|обучение",
    "valid": "val(?:id(?:at(?:e|ion))?)?|dev|validacion|validacao|validazione|validierung|validatie|walidacja|dogrulama"
    "|yanzheng|验证|驗證|検証|검증|валидация",
    "test": "test(?:ing)?|teste(?!s)|tst|pruebas?|ceshi|测试|測試|テスト|테스트|тест",
}
_PART = re.compile(
    r"(?:\d{1,2}[ ._)-]+|[a-z][.)] ?)?"  # 01_train, a. Training Set
    r"(?:(?:images?|imgs?|data|set|imagene?s|datos|dados|donnees|dati|conjunto|jeu)[ _-]?(?:d[eio][ _-]?)?)?"
    rf"(?:{'|'.join(f'(?P<{part}>{names})' for part, names in _PART_NAMES.items())})"
    r"(?:s?[ _-]?(?:set|data|images?|imgs?|split|part|folder|daten|bilder|satz|ji|集|数据|\d{1,4}|\(\d{1,4}\)))*"
)


def part_named(name: str) -> str | None:
    """The partition that a folder's name or a cell speaks of.

    Example:
        >>> part_named("Training"), part_named("val2017"), part_named("test_images"), part_named("testes")
        ('train', 'valid', 'test', None)
        >>> part_named("Validación"), part_named("训练集")
        ('valid', 'train')
    """
    plain = name.strip().lower()
    if not plain.isascii():
        plain = unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", plain)))
    found = _PART.fullmatch(plain)
    return found.lastgroup if found else None


def partition_of(path: str) -> str | None:
    """The partition that a folder above the file names; the nearest one counts.

    Args:
        path: path relative to the data's root, with forward slashes.

    Returns:
        "train", "valid", "test" or None.

    Example:
        >>> partition_of("export/VAL/polyp/1.jpg"), partition_of("polyp/test.jpg")
        ('valid', None)
    """
    return next(filter(None, map(part_named, reversed(PurePosixPath(path).parts[:-1]))), None)
