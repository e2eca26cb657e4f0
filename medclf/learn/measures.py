"""Whether a loss function and metrics are for the labels that there are: each is tried on a batch that is made up."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from fastai.layers import NoneReduce
from fastai.learner import mk_metric
from fastai.torch_core import TensorCategory, TensorMultiCategory, to_detach
from fastcore.foundation import L

from medclf.errors import MedclfError

_PURE = {"fastai", "sklearn", "torch"}  # their measures need nothing of a training but outputs and targets
_SURE = 10.0  # of a logit


@dataclass(frozen=True)
class _Labels:
    """A batch of labels, each of which is present and absent in it."""

    n: int
    several: bool
    device: Any

    @property
    def one_hot(self) -> torch.Tensor:
        one = torch.eye(self.n, device=self.device)
        return torch.cat([one, 1 - one if self.several else one])

    def tried(self, use: Callable[..., Any], measure: Any, outputs: torch.Tensor | None = None) -> Any:
        """What a measure gives of `outputs`, or of some that are logits and probabilities alike."""
        if outputs is None:
            outputs = torch.rand(self.one_hot.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        targets = TensorMultiCategory(self.one_hot) if self.several else TensorCategory(self.one_hot.argmax(1))
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return use(copy.deepcopy(measure), outputs, targets)

    def error(self, use: Callable[..., Any], measure: Any) -> Exception | None:
        """What it raises; None where it takes these labels, or asks for more than there is before a training."""
        try:
            self.tried(use, measure)
        except AttributeError:
            return None
        except Exception as error:  # noqa: BLE001  # of a library, or of the user's own
            return error
        return None


def check_measures(
    loss_func: Any, metrics: Any, several: bool, n_out: int, device: Any = "cpu", *, logits: bool = True
) -> None:
    """See that a loss function and metrics take these labels: of sizes alone fastai, torch and scikit-learn speak.

    Args:
        loss_func, metrics: fastai's, torch's or one's own; of one's own is refused only what takes other labels.
        several: whether an image may have several labels.
        n_out: how many labels there are.
        device: of the training.
        logits: whether these are the network's outputs; a head of one's own may give probabilities or their logarithms.

    Raises:
        MedclfError: one does not; or the loss function makes of the network's outputs no probabilities.
    """
    labels = _Labels(n_out, several, device)
    has = "may have several labels" if several else "has one label"
    if loss_func is not None:
        remedy = f"leave it out, or give {'BCEWithLogitsLossFlat' if several else 'CrossEntropyLossFlat'}()"
        _check(loss_func, _loss_of, labels, f"is no loss where an image {has}", remedy)
        if reason := _no_probabilities(loss_func, labels, logits):
            raise MedclfError(f"{_name(loss_func)} is no loss where an image {has}: {reason}", remedy)
    such = "accuracy, F1Score(), RocAucBinary()" if n_out == 2 else "accuracy, F1Score(average='macro'), RocAuc()"
    such = "accuracy_multi, F1ScoreMulti(), RocAucMulti()" if several else such
    for metric in L(metrics):
        _check(metric, _value_of, labels, f"is no metric where an image {has}", f"leave it out, or give some of {such}")


def ends_in_logits(network: torch.nn.Module) -> bool:
    """Whether nothing comes after its last linear layer, such as a LogSoftmax.

    Example:
        >>> ends_in_logits(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LogSoftmax(1)))
        False
    """
    return isinstance([*network.modules()][-1], torch.nn.Linear)


def gives_by_image(loss_func: Any, several: bool, n_out: int, device: Any = "cpu") -> bool:
    """Whether fastai can ask a loss function for the loss of each image.

    Args:
        loss_func, several, n_out, device: see `check_measures`.

    Example:
        >>> gives_by_image(torch.nn.CrossEntropyLoss(), False, 3), gives_by_image(lambda x, y: x.mean(), False, 3)
        (True, False)
    """
    labels = _Labels(n_out, several, device)

    def by_image(loss_func: Any, outputs: torch.Tensor, targets: torch.Tensor) -> Any:
        with NoneReduce(loss_func) as unreduced:
            return _loss_of(unreduced, outputs, targets)

    try:
        return labels.tried(by_image, loss_func).numel() in (len(labels.one_hot), labels.one_hot.numel())
    except Exception:  # noqa: BLE001  # of a library, or of the user's own
        return False


def _check(measure: Any, use: Callable[..., Any], labels: _Labels, text: str, remedy: str) -> None:
    if (error := labels.error(use, measure)) is None:
        return
    # On the CPU: an index that is out of range there is an error, and on a GPU the end of all that runs on it.
    others = _Labels(labels.n + 1, labels.several, "cpu"), _Labels(labels.n, not labels.several, "cpu")
    of_more, of_other_kind = (other.error(use, measure) is None for other in others)
    known = getattr(_innermost(measure), "__module__", "").partition(".")[0] in _PURE
    if known or of_more or of_other_kind:
        said = not isinstance(error, AssertionError) and (of_more or not of_other_kind)
        reason = f", of {labels.n} labels: {str(error).partition(chr(10))[0]}" if said else ""
        raise MedclfError(f"{_name(measure)} {text}{reason}", remedy)


def _loss_of(loss_func: Any, outputs: torch.Tensor, targets: torch.Tensor) -> Any:
    if isinstance(module := getattr(loss_func, "func", loss_func), torch.nn.Module):
        module.to(outputs.device)  # as a training does
    return loss_func(outputs, targets)


def _value_of(metric: Any, outputs: torch.Tensor, targets: torch.Tensor) -> Any:
    metric = mk_metric(metric)
    metric.reset()
    facts = {"pred": outputs, "y": targets, "yb": (targets,), "loss": outputs.mean(), "to_detach": to_detach}
    metric.accumulate(SimpleNamespace(**facts))
    return metric.value


def _no_probabilities(loss_func: Any, labels: _Labels, logits: bool) -> str:
    """Why a network that minimises it gives no probabilities by softmax or sigmoid; "" where it does."""
    right = labels.one_hot
    try:
        even, moved, sure = (labels.tried(_loss_of, loss_func, x) for x in (right, right + 1, _SURE * (2 * right - 1)))
        if labels.several and torch.allclose(even, moved, rtol=1e-4):
            return "as softmax does, it looks only at how far the labels' outputs differ"
        if logits and (sure < -1).all():  # -10 for the right label's logit of 10
            return "it wants logarithms of probabilities, and the outputs are logits"
        is_distance = (even < 1e-6).all() and (sure > 1).all()
        return "it wants outputs of 0 and 1, and they are logits" if logits and is_distance else ""
    except AttributeError:  # it asks for more than there is before a training
        return ""
    except Exception:  # noqa: BLE001  # it takes probabilities alone, which a head may give; or it is the user's own
        takes_shares = labels.error(_loss_of, loss_func) is None
        return "it wants probabilities, and the outputs are logits" if logits and takes_shares else ""


def _innermost(measure: Any) -> Any:
    """What a partial, or fastai's wrapper, calls."""
    while getattr(measure, "func", None) is not None:
        measure = measure.func
    return measure


def _name(measure: Any) -> str:
    inner = _innermost(measure)
    return getattr(inner, "__name__", type(inner).__name__)
