"""For notebooks: `from medclf.all import *` gives all of `fastai.vision.all`, and medclf's public names over it.

No name of fastai's gets another meaning, but that `cnn_learner`, the old name of `vision_learner`, is `med_learner`.
"""

from fastai.vision.all import *

import medclf as _medclf
from medclf.learn.learner import cnn_learner as cnn_learner

globals().update({_name: getattr(_medclf, _name) for _name in _medclf.__all__})  # type: ignore[attr-defined]
