"""Training from a stage on, with what lies below kept or run without gradients, against freezing by hand; sizes."""

import copy
from functools import partial

import fastai.callback.progress  # noqa: F401 - gives Learner its no_bar
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.optimizer import SGD
from PIL import Image
from torch import nn

from medclf.errors import DataError, MedclfError
from medclf.learn.callbacks import Resumable
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.features import image_features
from medclf.learn.growing_sizes import check_sizes
from medclf.learn.learner import med_learner
from medclf.learn.linear_probe import LinearProbe
from medclf.learn.partial import KeptFeatures, training_from
from medclf.learn.prediction import predict_loader
from medclf.learn.training import MedLearner
from medclf.models.backbones import build_network
from medclf.models.frozen_prefix import FrozenPrefix
from medclf.models.stages import is_chain, stage_index, stage_names, stages

pytestmark = pytest.mark.usefixtures("shallow_networks")
PLAIN_SGD = partial(SGD, mom=0.9)


@pytest.fixture(scope="module")
def folder(draw_colours):
    return draw_colours(4, 60)


def make(folder, modality=None, cache=True, arch="resnet18", mixed_precision=False, **kwargs):
    """A learner that is the same each time."""
    torch.manual_seed(0)
    dls = MedDataLoaders.from_folder(
        folder, size=64, modality=modality, split="stratified", seed=1, cache=cache, bs=4, progress=False
    )
    learn = med_learner(dls, arch, weights=None, linear_probe=True, mixed_precision=mixed_precision, **kwargs)
    learn.head = LinearProbe(0.01, 18, 512, 5, 0.0)  # a random head, so that there is much to learn
    learn.start = {name: value.clone() for name, value in learn.model.state_dict().items()}
    torch.manual_seed(1)
    return learn


def tune(learn, epochs=2, **kwargs):
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(epochs, 1e-3, **kwargs)
    return learn


def by_hand(learn, stage, epochs=2, **kwargs):
    """The same training with requires_grad off and the modules below in eval, and nothing of `partial` in it."""
    below = nn.ModuleList(stages(learn.model)[: stage_names(learn.model).index(stage)])

    class Off(Callback):
        order = 1

        def before_fit(self):
            for parameter in below.parameters():
                parameter.requires_grad = False

        def before_train(self):
            below.eval()

    return tune(learn, epochs, cbs=Off(), **kwargs)


def difference(a, b, start):
    """How far two trainings end apart, as a share of the way they came."""
    ends, other, begin = (
        torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (a.model, b.model, start)
    )
    assert (ends - begin).norm() > 0, "nothing was trained"
    return float((ends - other).norm() / (ends - begin).norm())


class Watch(Callback):
    """What the network is given, and whether it is run from a cut."""

    def __init__(self):
        self.seen, self.cut = set(), set()

    def before_batch(self):
        self.seen.add((self.learn.training, tuple(self.learn.xb[0].shape[1:])))
        self.cut.add(isinstance(self.learn.model, FrozenPrefix))


@pytest.mark.parametrize(("freeze_bn", "half", "apart"), [(True, True, 0.02), (False, False, 0.001)])
def test_kept_features_train_to_the_same_weights(folder, freeze_bn, half, apart, monkeypatch):
    """With SGD, whose steps are as small as the gradients; Adam's are as large for a gradient that is but rounding."""
    if not half:
        monkeypatch.setattr("medclf.learn.partial._HALF_HOLDS", 0)
    options = {"freeze_bn": freeze_bn, "blend": 1.0}
    start, watch = copy.deepcopy(make(folder).model), Watch()
    learn = tune(make(folder, opt_func=PLAIN_SGD), train_from="layer4", cbs=watch, **options)
    peer = by_hand(make(folder, opt_func=PLAIN_SGD), "layer4", **options)
    assert watch.cut == {True} and {shape for _, shape in watch.seen} == {(256, 4, 4)}
    assert difference(peer, learn, start) < apart
    for name, value in learn.model.state_dict().items():
        if not name.startswith(("0.layer4", "1.")):
            assert torch.equal(value, start.state_dict()[name]), name
    assert type(learn.model) is nn.Sequential and all(p.requires_grad for p in learn.model.parameters())
    assert learn.dls.train.one_batch()[0].shape[1:] == (3, 64, 64)


@pytest.mark.parametrize("modality", [None, "endoscopy"])
def test_head_and_features_come_of_what_is_kept(folder, modality):
    """Not an image passes the stages below twice, and what comes of it is the same to the rounding of float16."""
    apart = {"rtol": 0, "atol": 1e-2 if modality is None else 1e-5}
    whole, cut = make(folder, modality), make(folder, modality)
    cut.model.load_state_dict(whole.model.state_dict())
    whole.fit_head(progress=False)
    with training_from(cut, "layer4"):
        stems = []
        hook = cut.model[0][0].register_forward_pre_hook(lambda _, inputs: stems.append(len(inputs[0])))
        cut.fit_head(progress=False)
        kept, _ = image_features(cut.model, cut.dls.train)
        predicted = predict_loader(cut, cut.dls.valid)
        hook.remove()
    assert bool(stems) == (modality is not None)
    assert cut.head.n_features == whole.head.n_features == 512
    exact, _ = image_features(whole.model, whole.dls.train)
    np.testing.assert_allclose(kept, exact, **apart)
    np.testing.assert_allclose(cut.head.features, whole.head.features, **apart)
    np.testing.assert_allclose(predicted.probs, predict_loader(whole, whole.dls.valid).probs, atol=0.02)


@pytest.mark.parametrize("modality", [None, "endoscopy"], ids=["kept", "run again"])
@pytest.mark.parametrize("in_bf16", [False, True])
def test_features_are_as_precise_as_what_they_are_made_of(folder, modality, in_bf16):
    learn, dtypes = make(folder, modality, mixed_precision=in_bf16), set()
    exact, _ = image_features(learn.model, learn.dls.train)
    with training_from(learn, "layer4"):
        pool = learn.model[1][0]
        hook = pool.register_forward_pre_hook(lambda _, inputs: dtypes.add(inputs[0].dtype))
        features, _ = image_features(learn.model, learn.dls.train)
        hook.remove()
    rounded = in_bf16 and modality is None
    assert dtypes == {torch.bfloat16 if rounded else torch.float32}
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, exact, rtol=0, atol=(0.03 if rounded else 2e-3) * np.abs(exact).max())


def test_what_is_run_without_gradients_trains_to_the_same_weights(folder):
    start, watch = copy.deepcopy(make(folder).model), Watch()
    learn = tune(make(folder, "endoscopy", opt_func=PLAIN_SGD), train_from="layer4", cbs=watch)
    peer = by_hand(make(folder, "endoscopy", opt_func=PLAIN_SGD), "layer4")
    assert {shape for _, shape in watch.seen} == {(3, 64, 64)}
    assert difference(peer, learn, start) < 0.001  # the norms below are folded
    for name, value in learn.model.state_dict().items():
        if not name.startswith(("0.layer4", "1.")):
            assert torch.equal(value, start.state_dict()[name]), name


def test_backward_stops_at_the_cut(folder):
    learn = make(folder, "endoscopy")
    gradients = []
    for number in (3, 4):
        learn.model[0].get_submodule(f"layer{number}").register_full_backward_hook(
            lambda *_, number=number: gradients.append(number)
        )
    tune(learn, 1, train_from="layer4")
    assert set(gradients) == {4}


def test_kept_once_and_found_again(folder, monkeypatch):
    learn = tune(make(folder), 1, train_from="layer3")
    kept = list(learn.dls.train.stores[1].folder.glob("stages-*.npy"))
    assert len(kept) == 1 and np.load(kept[0]).dtype == np.float16
    monkeypatch.setattr("medclf.learn.partial._compute", None)  # a second pass would fail
    tune(make(folder), 1, train_from="layer3")


def test_kept_features_are_what_the_stages_give(folder):
    learn = make(folder)
    with learn.training_from("layer4"):
        assert isinstance(learn.dls.train.stores[0], KeptFeatures)
        features, y = learn.dls.valid.one_batch()
    images, wanted = learn.dls.valid.one_batch()
    assert torch.equal(y, wanted)
    with torch.inference_mode():
        below = nn.Sequential(*stages(learn.model.eval())[:4])(images)
    torch.testing.assert_close(
        features.as_subclass(torch.Tensor), below.as_subclass(torch.Tensor), rtol=1e-3, atol=1e-3
    )


def test_values_beyond_float16_are_kept_whole(folder):
    learn = make(folder)
    with torch.no_grad():
        learn.model[0].layer3[-1].bn2.weight.mul_(1e6)
    with learn.training_from("layer4"):
        features = learn.dls.valid.one_batch()[0]
    assert features.abs().max() > 1e5 and features.isfinite().all()


def test_lr_find_and_other_fits_work_from_a_stage(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = make(folder)
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    with learn.training_from("layer4"), learn.no_bar(), learn.no_logging():
        learn.lr_find(num_it=6, show_plot=False, stop_div=False)
        assert all(torch.equal(value, before[name]) for name, value in learn.model.state_dict().items())
        learn.fit(1, 1e-3)
    changed = {name for name, value in learn.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(("0.layer4", "1.")) for name in changed)


def test_a_stage_that_is_not_there(folder):
    with pytest.raises(
        MedclfError, match="no stage 'layer9'\nchoose one of stem, layer1, layer2, layer3, layer4, head"
    ):
        tune(make(folder), train_from="layer9")
    with pytest.raises(MedclfError, match="cannot be kept"):
        tune(make(folder, cache=False), train_from="layer4", keep=True)


@pytest.mark.parametrize("arch", ["resnet50", "efficientnet_lite0", "timm/vit_tiny_patch16_224", "densenet121"])
def test_stages_have_names(arch):
    network = build_network(arch, 2, weights=None)
    names = stage_names(network)
    assert names[0] == "stem" and names[-1] == "head" and len(names) == len(stages(network)) == len(set(names))
    if arch != "resnet50":
        assert is_chain(network) == (not arch.startswith("timm"))
    assert stage_index(network, "layer4") == 4


@pytest.mark.parametrize("arch", ["resnet18", "efficientnet_lite0"])
def test_the_stages_below_and_the_network_from_the_cut_make_the_network(arch):
    network = build_network(arch, 3, weights=None).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for cut in (1, 4, len(stages(network)) - 1):
            below = nn.Sequential(*stages(network)[:cut])(x)
            torch.testing.assert_close(FrozenPrefix(network, cut).eval()(below), network(x))
    assert list(FrozenPrefix(network, 2).state_dict()) == list(network.state_dict())


def test_networks_that_are_no_chain_are_run_without_gradients(folder):
    start, watch = copy.deepcopy(make(folder, arch="timm/resnet10t").model), Watch()
    learn = tune(make(folder, arch="timm/resnet10t"), 1, train_from="layer4", cbs=watch)
    assert isinstance(learn, MedLearner) and not is_chain(learn.model) and watch.cut == {False}
    changed = {
        name for name, value in learn.model.named_parameters() if not torch.equal(value, start.get_parameter(name))
    }
    assert changed and all(name.startswith(("0.net.layer4", "1.")) for name in changed)
    with pytest.raises(MedclfError, match="cannot be kept"), learn.training_from("layer4", keep=True):
        pass


class Killed(Exception):
    pass


class Kill(Callback):
    order = 99

    def after_batch(self):
        if self.learn.training and (self.learn.epoch, self.learn.iter) == (1, 1):
            raise Killed("now")


@pytest.mark.parametrize(
    ("modality", "options"),
    [(None, {"train_from": "layer4"}), ("endoscopy", {"train_from": "layer4", "size": (32, 64)})],
)
@pytest.mark.filterwarnings("ignore:the training goes on")
def test_a_killed_training_goes_on_to_the_same_bits(folder, tmp_path, modality, options):
    unbroken = tune(make(folder, modality), **options).model.state_dict()
    with pytest.raises(Killed):
        tune(make(folder, modality), cbs=[Resumable(tmp_path / "a"), Kill()], **options)
    learn = make(folder, modality)
    torch.rand(5)  # another process has drawn other numbers by then
    tune(learn, cbs=Resumable(tmp_path / "a"), **options)
    for name, value in learn.model.state_dict().items():
        assert torch.equal(value, unbroken[name]), name
    assert learn.dls.train.epoch == 2


@pytest.mark.slow
@pytest.mark.parametrize("modality", [None, "endoscopy"])
@pytest.mark.filterwarnings("ignore:the training goes on")
def test_a_kill_after_the_stages_below_were_trained(folder, tmp_path, modality):
    """What is kept or folded is made anew of the weights that the checkpoint brings back."""

    def both(learn, *cbs):
        tune(learn, 1, cbs=list(cbs), blend=1.0)
        return tune(learn, 2, cbs=list(cbs), train_from="layer4", blend=1.0)

    class KillLater(Kill):
        fits = -1

        def before_fit(self):
            self.fits += 1

        def after_batch(self):
            if self.fits == 1:
                super().after_batch()

    unbroken = both(make(folder, modality)).model.state_dict()
    with pytest.raises(Killed):
        both(make(folder, modality), Resumable(tmp_path / "a"), KillLater())
    again = both(make(folder, modality), Resumable(tmp_path / "a")).model.state_dict()
    assert all(torch.equal(value, unbroken[name]) for name, value in again.items())


# --- sizes ------------------------------------------------------------------------------------------------------


class Sides(Callback):
    def __init__(self):
        self.train, self.valid = [], set()

    def before_batch(self):
        side = tuple(self.learn.xb[0].shape[-2:])
        if self.learn.training and self.learn.iter == 0:
            self.train.append(side)
        if not self.learn.training:
            self.valid.add(side)


@pytest.mark.parametrize("modality", [None, "endoscopy"])
def test_the_epochs_are_shared_among_the_sizes(folder, modality):
    learn, sides = make(folder, modality), Sides()
    tune(learn, 3, size=(32, 64), cbs=sides)
    assert sides.train == [(32, 32), (32, 32), (64, 64)]
    assert sides.valid == {(64, 64)}
    assert learn.dls.train.one_batch()[0].shape[-2:] == (64, 64)
    assert learn.spec.preprocessing.size == (64, 64)
    assert [tfm for tfm in learn.dls.train.after_batch.fs if type(tfm).__name__ == "Shrink"] == []


def test_the_smaller_images_are_reduced_with_antialiasing(folder):
    """A batch at 32 pixels against Pillow's reduction of the pixels in the store."""
    learn = make(folder)
    seen = {}

    class Take(Callback):
        def before_batch(self):
            seen.setdefault("x", self.learn.xb[0].clone())

    tune(learn, 1, size=(32, 64), cbs=Take())
    mean, std = (np.array(getattr(learn.spec.normalization, key)) for key in ("mean", "std"))
    store, items = learn.dls.train.stores[1], learn.dls.train.dataset.items
    shown = (seen["x"].permute(0, 2, 3, 1).numpy() * std + mean) * 255
    reduced = [
        np.asarray(Image.fromarray(store.pixels[row]).resize((32, 32), Image.Resampling.BILINEAR), float)
        for row in store.rows(items)
    ]
    for image in shown:
        assert min(np.abs(image - wanted).max() for wanted in reduced) < 1.01


@pytest.mark.parametrize(
    ("sizes", "why"),
    [((16, 64), "32 or more"), ((96, 64), "end with the largest"), ((32, 48), "end with 64"), ((), "32 or more")],
)
def test_sizes_that_cannot_be(sizes, why):
    with pytest.raises(DataError, match=why):
        check_sizes(sizes, [64, 64])
