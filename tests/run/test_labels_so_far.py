"""Which labels a pool's images have, by what a run was made with."""

from types import SimpleNamespace

import pandas as pd

from medclf.run.labels_so_far import Pool, codes_of, known_labels


def test_an_image_without_a_finding_is_labelled_and_one_of_an_unknown_label_is_not(tmp_path):
    names = ["a.png", "b.png", "c.png", "d.png"]
    table = pd.DataFrame({"path": names, "problem": ""}).assign(
        label=pd.Series([("x", "y"), (), None, ()], dtype=object),
        unknown=pd.Series([(), (), (), ("y",)], dtype=object),
    )
    learner = SimpleNamespace(dls=SimpleNamespace(table=table, path=tmp_path))
    known, _ = known_labels(learner, Pool(tmp_path, names), {}, [])
    assert known == {"a.png": "x|y", "b.png": "(none)"}
    assert codes_of(list(known.values()), ["x", "y"], True).tolist() == [[1, 1], [0, 0]]
