"""How programs lay out the weights that they save: where the tensors stand in the file, and how they are named.

Every layout is tried, and the one is taken that makes most names fit the network. To read one more, add a row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """One row.

    Args:
        written_by: the programs that save so.
        nests: keys of the file under which the state dict stands, where it is not the file itself.
        prefixes: what stands before each tensor's name; others than these are of no interest.
        renames: (regular expression, replacement) pairs for the name after its prefix.

    Example:
        >>> layout = Layout("an old trainer", prefixes=("module.",), renames=((r"norm\\.(\\d)", r"norm\\1"),))
        >>> layout.name_of("module.norm.1.bias", "module.")
        'norm1.bias'
    """

    written_by: str
    nests: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ("",)
    renames: tuple[tuple[str, str], ...] = ()

    def name_of(self, key: str, prefix: str) -> str | None:
        """A tensor's name in the network; None where it is of another part of the file's network."""
        if not key.startswith(prefix):
            return None
        name = key.removeprefix(prefix)
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name


LAYOUTS: list[Layout] = [
    Layout("torch.save(model.state_dict()), torchvision, timm, safetensors"),
    Layout("torch.nn.DataParallel", prefixes=("module.",)),
    Layout(
        "training loops, Lightning", nests=("state_dict", "model_state_dict", "net"), prefixes=("model.", "backbone.")
    ),
    Layout("fastai and medclf: a body and its head", nests=("model",), prefixes=("0.", "0.net.", "net.", "body.")),
    Layout("an average of the weights", nests=("ema", "state_dict_ema")),
    Layout(
        "torchvision's first DenseNets",
        renames=((r"(denselayer\d+\.(?:norm|conv|relu))\.(\d)", r"\1\2"),),
    ),
]
