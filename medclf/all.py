"""For notebooks: all of `fastai.vision.all`, and medclf's public names over it."""

from fastai.vision.all import *

from medclf import __all__ as _names
from medclf import __getattr__ as _find

globals().update({_name: _find(_name) for _name in _names})
