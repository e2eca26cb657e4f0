"""The fields that a model takes beside an image, over real connections."""

from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from medclf.models.tabular import TableEncoder
from medclf.serving.app import create_app, running

from .conftest import Brightness

PNG = {"Content-Type": "image/png"}


class WithAge(Brightness):
    """Its probability of "light" is the age in centuries; half, where that is unknown."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder, _ = TableEncoder.fit({"age": [20, 40, 60], "site": ["arm", "leg", "<b>"]})
        self.fields, self.check_fields = self._encoder.described(), self._encoder.check

    def predict_pixels(self, pixels: np.ndarray, fields: Any = None) -> list[SimpleNamespace]:
        assert len(fields) == len(pixels)
        return [self.answer(float(row.get("age", 50)) / 100) for row in fields]


@pytest.fixture
def served(quick_decoder: type) -> Any:
    with running(create_app(WithAge())) as url:
        yield url


def test_fields_are_listed_and_used(served: str, picture: Any) -> None:
    assert [one["name"] for one in httpx.get(f"{served}/v1/model").json()["fields"]] == ["age", "site"]
    for fields, light in ((["age=80", "site=arm"], 0.8), (["age=30"], 0.3), ([], 0.5), (["site=toe"], 0.5)):
        answer = httpx.post(f"{served}/v1/predict", params={"field": fields}, content=picture(), headers=PNG)
        assert answer.json()["probs"]["light"] == pytest.approx(light)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (["age=old"], "must be a number"),
        (["age=3", "age=4"], "twice"),
        (["agee=3"], "no field 'agee'"),
        (["age"], "NAME=VALUE"),
        (["=3"], "NAME=VALUE"),
    ],
)
def test_wrong_fields_are_refused_by_name(served: str, picture: Any, fields: list[str], said: str) -> None:
    answer = httpx.post(f"{served}/v1/predict", params={"field": fields}, content=picture(), headers=PNG)
    assert answer.status_code == 422 and said in answer.json()["error"] and answer.json()["remedy"]


@pytest.mark.parametrize("query", ["fields=age=3", "Field=age=3", "age=3"])
def test_a_field_given_by_another_parameter_is_refused(served: str, picture: Any, query: str) -> None:
    answer = httpx.post(f"{served}/v1/predict?{query}", content=picture(), headers=PNG)
    assert answer.status_code == 422 and "field" in answer.json()["remedy"]


def test_a_model_without_fields_refuses_them(quick_decoder: type, picture: Any) -> None:
    with running(create_app(Brightness())) as url:
        assert httpx.get(f"{url}/v1/model").json()["fields"] == []
        answer = httpx.post(f"{url}/v1/predict?field=age=3", content=picture(), headers=PNG)
        assert answer.status_code == 422 and "takes no fields" in answer.json()["error"]
