"""For notebooks: `from medclf.all import *` gives all of `fastai.vision.all`, and medclf's public names over it."""

from fastai.vision.all import *

import medclf as _medclf

globals().update({_name: getattr(_medclf, _name) for _name in _medclf.__all__})  # type: ignore[attr-defined]
