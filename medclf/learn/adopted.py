"""LEARNER of fastai's `vision_learner` -> MedLearner: the same network, so that a bundle can hold it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from fastai.learner import Learner
from fastai.torch_core import get_model
from torch import nn

from medclf.errors import BundleError, MedclfError
from medclf.learn.prediction import check_answers
from medclf.learn.preprocessing import preprocessing_of
from medclf.learn.training import MedLearner
from medclf.models.backbones import describe, fitted_to
from medclf.models.fitting import fit_state
from medclf.models.own_networks import is_own, register_network
from medclf.models.registry import cut, resolve

_DRIFT = 1e-4
_REMEDY = 'make the learner with med_learner(dls, "resnet18"), or with another architecture that it knows'


def adopted(learn: Learner) -> MedLearner:
    """A `MedLearner` of the same loaders and weights; the learner itself stays as it is.

    Args:
        learn: of fastai's `vision_learner`, on loaders that read their images with medclf (`MedDataLoaders`, or a
            `DataBlock` with `MedImageBlock`); a `MedLearner` is given back.

    Raises:
        PreprocessingError: the loaders do to images what a bundle cannot carry over.
        BundleError: another network than `vision_learner`'s, or one that medclf builds otherwise; or see
            `check_answers`.

    Example:
        >>> # save_bundle(vision_learner(dls, resnet18), "polyps.bundle")  # does this
    """
    if isinstance(learn, MedLearner):
        spec = learn.spec
        check_answers(learn, spec.n_in, spec.preprocessing.input_size)
        return learn
    given = vars(learn).get("arch")
    if given is None:
        raise BundleError(
            "this learner's network was not built by vision_learner, so a bundle could not build it again", _REMEDY
        )
    how = preprocessing_of(learn.dls)
    size = how.size if how.sampling is None else how.sampling.size
    try:
        arch = fitted_to(_named(given), size)
        network = _rebuilt(arch, get_model(learn.model), how.channels, size)
    except MedclfError as error:
        raise BundleError(f"medclf cannot build this learner's network: {error.message}", _REMEDY) from error
    check_answers(learn, how.channels, size)
    own = MedLearner(
        learn.dls,
        network,
        loss_func=learn.loss_func,
        metrics=learn.metrics,
        path=learn.path,
        model_dir=learn.model_dir,
    )
    own.arch, own.dropout, own.linear_probe = describe(arch).name, 0.0, False
    own.weights = "default" if vars(learn).get("pretrained") else None
    return own


def _named(given: Any) -> Any:
    """What `resolve` takes, of what `vision_learner` took."""
    if isinstance(given, str):
        return f"timm/{given}"
    return register_network(given) if is_own(given) else given


def _rebuilt(arch: Any, model: nn.Module, n_in: int, size: tuple[int, int]) -> nn.Sequential:
    """medclf's body of this architecture with the weights, and the head, of fastai's."""
    source = cut(*resolve(arch))
    fit_state(source, model.state_dict(), "its state_dict()", n_in)
    network = nn.Sequential(source.body, copy.deepcopy(model[1])).to(next(model.parameters()).device)  # type: ignore[index]
    _compare(network, model, n_in, size)
    return network.train(model.training)


def _compare(network: nn.Module, model: nn.Module, n_in: int, size: tuple[int, int]) -> None:
    """See that both give the same: an argument such as `cut` may have made another network of equal tensors."""
    images = torch.rand(2, n_in, *size, generator=torch.Generator().manual_seed(0)) - 0.5
    training, images = model.training, images.to(next(model.parameters()).device)
    try:
        with torch.inference_mode():
            theirs, ours = model.eval()(images), network.eval()(images)
    finally:
        model.train(training)
    if not torch.allclose(ours, theirs, rtol=_DRIFT, atol=_DRIFT * float(theirs.abs().max().clamp(min=1))):
        raise MedclfError("it gives other outputs with the same weights", "leave cut out")
