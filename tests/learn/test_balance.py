"""Rare classes count in training, and the logits stand for the training set's frequencies all the same."""

from functools import partial

import numpy as np
import pytest
import torch
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat
from PIL import Image

from medclf.errors import DataError, MedclfWarning
from medclf.learn.balance import BalancedBCE, BalancedCrossEntropy, label_shares, targets_of
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner
from medclf.learn.linear_probe import loss_weights
from medclf.models.balance import class_weights, draw_weights, drawn_as

BALANCES = ("loss", "sampling", "focal", "logits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve common images and four rare ones."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for label, n in {"common": 12, "rare": 4}.items():
        (folder / label).mkdir()
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / label / f"{i}.png")
    return folder


@pytest.fixture
def dls(folder):
    return MedDataLoaders.from_folder(folder, size=32, split="all", bs=4, cache=False, progress=False, device="cpu")


def best_constant(loss, targets, n_out, drawn=None):
    """The same logits for every image that minimise the loss on average, over as many draws as `drawn` asks for."""
    logits = torch.zeros(n_out, requires_grad=True)
    counts = np.ones(len(targets)) if drawn is None else drawn
    y = torch.from_numpy(np.repeat(targets, np.round(60 * counts / counts.min()).astype(int), axis=0))
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        value = loss(logits.expand(len(y), n_out), y)
        value.backward()
        return value

    optimizer.step(step)
    return logits.detach()


@pytest.mark.parametrize("balance", BALANCES)
def test_without_anything_to_go_by_the_answer_is_the_frequency(balance):
    """A network that can only answer the same for all images: of two classes, all losses are exact."""
    targets = np.array([0] * 9 + [1])
    drawn = draw_weights(targets, 2) if balance == "sampling" else None
    loss = BalancedCrossEntropy(balance, class_weights(targets, 2))
    found = best_constant(loss, targets, 2, drawn).softmax(0)
    assert found.numpy() == pytest.approx([0.9, 0.1], abs=0.01)


@pytest.mark.parametrize("balance", BALANCES)
def test_so_it_is_of_several_labels(balance):
    targets = np.array([[0, 0]] * 6 + [[0, 1]] * 3 + [[1, 1]])
    drawn = draw_weights(targets, 2) if balance == "sampling" else None
    weights = drawn_as(targets, 2) if balance == "sampling" else class_weights(targets, 2)
    found = best_constant(BalancedBCE(balance, weights), targets, 2, drawn).sigmoid()
    assert found.numpy() == pytest.approx([0.1, 0.4], abs=0.01)


def test_three_classes_by_weight_and_by_draw():
    targets = np.array([0] * 14 + [1] * 5 + [2])
    for balance, drawn in (("loss", None), ("sampling", draw_weights(targets, 3))):
        found = best_constant(BalancedCrossEntropy(balance, class_weights(targets, 3)), targets, 3, drawn).softmax(0)
        assert found.numpy() == pytest.approx([0.7, 0.25, 0.05], abs=0.01)


@pytest.mark.parametrize("balance", BALANCES)
def test_what_is_validated_is_the_plain_loss(balance):
    logits, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 0, 1])
    loss = BalancedCrossEntropy(balance, np.array([0.5, 2.0, 3.0]))
    with torch.no_grad():
        assert torch.equal(loss(logits, y), CrossEntropyLossFlat()(logits, y))
    if balance != "logits":
        assert not torch.allclose(loss(logits.requires_grad_(), y), CrossEntropyLossFlat()(logits, y))


def test_classes_are_drawn_as_often(dls):
    learn = med_learner(dls, "resnet18", weights=None, balance="sampling", mixed_precision=False)
    classes = targets_of(learn.dls.train)
    assert label_shares(learn.dls.train, 2).tolist() == [0.75, 0.25]
    draws = []
    for _ in range(60):
        learn.dls.train.randomize()
        draws.append(classes[learn.dls.train.get_idxs()])
    assert np.mean(draws) == pytest.approx(0.5, abs=0.06)
    assert sorted(learn.dls.train.new(shuffle=False).get_idxs()) == list(range(16))
    assert learn.dls.valid.weights is None


def test_a_balance_and_a_loss_function_exclude_each_other(dls):
    with pytest.raises(DataError, match="balance"):
        med_learner(dls, "resnet18", weights=None, balance="loss", loss_func=CrossEntropyLossFlat())


def test_a_loss_put_in_the_place_of_a_balance_is_refused(dls):
    learn = med_learner(dls, "resnet18", weights=None, balance="sampling", linear_probe=True)
    learn.loss_func = CrossEntropyLossFlat()
    for train in (learn.fit_head, partial(learn.fit_one_cycle, 1)):
        with pytest.raises(DataError, match=r'balance="sampling" has a loss function of its own'):
            train()


def test_other_loaders_have_a_balance_and_features_of_their_own(dls):
    learn = med_learner(dls, "resnet18", weights=None, balance="sampling", linear_probe=True, mixed_precision=False)
    learn.fit_head(progress=False)
    told, before = learn.head.held_out, learn.loss_func.weights
    learn.dls = dls
    assert learn.head.held_out is told and learn.is_probe
    rows = dls.table.groupby("label").head(4).assign(partition=None)
    rows.attrs = dict(dls.table.attrs)
    learn.dls = MedDataLoaders.from_table(rows[1:], size=32, split="all", bs=4, cache=False, progress=False)
    wanted = class_weights(targets_of(learn.dls.train), 2)
    assert learn.loss_func.weights.numpy() == pytest.approx(wanted) and not torch.equal(learn.loss_func.weights, before)
    assert learn.head.features is None and learn.head.held_out is None and learn.is_probe


@pytest.mark.parametrize("balance", ["none", "sampling"])
def test_an_export_holds_no_features_of_the_images_and_no_report(dls, tmp_path, balance):
    """With balance="sampling" it ended in a RuntimeError of torch."""
    learn = med_learner(dls, "resnet18", weights=None, balance=balance, linear_probe=True, mixed_precision=False)
    head = learn.fit_head(progress=False)
    learn.path, learn.last_assessment = tmp_path, (None, "a picture")
    learn.export("e.pkl")
    assert (learn.head, learn.last_assessment, learn.dls) == (head, (None, "a picture"), dls)
    assert learn.head.features is head.features and learn.is_probe
    there = load_learner(tmp_path / "e.pkl")
    assert there.head.features is None and there.start is None and "last_assessment" not in vars(there)
    assert there.predict(dls.valid.items[0])[2].sum() == pytest.approx(1)


def test_the_probe_says_what_of_a_loss_it_does_not_do():
    assert loss_weights(CrossEntropyLossFlat()) is None
    assert loss_weights(CrossEntropyLossFlat(weight=torch.tensor([1.0, 3.0]))).tolist() == [1.0, 3.0]
    with pytest.warns(MedclfWarning, match="FocalLoss"):
        assert loss_weights(FocalLossFlat()) is None
    with pytest.warns(MedclfWarning, match="label smoothing"):
        loss_weights(torch.nn.CrossEntropyLoss(label_smoothing=0.1))
