"""Which names speak of a partition, and which do not."""

import pytest

from medclf.dataset.layouts import labels_of_folders
from medclf.dataset.part_names import partition_of


@pytest.mark.parametrize(
    "path, partition",
    [
        ("TRAIN/a/1.png", "train"),
        ("deep/Val/a/1.png", "valid"),
        ("valid/x/a/1.png", "valid"),
        ("validation/a/1.png", "valid"),
        ("Test/1.png", "test"),
        ("validate/1.png", "valid"),
        ("a/test.png", None),
        ("training/1.png", "train"),
        ("testis/1.png", None),
        ("test/train/a/1.png", "train"),
        ("01_train/a/1.png", "train"),
        ("a. Training Set/1.png", "train"),
        ("2) Test/1.png", "test"),
        ("a train/1.png", None),
        ("stage_2_train/1.png", None),
    ],
)
def test_partition_names(path, partition):
    assert partition_of(path) == partition


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("Entrenamiento", "validaci\u00f3n", "pruebas"),
        ("entrai\u0302nement", "validation", "jeu_de_test"),
        ("Trainingsdaten", "Validierungsdaten", "Testbilder"),
        ("dados_treino", "validac\u0327a\u0303o", "teste"),
        ("xunlian", "yanzheng", "ceshi"),
        ("\u8bad\u7ec3\u96c6", "\u9a8c\u8bc1\u96c6", "\u6d4b\u8bd5\u96c6"),
        ("\u5b66\u7fd2", "\u691c\u8a3c", "\u30c6\u30b9\u30c8"),
    ],
)
def test_parts_are_known_in_other_languages(train, valid, test):
    paths = [f"{part}/{label}/1.png" for part in (train, valid, test) for label in ("ill", "well")]
    assert list(map(partition_of, paths)) == ["train"] * 2 + ["valid"] * 2 + ["test"] * 2
    assert labels_of_folders(paths) == (["ill", "well"] * 3, [""] * 6, [])
