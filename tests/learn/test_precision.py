"""bfloat16 where the processor has it: in training alone, and what is predicted is float32's."""

from functools import partial

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException
from fastai.optimizer import SGD
from PIL import Image

from medclf.errors import MedclfError
from medclf.inference.bundle import save_bundle
from medclf.learn.assess import assess
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.interpretation import MedInterpretation
from medclf.learn.learner import med_learner
from medclf.learn.precision import TrainInBf16, has_bf16, precision
from medclf.learn.prediction import predict_loader
from medclf.learn.weights import KeepStatistics

FLAG = "_is_avx512_bf16_supported"


@pytest.fixture
def dls(tmp_path):
    rng = np.random.default_rng(0)
    for label, channel in {"blue": 2, "red": 0}.items():
        (tmp_path / label).mkdir()
        for i in range(6):
            pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[..., channel] += 60
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    return MedDataLoaders.from_folder(tmp_path, size=32, split="stratified", bs=4, progress=False, device="cpu")


def learner(dls, **kwargs):
    torch.manual_seed(0)
    return med_learner(dls, "resnet18", weights=None, linear_probe=False, **kwargs)


class Seen(Callback):
    """In which precision the network's last feature map came, in training and out of it; and the prediction."""

    order = TrainInBf16.order + 1

    def __init__(self):
        self.seen = set()

    def before_fit(self):
        self.hook = self.learn.model[0].register_forward_hook(lambda _, __, out: self.maps.append(out.dtype))
        self.maps = []

    def after_pred(self):
        self.seen.add((self.training, self.maps[-1], self.learn.pred.dtype))

    def after_fit(self):
        self.hook.remove()


def test_training_alone_is_in_bfloat16(dls):
    seen = Seen()
    learn = learner(dls, mixed_precision=True, cbs=seen)
    assert precision(learn) == "bfloat16"
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-4)
    assert seen.seen == {(True, torch.bfloat16, torch.float32), (False, torch.float32, torch.float32)}
    assert all(parameter.dtype == torch.float32 for parameter in learn.model.parameters())
    plain = learner(dls, mixed_precision=False)
    plain.model.load_state_dict(learn.model.state_dict())
    assert np.array_equal(predict_loader(learn, dls.valid).probs, predict_loader(plain, dls.valid).probs)


def test_it_trains_to_nearly_the_same(dls):
    ends = []
    for mixed in (False, True):
        learn = learner(dls, mixed_precision=mixed, opt_func=partial(SGD, mom=0), cbs=KeepStatistics())
        start = torch.cat([p.detach().flatten().clone() for p in learn.model.parameters()])
        torch.manual_seed(1)
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, 1e-4)
        ends.append(torch.cat([p.detach().flatten() for p in learn.model.parameters()]) - start)
    assert torch.cosine_similarity(*ends, dim=0) > 0.7  # 0.79 here; unrelated steps of this many weights have about 0


def test_a_batch_that_is_broken_off_leaves_nothing_on(dls):
    class Break(Callback):
        order = TrainInBf16.order + 1

        def after_pred(self):
            raise CancelBatchException

    learn = learner(dls, mixed_precision=True, cbs=Break())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-4)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(("has", "wanted"), [(True, "bfloat16"), (False, "float32")])
def test_the_processor_decides(dls, has, wanted, monkeypatch):
    monkeypatch.setattr(torch.cpu, FLAG, lambda: has)
    assert has_bf16("cpu") is has
    assert precision(learner(dls)) == wanted
    assert precision(learner(dls, mixed_precision=False)) == "float32"


def test_a_torch_that_does_not_know_is_taken_for_no(monkeypatch):
    monkeypatch.delattr(torch.cpu, FLAG)
    assert has_bf16("cpu") is False


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
def test_weights_of_another_precision_are_told_before_images_are_seen(dls, kind, tmp_path):
    learn = learner(dls)
    getattr(learn.model, kind)()
    calls = [assess, lambda learn: save_bundle(learn, tmp_path / "bundle"), lambda learn: learn.fit(1)]
    for call in [*calls, MedInterpretation.from_learner]:
        with pytest.raises(MedclfError, match=r"the network's weights are .*, and the images are float32"):
            call(learn)
    learn.model.float()
    assert len(predict_loader(learn, dls.valid))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_breaks_a_training_off_leaves_no_bfloat16_behind(dls, error):
    class BreakOff(Callback):
        order = TrainInBf16.order + 1

        def before_batch(self):
            raise error("broken off")

    learn = learner(dls, cbs=[TrainInBf16()], mixed_precision=False)
    before = predict_loader(learn, dls.valid).probs
    with pytest.raises(error), learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=BreakOff())
    assert not torch.is_autocast_enabled("cpu")
    np.testing.assert_array_equal(predict_loader(learn, dls.valid).probs, before)
    with torch.autocast("cpu", torch.bfloat16):  # a weight that is kept within it is forgotten after it
        weight = torch.ones(2, 2, requires_grad=True)
        torch.mm(weight, weight)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        weight += 1
        assert torch.mm(weight, weight)[0, 0] == 8
