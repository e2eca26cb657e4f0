"""What shadows or wraps one of fastai's names takes at least the arguments that fastai's takes, in its order."""

import inspect
from inspect import Parameter

import fastai.vision.all as fastai
import pytest

import medclf
import medclf.all as everything
from medclf.learn.batches import MedDL
from medclf.learn.learner import cnn_learner
from medclf.learn.presets import MedResize, QuickNormalize
from medclf.learn.training import MedLearner

IN_PLACE_OF = {  # ours: fastai's
    medclf.MedDataLoaders: fastai.ImageDataLoaders,
    medclf.MedImage: fastai.PILImage,
    medclf.MedInterpretation: fastai.ClassificationInterpretation,
    MedDL: fastai.TfmdDL,
    MedLearner: fastai.Learner,
    MedResize: fastai.Resize,
    QuickNormalize: fastai.Normalize,
}
FUNCTIONS = {
    "vision_learner": (medclf.med_learner, fastai.vision_learner),
    "cnn_learner": (cnn_learner, fastai.vision_learner),
    "Learner.lr_find": (MedLearner.lr_find, fastai.Learner.lr_find),
    "ImageBlock": (medclf.MedImageBlock, fastai.ImageBlock),
}
OTHERWISE = {  # where it is another signature, and why
    "ClassificationInterpretation.__init__": "losses may be medclf's predictions, which say more",
    "ImageBlock": "which class reads the image follows from channels; a window and a frame are read as well",
    "Resize.__init__": "MedResize has a name of its own, and does the same to training and validation images",
}


def wrapped():
    """{name: (ours, fastai's)} of every function that medclf defines over one of fastai's."""
    found = dict(FUNCTIONS)
    for ours, theirs in IN_PLACE_OF.items():
        for name in dir(ours):
            mine, other = getattr(ours, name), getattr(theirs, name, None)
            public = name == "__init__" or not name.startswith("_")
            own = not isinstance(mine, type) and str(getattr(mine, "__module__", "")).startswith("medclf")
            if public and callable(other) and own:
                found[f"{theirs.__name__}.{name}"] = mine, other
    return found


WRAPPED = wrapped()


def lacks(ours, theirs):
    """What a call that fastai's takes could not say to ours."""
    mine, other = ([*inspect.signature(one).parameters.values()] for one in (ours, theirs))
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    kinds = {p.kind for p in mine}
    order = [p.name for p in mine if p.kind in positional]
    theirs_in_order = [p.name for p in other if p.kind in positional]
    found = [
        f"{name} at position {place}"
        for place, name in enumerate(theirs_in_order)
        if (order[place] != name if place < len(order) else Parameter.VAR_POSITIONAL not in kinds)
    ]
    if Parameter.VAR_KEYWORD not in kinds:
        found += [f"{p.name}=" for p in other if p.kind not in positional and p.name not in {q.name for q in mine}]
    wanted = {p.name for p in other if p.default is Parameter.empty}
    return found + [
        f"a call without {p.name}"
        for p in mine
        if p.default is Parameter.empty and p.kind in (*positional, Parameter.KEYWORD_ONLY) and p.name not in wanted
    ]


@pytest.mark.parametrize("name", WRAPPED)
def test_a_call_that_fastai_takes_can_be_said_here(name):
    missing = lacks(*WRAPPED[name])
    if name in OTHERWISE:
        assert missing, f"{name} takes what fastai's takes: leave it out of the table"
    else:
        assert not missing


def test_what_is_compared_is_what_medclf_defines():
    assert OTHERWISE.keys() <= WRAPPED.keys()
    assert {"Learner.fine_tune", "ImageDataLoaders.from_folder", "TfmdDL.new"} <= WRAPPED.keys()


def test_a_lacking_argument_is_seen():
    def theirs(a, b=1, *, c=2):
        pass

    assert lacks(lambda b, a: None, theirs) == ["a at position 0", "b at position 1", "c=", "a call without b"]
    assert not lacks(lambda a, *args, **kwargs: None, theirs)


def test_no_name_of_fastai_has_another_meaning():
    """Only cnn_learner, the old name of vision_learner, is another function, and takes what that takes."""
    theirs = {name for name in dir(fastai) if not name.startswith("_")}
    assert {name for name in theirs if getattr(everything, name) is not getattr(fastai, name)} == {"cnn_learner"}
