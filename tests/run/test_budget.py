"""A budget's plan against sums made by hand; and a whole job within one."""

import json

import pytest

from medclf.config import TrainConfig
from medclf.errors import DataError
from medclf.learn.step_costs import Costs
from medclf.run import budget
from medclf.run.budget import Job, choose

LARGE = Costs(224, forward=0.1, load=0.0, whole=1.0, last=0.3, kept=0.05)
SMALL = Costs(128, forward=0.03, load=0.0, whole=0.3, last=0.1, kept=0.02)
JOB = Job(n_train=80, n_valid=20, n_images=100)


@pytest.fixture(autouse=True)
def plain_sums(monkeypatch):
    for name, value in (("_RESERVE_S", 0.0), ("_RESERVE_IMAGE_S", 0.0), ("_MARGIN", 1.0)):
        monkeypatch.setattr(budget, name, value)


# The linear probe: 100 images * 0.1 = 10 s. An epoch of all at 224: 80 * 1.0 + 20 * 0.1 = 82 s; at 128: 80 * 0.3 + 2 =
# 26 s. Of the last stage: 80 * 0.3 + 2 = 26 s; at 128: 10 s; kept: 80 * 0.05 + 20 * 0.05 = 5 s, the linear probe
# too, and 10 s once. At the end 2 s for the validation images and 80 * 0.1 = 8 s (kept: 4 s) for the others' features.
@pytest.mark.parametrize(
    ("seconds", "kept", "sizes", "train_from", "epochs", "taken"),
    [
        (840, False, (224,), None, 10, 840),
        (839, False, (224,), None, 9, 10 + 9 * 82 + 10),
        (266, False, (224,), None, 3, 266),
        (265, False, (128, 224), None, 5, 10 + 3 * 26 + 2 * 82 + 10),
        (154, False, (128, 224), None, 3, 10 + 2 * 26 + 82 + 10),
        (153, False, (224,), "layer4", 5, 10 + 5 * 26 + 10),
        (97, False, (128, 224), "layer4", 4, 10 + 2 * 10 + 2 * 26 + 10),
        (97, True, (224,), "layer4", 10, 10 + 5 + 10 * 5 + 2 + 4),
        (49, False, (224,), None, 0, 10),
        (9, False, (128,), None, 0, 3),
        (1, False, (128,), None, 0, 3),
    ],
)
def test_the_first_that_fits(seconds, kept, sizes, train_from, epochs, taken):
    plan, passed_over = choose([LARGE, SMALL], Job(80, 20, 100, kept=kept), seconds)
    assert (plan.sizes, plan.train_from, plan.epochs) == (sizes, train_from, epochs)
    assert plan.seconds == pytest.approx(taken)
    assert all(other.seconds > seconds for other in passed_over)


def test_a_cross_validation_trains_several_times():
    once, _ = choose([LARGE], JOB, 266)
    several, _ = choose([LARGE], Job(80, 20, 100, trainings=6), 6 * 258 + 8)
    assert several.epochs == once.epochs == 3
    assert several.seconds == pytest.approx(6 * (once.seconds - 8) + 8)  # the features are the last one's alone


def test_other_linear_probes_take_passes_of_their_own():
    plain, _ = choose([LARGE], JOB, 266)
    tried, _ = choose([LARGE], Job(80, 20, 100, passes=3), 266 + 3 * 8)  # 80 * 0.1 s each
    assert tried.epochs == plain.epochs == 3 and tried.seconds == pytest.approx(plain.seconds + 24)


def test_a_trial_takes_its_share_of_the_epochs():
    plain, _ = choose([LARGE], JOB, 266)
    tried, _ = choose([LARGE], Job(80, 20, 100, trial=0.5), 266 + 0.5 * 3 * 82)
    assert tried.epochs == plain.epochs == 3
    assert tried.seconds == pytest.approx(plain.seconds + 0.5 * 3 * 82)


def test_a_way_says_what_it_is():
    plans = [choose([LARGE, SMALL], JOB, seconds)[0] for seconds in (840, 97, 9)]
    assert [str(plan) for plan in plans] == [
        "the whole network at 224 px, 10 epochs",
        "layer4 and the head at 128 then 224 px, 4 epochs",
        "the head alone at 128 px",
    ]


def test_settings_of_sizes_and_budget():
    config = TrainConfig("d", "o", size=224, first_sizes=(128,), train_from="layer4")
    assert TrainConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    for wrong in ({"first_sizes": (16,)}, {"first_sizes": (256,)}, {"budget": 0}):
        with pytest.raises(DataError, match="must"):
            TrainConfig("d", "o", **wrong)
