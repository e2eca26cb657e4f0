"""Which labels a pool's images have, by what a run was made with."""

from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image

from medclf.dataset.scan import file_hash
from medclf.errors import DataError
from medclf.run.labels_so_far import Pool, Said, codes_of, known_labels, labels_said, second_reader, vocab_of


def test_an_image_without_a_finding_is_labelled_and_one_of_an_unknown_label_is_not(tmp_path):
    names = ["a.png", "b.png", "c.png", "d.png"]
    table = pd.DataFrame({"path": names, "problem": ""}).assign(
        label=pd.Series([("x", "y"), (), None, ()], dtype=object),
        unknown=pd.Series([(), (), (), ("y",)], dtype=object),
    )
    learner = SimpleNamespace(dls=SimpleNamespace(table=table, path=tmp_path))
    known, *_ = known_labels(learner, Pool(tmp_path, names), labels_said(None), [])
    assert known == {"a.png": "x|y", "b.png": "(none)"}
    assert codes_of(list(known.values()), ["x", "y"], True).tolist() == [[1, 1], [0, 0]]


def test_a_label_in_another_spelling_is_refused_with_the_class_that_is_meant():
    with pytest.raises(DataError, match=r"'NONE ' is none of the classes\nwrite it as 'none'"):
        codes_of(["growth", "NONE "], ["growth", "none"], False)


def sheet(tmp_path, name, *rows, header="path,label,mark"):
    (tmp_path / name).write_text("\n".join([header, *rows]) + "\n")
    return tmp_path / name


def test_what_a_reader_says_wins_over_the_run_and_what_is_gone_is_counted(tmp_path):
    names = ["a.png", "b.png", "c.png", "scan.tif#0", "gone.png"]
    table = pd.DataFrame({"path": names, "label": "x", "problem": ""})
    learner = SimpleNamespace(dls=SimpleNamespace(table=table, path=tmp_path))
    Image.new("L", (4, 4)).save(tmp_path / "scan.tif")
    said = labels_said(sheet(tmp_path, "said.csv", "a.png,,poor image", "b.png,y,unsure", "c.png,,unsure"))
    assert said == Said({"b.png": "y"}, {"a.png"}, {"c.png"})
    known, extra, gone, _ = known_labels(learner, Pool(tmp_path, names[:3]), said, [])
    assert known == {"b.png": "y"} and gone == 1
    assert [(one.file, one.label) for one in extra] == [((tmp_path / "scan.tif#0").resolve(), "x")]
    with pytest.raises(DataError, match=r"the pool has no image a\.png"):
        known_labels(None, Pool(tmp_path, names[1:]), said, [])


def test_two_readers_several_labels_have_no_order(tmp_path):
    first = labels_said(sheet(tmp_path, "a.csv", "a.png,x|y,", "b.png,x,", "c.png,(none),"))
    second = sheet(tmp_path, "b.csv", "a.png,y | x,", "b.png,y,", "c.png,(none),")
    assert second_reader(first, second, several=True)[0] == {"b.png": "y"}


def test_labels_that_both_sheets_had_before_are_no_agreement(tmp_path):
    before = [f"{name}.png,x,,{said}" for name, said in zip("abcdef", ["yes", "Yes", "YES"] * 2, strict=True)]
    header = "path,label,mark,earlier"
    first = sheet(tmp_path, "a.csv", *before, "g.png,x,,", "h.png,y,,", header=header)
    second = sheet(tmp_path, "b.csv", *before, "g.png,y,,", "h.png,y,,", header=header)
    differ, told = second_reader(labels_said(first), second)
    assert differ == {"g.png": "y"} and told[0].startswith("Two readers labelled 2 images and differ on 1:")
    same = sheet(tmp_path, "c.csv", *before, header=header)
    with pytest.raises(DataError, match="no image in common that two readers labelled"):
        second_reader(labels_said(same), same)


def test_a_sheet_that_says_something_else_is_refused(tmp_path):
    with pytest.raises(DataError, match="row 2: the mark 'poor' is unknown"):
        labels_said(sheet(tmp_path, "a.csv", "a.png,x,", "b.png,x,poor"))
    with pytest.raises(DataError, match="row 1 names no image"):
        labels_said(sheet(tmp_path, "b.csv", ",x,"))
    with pytest.raises(DataError, match=r"none\.csv is not filled in"):
        labels_said(sheet(tmp_path, "none.csv"))
    review = sheet(tmp_path, "review.csv", "a.png,x,label wrong,y", header="path,label,mark,new_label")
    with pytest.raises(DataError, match=r"review\.csv is a review: its column 'label'") as error:
        labels_said(review)
    assert error.value.remedy.endswith("the review to a training as corrections")


def test_labels_come_as_a_table_too_and_by_names_that_begin_with_the_folder(tmp_path):
    table = pd.DataFrame({"path": [tmp_path / "a.png", "b/c.png", "d.png"], "label": ["x", "y", None]})
    for given in (table, table.set_index("path")["label"], {str(tmp_path / "a.png"): "x", "b/c.png": "y"}):
        assert labels_said(given, tmp_path).labels == {"a.png": "x", "b/c.png": "y"}
    for given in (["x"], pd.DataFrame({"path": ["a.png"]})):
        with pytest.raises(DataError, match=f"not a {type(given).__name__}"):
            labels_said(given)


def test_one_class_as_text_is_one_class():
    with pytest.raises(DataError, match="no two classes"):
        vocab_of("dark", None, [])


def test_copies_of_a_run_s_images_have_its_labels_wherever_they_lie(tmp_path):
    table = pd.DataFrame({"path": ["a.png", "b.tif#1", "c.png", "d.png"], "label": ["x", "y", "x", "y"], "problem": ""})
    learner = SimpleNamespace(
        dls=SimpleNamespace(table=table.assign(sha256=["1", "2", "3", "3"]), path=tmp_path / "gone")
    )
    pool = Pool(tmp_path, ["p.png", "q.tif#1", "q.tif#0", "r.png", "s.png"], ["1", "2", "2", "3", "4"])
    known, extra, gone, copies = known_labels(learner, pool, labels_said(None), [])
    assert known == {"p.png": "x", "q.tif#1": "y"} and copies == 2  # two readers of image 3 differ
    assert extra == [] and gone == 0


def test_a_file_that_is_another_one_now_has_no_label_of_the_run(tmp_path):
    """Written over since the training, it kept the label of what it had shown."""
    names = ["same.png", "other.png", "out/same.png", "out/other.png"]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), number).save(tmp_path / name)
    digests = [file_hash(tmp_path / name) for name in names]
    table = pd.DataFrame({"path": names, "label": "x", "problem": "", "sha256": [digests[0], "1", digests[2], "2"]})
    learner = SimpleNamespace(dls=SimpleNamespace(table=table, path=tmp_path))
    known, extra, gone, _ = known_labels(learner, Pool(tmp_path, names[:2], digests[:2]), labels_said(None), [])
    assert known == {"same.png": "x"} and gone == 2
    assert [(one.file, one.digest) for one in extra] == [((tmp_path / names[2]).resolve(), digests[2])]


def test_one_sheet_is_not_that_of_two_readers(tmp_path):
    """It agreed with itself, with a kappa of 1."""
    file = sheet(tmp_path, "a.csv", "a.png,x,", "b.png,y,")
    with pytest.raises(DataError, match=r"a\.csv is given as the sheet of both readers"):
        second_reader(labels_said(file), tmp_path / "." / "a.csv", labels=str(file))


def test_a_blank_beside_a_class_is_none_of_its_name():
    """A sheet's cells come back without it, and were refused."""
    assert vocab_of([" polyp", "normal "], None, []) == ["polyp", "normal"]
    with pytest.raises(DataError, match="is there twice"):
        vocab_of([" polyp", "polyp"], None, [])
