from pathlib import Path

import pytest

from medclf.dataset.folders import Finder, Tree
from medclf.dataset.layouts import labels_of_folders, masks_among, patients_of_folders
from medclf.errors import DataError


@pytest.mark.parametrize(
    "paths, labels",
    [
        (["a/1.png", "b/2.png"], ["a", "b"]),
        (["train/a/1.png", "Testing/b/2.png"], ["a", "b"]),
        (["a/Images/1.png", "b/Images/2.png"], ["a", "b"]),
        (["a/train/1.png", "b/val2017/2.png"], ["a", "b"]),
        (["set/images/1.png", "set/images/2.png"], [None, None]),  # one folder above tells nothing apart
        (["train/1.png", "images/2.png", "3.png"], [None, None, None]),
        (["a /1.png", "a/2.png"], ["a", "a"]),
    ],
)
def test_the_label_is_the_nearest_folder_that_names_a_class(paths, labels):
    assert labels_of_folders(paths)[0] == labels


def test_an_image_for_testing_needs_no_class():
    labels, problems, _ = labels_of_folders(["test_images/1.png", "train_images/2.png", "a/3.png"])
    assert labels == [None, None, "a"] and problems == ["", "no class folder above it", ""]


@pytest.mark.parametrize(
    "between", [["ann", "bob", "cy", "dan"], ["40X", "100X", "40X", "100X"]], ids=["patients", "magnifications"]
)
def test_classes_further_up_are_told_with_the_option_that_takes_them(between):
    paths = [f"{kind}/{name}/1.png" for kind, name in zip(["ill", "ill", "well", "well"], between, strict=True)]
    _, _, notes = labels_of_folders(paths)
    assert len(notes) == 1 and "label_from_parent=2 takes ill, well" in notes[0]
    labels, problems, notes = labels_of_folders(paths, parent=2)
    assert labels == ["ill", "ill", "well", "well"] and not any(problems) and not notes


@pytest.mark.parametrize("patient", ["patient{}", "P{}", "case_0{}"])
def test_folders_called_like_patients_are_no_classes(patient):
    """Patients were learned as classes, with a warning alone."""
    kinds = ["ill", "ill", "well", "well"]
    paths = [f"{kind}/{patient.format(n)}/images/1.png" for n, kind in enumerate(kinds)]
    labels, problems, notes = labels_of_folders(paths)
    assert labels == kinds and not any(problems) and "label_from_parent=1" in notes[0]
    assert patients_of_folders(paths) == [patient.format(n) for n in range(4)]
    sites = [f"{kind}/{'ab'[n % 2]}/{patient.format(n)}/1.png" for n, kind in enumerate(kinds)]
    labels, problems, _ = labels_of_folders(sites)
    assert labels == [None] * 4
    assert all("label_from_parent=2 takes a, b; label_from_parent=3 takes ill, well" in text for text in problems)
    assert labels_of_folders(sites, parent=3)[0] == kinds


def test_patients_without_a_class_above_are_refused_and_grades_are_classes():
    assert labels_of_folders(["set/patient1/1.png", "set/patient2/1.png"])[0] == [None, None]
    assert labels_of_folders(["p1/1.png", "p2/1.png"])[0] == ["p1", "p2"]
    stains = ["ill/p16/1.png", "ill/p53/2.png", "well/p16/3.png", "well/p53/4.png"]
    assert labels_of_folders(stains)[0] == ["p16", "p53", "p16", "p53"]
    graded = ["ill/grade1/1.png", "ill/grade2/2.png", "well/grade0/3.png", "well/p4/4.png"]
    assert labels_of_folders(graded)[0] == ["grade1", "grade2", "grade0", "p4"]


def test_partitions_above_classes_are_no_further_level():
    assert labels_of_folders(["train/a/1.png", "test/b/2.png"])[2] == []


def test_too_few_folders_and_no_such_level():
    labels, problems, _ = labels_of_folders(["a/b/1.png", "c/2.png"], parent=2)
    assert labels == ["a", None] and "fewer than 2 folders" in problems[1]
    with pytest.raises(DataError, match="must be 1 or more"):
        labels_of_folders(["a/1.png"], parent=0)


@pytest.mark.parametrize(
    "mask",
    ["a/1_mask.png", "a/1_mask_1.png", "a/1-segmentation.tif", "a/1_seg.png", "a/1_GT.bmp", "masks/1.png",
     "a/ground truth/1.png", "masks/1_mask.png", "a/mask_1.png", "a/1Mask.png", "a/1_superpixels.png", "a/1_roi.png",
     "b/1_overlay.png", "a/1_thumbnail.jpg"],
)  # fmt: skip
def test_a_mask_is_told_by_its_name_and_its_image(mask):
    assert masks_among(["a/1.png", "a/2.png", mask]) == [mask]


def test_the_two_endings_of_a_compressed_volume_are_none_of_its_name():
    """Masks of volumes were trained on, and a table's names of volumes without an ending were called missing."""
    volumes = ["a/1.nii.gz", "a/1_seg.nii.gz", "a/2.nii.gz", "a/2_flip.nii.gz"]
    assert masks_among(volumes) == ["a/1_seg.nii.gz"]
    assert "first 'a/2_flip.nii.gz'" in labels_of_folders(volumes)[2][0]
    finder = Finder(Path(), Tree(volumes))
    assert finder.find("2") == finder.find("a/2") == ("a/2.nii.gz", True) and finder.like("a/1.nii") == "a/1.nii.gz"


@pytest.mark.parametrize(
    ("mask", "images"),
    [
        ("p/p1_seg.nii.gz", ["p/p1_t1.nii.gz", "p/p1_flair.nii.gz"]),
        ("derivatives/s1_T1w_dseg.nii.gz", ["s1_T1w.nii.gz"]),
        ("labelsTr/b_001.nii.gz", ["imagesTr/b_001.nii.gz"]),
        ("labelsTr/b_002.nii.gz", ["imagesTr/b_002_0000.nii.gz", "imagesTr/b_002_0001.nii.gz"]),
        ("", ["p/p1_seg.nii.gz", "q/q_seg.png", "q/q_t1.png"]),
    ],
)
def test_masks_of_volumes(mask, images):
    assert masks_among([mask, *images] if mask else images) == ([mask] if mask else [])


def test_a_folder_around_all_images_makes_no_mask():
    """Its name tells what the set is for."""
    assert masks_among(["Kvasir-SEG/images/1.png", "Kvasir-SEG/masks/1.png"]) == ["Kvasir-SEG/masks/1.png"]


def test_a_name_alone_makes_no_mask():
    assert masks_among(["CXR_png/1.png", "ManualMask/leftMask/1.png", "LungMasks/2.png"]) == [
        "ManualMask/leftMask/1.png"
    ]
    assert masks_among(["with_mask/1.png", "with_mask/2.png", "face_mask/9.png", "a/no_mask.png"]) == []


@pytest.mark.parametrize(
    "folder",
    [
        "ISIC_Training_Input",
        "Test_v2",
        "one training set",
        "holdout",
        "final-validation-b",
        "eval",
        "imagesTr",
        "trainA",
        "evalset",
    ],
)
def test_a_name_that_speaks_of_a_partition_and_is_not_read_so_is_told(folder):
    notes = labels_of_folders([f"{folder}/a/1.png", "b/2.png"])[2]
    assert any(f"not taken for one: {folder}" in note and "partition_col" in note for note in notes)


@pytest.mark.parametrize(
    "folder", ["train", "Testing", "val2017", "train (1)", "trainval", "testis", "contrast", "devices"]
)
def test_other_names_are_not(folder):
    assert not any("partition" in note for note in labels_of_folders([f"{folder}/a/1.png", "b/2.png"])[2])


def test_roles_masks_and_patients_are_known_in_other_languages():
    assert labels_of_folders(["ill/imágenes/1.png", "well/Bilder/2.png"])[0] == ["ill", "well"]
    assert labels_of_folders(["ill/paciente1/1.png", "well/Paciente 2/2.png"])[0] == ["ill", "well"]
    assert masks_among(["a/1.png", "a/1_mascara.png", "masques/1.png"]) == ["a/1_mascara.png", "masques/1.png"]
    assert masks_among(["a/1.png", "maske/1.png", "掩码/1.png"]) == ["maske/1.png", "掩码/1.png"]


@pytest.mark.parametrize(
    "copy",
    ["AugmentedAlzheimer/a/1.png", "augmented/a/1.png", "a/1_aug_3.png", "Augmented Images/a/1.png", "a/aug-1.png"],
)
def test_copies_that_were_augmented_before_are_told(copy):
    notes = labels_of_folders(["a/1.png", "b/2.png", copy])[2]
    assert any("1 of 3 images are augmented copies" in note and copy in note for note in notes)
    assert not labels_of_folders(["august/1.png", "b/laugh_2.png"])[2]


def test_a_class_that_is_called_test_is_told():
    labels, _, notes = labels_of_folders(["test/1.png", "control/2.png"])
    assert labels == [None, "control"]
    assert any("taken for a test set" in note and "rename the folder" in note for note in notes)


@pytest.mark.parametrize(
    ("above", "asked"), [("8863 8864 8865", True), ("SOB_14-1 SOB_14-2 SOB_9-7", True), ("fold1 fold2 fold3", False)]
)
def test_numbered_folders_above_the_classes_may_be_patients(above, asked):
    notes = labels_of_folders([f"{name}/{label}/1.png" for name in above.split() for label in "01"])[2]
    assert any("are patients, images of one may be in both" in note for note in notes) == asked
    assert sum("label_from_parent" in note for note in notes) == 1
    chosen = labels_of_folders([f"{label}/{name}/a/1.png" for name in above.split() for label in "01"], parent=3)[2]
    assert any("are patients, images of one may be in both" in note for note in chosen) == asked


def test_folders_above_that_cannot_be_the_classes_are_no_choice():
    """Patients, and the same name again, as archives are unpacked."""
    paths = [f"{place}/patient{n}/{label}/1.png" for n, place in enumerate("xyxy") for label in ("ill", "well")]
    (said,) = labels_of_folders(paths)[2]
    assert "label_from_parent=3 takes x, y" in said and "label_from_parent=2" not in said
    assert not labels_of_folders([f"{name}/{name}/{n}.png" for name in ("ill", "well") for n in "12"])[2]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("study1 study2", True),
        ("10006 10007 10008", True),
        ("s50414267 s50414268", True),
        ("1.3.6.1.4.1.9590.1 1.3.6.1.4.1.9590.2", True),
        ("0a1b2c3d 4e5f6a7b", True),
        ("patient_004_node_4 patient_009_node_4", True),
        ("benign_1 benign_2 malignant_01 malignant_02", True),
        ("AMD1 AMD2 DME1 DME2", True),
        ("grade_1 grade_2", False),
        ("T1 T2 N1 N2", False),
        ("COVID-19 pneumonia1 pneumonia2", False),
        ("feedface faceface", False),
        ("study1_positive study1_negative", False),
        ("01_TUMOR 02_STROMA", False),
    ],
)
def test_folders_called_like_patients_or_studies_are_no_classes(names, told):
    notes = labels_of_folders([f"{name}/{n}.png" for name in names.split() for n in "12"])[2]
    assert any("patients or studies, not like classes" in note and "labels" in note for note in notes) == told


def test_folders_within_a_class_are_told():
    notes = labels_of_folders(["ill/1.png", "ill/p1/2.png", "well/3.png", "well/p2/4.png"])[2]
    assert any("2 class folders lie within" in note and "'p1' within 'ill'" in note for note in notes)
    assert not labels_of_folders(["ill/1.png", "ill/images/2.png", "well/3.png"])[2]


def test_thumbnails_of_images_are_left_out():
    assert masks_among(["a/1.png", "b/2.png", "thumbnails/1.png", "a/thumbs/1.png"]) == [
        "thumbnails/1.png",
        "a/thumbs/1.png",
    ]
    assert masks_among(["healthy/1.png", "lesions/1.png"]) == []


def test_numbered_folders_of_images_are_no_classes():
    assert labels_of_folders(["images_001/1.png", "images_002/images/2.png"])[0] == [None, None]
    notes = labels_of_folders(["HAM10000_images_part_1/1.png", "HAM10000_images_part_2/2.png"])[2]
    assert any("pieces of one set" in note and "labels" in note for note in notes)
    assert not labels_of_folders(["grade_1/1.png", "grade_2/2.png"])[2]


@pytest.mark.parametrize(
    "copy",
    [
        "a/1_flip.png",
        "a/1-rot90.png",
        "a/1_hflip.png",
        "a/1_mirrored.png",
        "a/1 - Copy.png",
        "a/1 - Copy (2).png",
        "a/1 copy 2.png",
        "a/Copy of 1.png",
        "a/Kopie von 1.png",
        "a/1_rotated_by_15_deg.png",
        "a/1_brightness_0.8.png",
        "a/flip_1.png",
        "a/resized_1.png",
    ],
)
def test_turned_copies_are_told_where_their_image_is_there(copy):
    assert "augmented copies" in str(labels_of_folders(["a/1.png", "b/2.png", copy])[2])
    assert not labels_of_folders(["b/2.png", copy])[2]
    assert not labels_of_folders(["a/21.png", "b/2.png", copy])[2]


def test_images_in_two_formats_are_told():
    (said,) = labels_of_folders(["a/1.dcm", "a/1.png", "b/2.png", "b/1.png"])[2]
    assert "1 images are there with several endings, first 'a/1.dcm' and 'a/1.png'" in said
    assert not labels_of_folders(["a/IM.001", "a/IM.002", "b/1.2.840.113", "b/1.2.840.114", "b/x.v1.png"])[2]


def test_several_copies_of_one_image_from_roboflow_are_told():
    names = [f"a/1_jpg.rf.{digit * 32}.jpg" for digit in "0a"]
    assert "2 of 3 images are augmented copies" in str(labels_of_folders([*names, "b/2.png"])[2])
    assert not labels_of_folders([names[0], "b/2.png"])[2]


def test_class_folders_at_different_depths_are_told():
    notes = labels_of_folders(["benign/1.png", "malignant/ductal/2.png", "malignant/lobular/3.png"])[2]
    assert any("benign at the top, ductal, lobular within malignant" in note and "merge" in note for note in notes)
    assert not labels_of_folders(["train/a/1.png", "train/b/2.png", "extra/a/3.png", "extra/b/4.png"])[2]


def test_images_of_a_labelled_test_set_without_a_label_are_told():
    paths = ["train/a/1.png", "train/b/2.png", "test/a/3.png", "test/4.png"]
    assert "1 of 2 images of the test set lie in no class folder" in str(labels_of_folders(paths)[2])
    assert not labels_of_folders(["train/a/1.png", "train/b/2.png", "test/4.png"])[2]
