"""A table's columns and the network's logits, through what a bundle keeps."""

import json

import pytest

from medclf.errors import BundleError
from medclf.models.table_fusion import Fusion
from medclf.models.tabular import TableEncoder
from medclf.models.tabular_fit import fit_fusion


def test_a_fusion_comes_back_from_json_and_a_damaged_one_is_refused(drawn):
    y, logits, rows = drawn
    encoder, _ = TableEncoder.fit(rows)
    fusion = fit_fusion(logits, encoder, rows, y).fusion
    values = json.loads(json.dumps(fusion.as_dict()))
    again = Fusion.from_dict(values, 2, False)
    assert again.logits(logits, rows) == pytest.approx(fusion.logits(logits, rows))
    fields = [{"hint": 1.0}, {}]
    some, blind = again.of_fields(logits[:2], fields)
    assert blind.tolist() == [False, True]
    assert some[1] == pytest.approx(fusion.logits(logits[1:2], {"hint": [None], "noise": [None]})[0])
    for wrong in ({"weight": values["weight"][:1]}, {"columns": [{"name": "x"}]}, {"bias": [float("nan"), 0.0]}):
        with pytest.raises(BundleError, match="table's part"):
            Fusion.from_dict({**values, **wrong}, 2, False)
