"""TABLE -> LEARNER: the one folder that imports fastai."""

from typing import Any

from fastai.learner import Learner

from medclf.inference.bundle import Trained, as_trained


@as_trained.register(Learner)
def _(learn: Any) -> Trained:
    """`save_bundle` takes fastai's own learners too, once something of this folder was imported."""
    from medclf.learn.adopted import adopted

    return adopted(learn)
