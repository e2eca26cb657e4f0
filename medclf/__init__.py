"""medclf: from a folder of medical images to a classifier its users can trust, explain and hand on.

The public names stand in `__init__.pyi` and are imported when first used, so that `import medclf` costs nothing:

    >>> import medclf
    >>> medclf.MedclfError.__name__
    'MedclfError'
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from medclf import _deprecated

__version__ = "0.2.0"

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_MODULE_OF = {name: module for module, name in re.findall(r"^from (\.\S+) import (\w+) as \2$", _STUB, re.MULTILINE)}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        return _deprecated.look_up(__name__, name)
    value = globals()[name] = getattr(importlib.import_module(_MODULE_OF[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
