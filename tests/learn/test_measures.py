"""Loss functions and metrics of other labels are refused before a training, and what fits is not."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from fastai import losses, metrics
from torch import nn
from torch.nn import functional as F

from medclf.errors import MedclfError
from medclf.learn.measures import check_measures, gives_by_image


class OneHotBCE(nn.BCEWithLogitsLoss):
    """Of one label, though its class is of several."""

    def forward(self, outputs, targets):
        return super().forward(outputs, F.one_hot(targets, outputs.shape[1]).float())


class Asymmetric(nn.Module):
    def forward(self, outputs, targets):
        return -(targets * F.logsigmoid(outputs) + (1 - targets) * F.logsigmoid(-outputs)).sum()


class Size(metrics.Metric):
    """Of nothing but the loaders, which there are in a training alone."""

    name = "size"

    def reset(self):
        self.value = 0

    def accumulate(self, learn):
        self.value = len(learn.dl.dataset)


class Inherited(nn.CrossEntropyLoss):
    pass


def share_right(outputs, targets):
    return (outputs.argmax(1) == targets).float().mean()


OF_ONE = [
    *(nn.CrossEntropyLoss(), Inherited(), F.cross_entropy, partial(F.cross_entropy, label_smoothing=0.5), OneHotBCE()),
    *(losses.CrossEntropyLossFlat(weight=torch.ones(3)), losses.LabelSmoothingCrossEntropyFlat(), losses.FocalLoss()),
    *(losses.DiceLoss(), nn.MultiMarginLoss(), nn.CrossEntropyLoss(reduction="none")),
]
OF_SEVERAL = [
    *(nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits, nn.MultiLabelSoftMarginLoss(), Asymmetric()),
    losses.BCEWithLogitsLossFlat(pos_weight=torch.ones(3), thresh=0.2),
    lambda outputs, targets: F.mse_loss(outputs.sigmoid(), targets),
]
OF_LOGARITHMS = [nn.NLLLoss(), F.nll_loss, losses.BaseLoss(nn.NLLLoss)]
OF_NEITHER = [losses.MSELossFlat(), F.l1_loss, nn.HuberLoss(), lambda outputs, targets: F.mse_loss(outputs, targets)]
METRICS_OF_ONE = [
    *(metrics.accuracy, metrics.error_rate, metrics.F1Score(average="macro"), share_right),
    *(metrics.CohenKappa(weights="quadratic"), metrics.BalancedAccuracy()),
]
METRICS_OF_SEVERAL = [
    *(metrics.accuracy_multi, partial(metrics.accuracy_multi, thresh=0.2), metrics.F1ScoreMulti()),
    metrics.RocAucMulti(),
]
METRICS_OF_BOTH = [metrics.RocAuc(), metrics.Perplexity(), Size()]


@pytest.mark.parametrize("several", [False, True])
def test_a_loss_function_is_taken_for_its_own_kind_of_labels(several):
    fits, others = (OF_SEVERAL, OF_ONE) if several else (OF_ONE, OF_SEVERAL)
    for loss_func in fits:
        check_measures(loss_func, None, several, 3)
    for loss_func in [*others, *OF_NEITHER]:
        with pytest.raises(MedclfError, match="is no loss where an image") as refused:
            check_measures(loss_func, None, several, 3)
        assert refused.value.remedy.endswith("BCEWithLogitsLossFlat()" if several else "CrossEntropyLossFlat()")


@pytest.mark.parametrize("several", [False, True])
def test_a_metric_is_taken_for_its_own_kind_of_labels(several):
    fits, others = (METRICS_OF_SEVERAL, METRICS_OF_ONE) if several else (METRICS_OF_ONE, METRICS_OF_SEVERAL)
    check_measures(None, [*fits, *METRICS_OF_BOTH], several, 3)
    for metric in others:
        with pytest.raises(MedclfError, match="is no metric where an image"):
            check_measures(None, metric, several, 3)


def test_how_many_labels_there_are_counts():
    check_measures(None, [metrics.F1Score(), metrics.RocAucBinary()], False, 2)
    with pytest.raises(MedclfError, match="of 3 labels: Target is multiclass"):
        check_measures(None, metrics.F1Score(), False, 3)
    with pytest.raises(MedclfError, match="of 2 labels: weight tensor"):
        check_measures(nn.CrossEntropyLoss(weight=torch.ones(3)), None, False, 2)


def test_what_is_tried_stays_as_it_was():
    loss_func, metric = nn.CrossEntropyLoss(weight=torch.ones(3)), metrics.F1Score(average="macro")
    before = torch.get_rng_state()
    check_measures(loss_func, metric, False, 3)
    assert not hasattr(metric, "preds") and torch.equal(torch.get_rng_state(), before)


def test_a_measure_of_ones_own_that_takes_neither_is_left_to_the_training():
    def needs_more(outputs, targets):
        raise ValueError("no weights of the batch yet")

    check_measures(needs_more, needs_more, False, 3)


@pytest.mark.parametrize("loss_func", OF_LOGARITHMS)
def test_a_loss_of_logarithms_wants_a_head_that_gives_them(loss_func):
    with pytest.raises(MedclfError, match="it wants logarithms of probabilities, and the outputs are logits"):
        check_measures(loss_func, None, False, 3)
    check_measures(loss_func, None, False, 3, logits=False)


@pytest.mark.parametrize("loss_func", [nn.BCELoss(), F.binary_cross_entropy])
def test_a_loss_of_probabilities_wants_a_head_that_gives_them(loss_func):
    with pytest.raises(MedclfError, match="it wants probabilities, and the outputs are logits"):
        check_measures(loss_func, None, True, 3)
    check_measures(loss_func, None, True, 3, logits=False)


def test_which_losses_tell_that_of_each_image():
    for loss_func in (nn.CrossEntropyLoss(), F.cross_entropy, losses.FocalLossFlat(), losses.CrossEntropyLossFlat()):
        assert gives_by_image(loss_func, False, 3)
    for loss_func in (nn.BCEWithLogitsLoss(), losses.BCEWithLogitsLossFlat(), F.binary_cross_entropy_with_logits):
        assert gives_by_image(loss_func, True, 3)
    for loss_func in (OneHotBCE(reduction="sum"), Asymmetric(), lambda outputs, targets: outputs.mean()):
        assert gives_by_image(loss_func, True, 3) is False
