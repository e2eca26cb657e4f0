"""The linear probe of a learner: what it changes, when it is needed, and of whom it may speak."""

import numpy as np
import pytest
import torch

from medclf.errors import MedclfWarning
from medclf.learn.judge import _calibration_set
from medclf.learn.learner import med_learner
from medclf.learn.prediction import predict_loader
from medclf.learn.weights import last_weight
from medclf.results.predictions import Predictions


def quiet(learn):
    return learn.no_bar(), learn.no_logging()


def parameters(learn):
    return {name: value.detach().clone() for name, value in learn.model.named_parameters()}


def test_another_pooling_has_an_optimiser_of_its_own_and_stays_frozen(learn):
    learn.freeze()
    learn.create_opt()
    learn.pooling = "stages"
    assert learn.pooling == "stages" and learn.opt is None
    learn.create_opt()
    trained = {id(parameter) for group in learn.opt.param_lists for parameter in group}
    assert all(id(parameter) in trained for parameter in learn.model.parameters())
    assert learn.opt.frozen_idx == len(learn.opt.param_lists) - 1
    opt = learn.opt
    learn.pooling = "stages"
    assert learn.opt is opt


@pytest.mark.parametrize("kind", ["gem", "stages"])
def test_a_head_that_was_fitted_on_another_pooling_is_fitted_again(learn, kind):
    learn.fit_head(progress=False)
    assert not learn.needs_probe
    learn.pooling = kind
    assert learn.head is None and learn.needs_probe and not learn.is_probe
    with quiet(learn)[0], quiet(learn)[1]:
        learn.fine_tune(1)
    assert learn.head is not None and learn.pooling == kind


def test_linear_probe_fits_and_changes_only_the_head(learn):
    body = {k: v.clone() for k, v in learn.model[0].state_dict().items()}
    done = learn.fit_head(progress=False)
    assert done.n_train == 24 and done.cv_folds == 5
    assert all(torch.equal(v, body[k]) for k, v in learn.model[0].state_dict().items())
    with learn.no_bar():
        predictions = predict_loader(learn, learn.dls.valid)
    assert (predictions.probs.argmax(1) == predictions.y).all()


def test_features_are_kept_beside_the_store(learn, monkeypatch):
    learn.fit_head(progress=False)
    first = learn.model[1][-1].weight.clone()
    monkeypatch.setattr("medclf.learn.features.extract", None)  # a second pass would fail
    learn.fit_head(progress=False)
    assert torch.equal(first, learn.model[1][-1].weight)


def test_the_probe_is_known_from_what_came_after(small):
    assert small.needs_probe and not small.is_probe
    small.fit_head(progress=False)
    assert small.is_probe and not small.needs_probe
    with torch.no_grad():
        next(small.model.parameters()).add_(0.1)
    assert not small.is_probe


@pytest.mark.parametrize("way", ["lr_find", "fit", "load", "load_state_dict"])
def test_images_that_the_body_was_trained_on_are_held_out_of_no_fold(small, tmp_path, way):
    """Calibrated by folds of images whose labels the body knows, a head is far too sure of others."""
    small.path = tmp_path
    with small.no_bar(), small.no_logging():
        if way == "lr_find":
            small.lr_find(num_it=2, show_plot=False, suggest_funcs=())
        elif way == "load_state_dict":
            small.model.load_state_dict({name: value + 1 for name, value in small.model.state_dict().items()})
        else:
            small.save("before")
            small.fit(1, 1e-6)
        if way == "load":
            small._trained = False
            small.load("before")
            assert not small.history and small.returned_epoch is None
    small.fit_head(progress=False)
    valid = predict_loader(small, small.dls.valid, "valid")
    enough = Predictions.concat([valid] * 20)
    fitted_on = _calibration_set(small, enough, False, small.dls.table, None)
    assert np.isnan(small.head.held_out).all() == (way != "lr_find")
    assert fitted_on.reported == (way != "lr_find")


def test_a_body_that_is_replaced_after_the_probe_gets_a_head_of_its_own(small):
    """Its head stood over the features of another body; its folds held out images that the new body may know."""
    small.fit_head(progress=False)
    old = last_weight(small.model).clone()
    small.model[0].load_state_dict({name: value + 1 for name, value in small.model[0].state_dict().items()})
    assert small.needs_probe
    with pytest.warns(MedclfWarning, match="other weights than the linear probe was fitted on"):
        small.fine_tune(0)
    assert small.is_probe and not small.needs_probe and not torch.equal(last_weight(small.model), old)
    assert np.isnan(small.head.held_out).all()


@pytest.mark.parametrize("way", ["fit", "whole"])
def test_a_head_that_came_with_its_body_is_not_fitted_again(small, way):
    small.fit_head(progress=False)
    with small.no_bar(), small.no_logging():
        if way == "fit":
            small.fit(1, 1e-3)
        else:
            small.model.load_state_dict({name: value + 1 for name, value in small.model.state_dict().items()})
    assert not small.needs_probe and small._body_replaced == (way == "whole")


def test_random_weights_have_no_linear_probe(dls):
    assert med_learner(dls, "resnet18", weights=None).linear_probe is False
