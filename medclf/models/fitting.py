"""Tensors of a file -> a network's own: found under whatever prefix and layout, resampled to its size, or refused."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from medclf.errors import MedclfWarning, WeightsError, argument
from medclf.models.checkpoint_layouts import BESIDE, LAYOUTS, Layout, Stats
from medclf.models.cut import Cut

_WRAPPER = re.compile(
    r"((state_dict|model_state_dict|model_ema|model|net|ema|state_dict_ema|teacher|module|backbone|encoder|_orig_mod)\.)+"
)
_N_PREFIXES = 12  # tried for each layout
_COPIES = ((0, r"teacher"), (1, r"\bema|_ema"), (3, r"momentum|encoder_k|target|student"))  # of several, which first
# What a file has that the network was not asked for, and how to ask.
_ASK_FOR = (
    (r"\b(ls1\.gamma|gamma_1)$", "init_values=1"),
    (r"\b(reg_token|register_tokens|storage_tokens)$", "reg_tokens=4"),
    (r"\bfc_norm\.", "global_pool=avg"),
    (r"\bnorm_pre\.", "pre_norm=true"),
    (r"\bq_bias$", "qkv_bias=true"),
)


@dataclass
class Match:
    """A file's tensors under the names of a network's body.

    Args:
        layout: the row that was read.
        prefix: what stood before each name.
        tensors: by the body's names.
        beside: names under the prefix that the body has no place for.
        shapes: how many of `tensors` have the body's shapes.
        others: before the names of other networks of the file that would fit as well.
    """

    layout: Layout
    prefix: str
    tensors: dict[str, Tensor]
    beside: list[str]
    shapes: int
    others: tuple[str, ...] = ()

    def rank(self) -> tuple[int, int, int, int]:
        """The greater, the better."""
        copy = next((rank for rank, words in _COPIES if re.search(words, self.prefix)), 2)
        return self.shapes, len(self.tensors), -copy, -len(self.beside)


def fit_state(cut: Cut, state: Mapping[str, Tensor], origin: str, n_in: int = 3) -> Layout:
    """Load `state` into the cut's body; every tensor of the body must be there, in its shape.

    Args:
        cut: the network to fill.
        state: of `read_state`: a classifier's, a body's, or a whole training's tensors, in any layout of `LAYOUTS`.
        origin: what to call the file in an error.
        n_in: channels of the images; weights for colour are summed to take grey ones, see `adapt_input`.

    Returns:
        The layout that was read.

    Raises:
        WeightsError: tensors are missing, of another shape, or belong to another network, or hold no numbers.

    Warns:
        MedclfWarning: the file holds several such networks, or one for grey images where colour is given.
    """
    body = cut.body
    if next(iter(state), "").startswith("_conv_stem"):
        state = _by_order(body.state_dict(), state, origin)
    found = match(cut, state)
    wanted = body.state_dict()
    grey = [name for name, tensor in found.tensors.items() if _is_grey(tensor, wanted[name])]
    for name in grey:  # three equal channels give what the grey one gave
        found.tensors[name] = found.tensors[name].expand(-1, 3, -1, -1) / 3
    grey = grey if n_in > 1 else []
    missing = [name for name in wanted if name not in found.tensors and not name.endswith("num_batches_tracked")]
    misshapen = [name for name, tensor in found.tensors.items() if tensor.shape != wanted[name].shape]
    faults = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (("missing", missing), ("unexpected", found.beside), ("of another shape", misshapen))
        if names
    ]
    if faults:
        under = f", under {found.prefix!r}" if found.prefix else ""
        raise WeightsError(
            f"{origin} does not fit this architecture: of {len(wanted)} tensors {', '.join(faults)}; "
            f"the nearest layout is that of {found.layout.written_by}{under}",
            _remedy([*found.beside, *misshapen]),
        )
    broken = [name for name, tensor in found.tensors.items() if tensor.is_floating_point() and not _is_finite(tensor)]
    if broken:
        named = ", ".join(broken[:3]) + (", ..." if len(broken) > 3 else "")
        text = f"{origin} holds NaN or infinite values in {len(broken)} of {len(wanted)} tensors ({named})"
        raise WeightsError(text, "its training broke down: take an earlier checkpoint")
    for text in _guesses(found, grey):
        warnings.warn(MedclfWarning(f"{origin} {text}"), stacklevel=2)
    body.load_state_dict(found.tensors, strict=False)
    adapt_input(body, n_in)
    return found.layout


def _guesses(found: Match, grey: list[str]) -> Iterator[str]:
    """What is to be said of a file that was read in one of several ways."""
    if found.others:
        others = ", ".join(map(repr, found.others))
        yield f"holds several such networks: that under {found.prefix!r} is taken, and not that under {others}"
    if grey:
        yield f"is of a network for grey images: each colour gets a third of its first weights ({grey[0]})"


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def stats_in(state: Mapping[str, Tensor]) -> Stats | None:
    """What the writer of a file normalises pixels with, where its layout tells."""
    return next((row.stats for row in LAYOUTS if row.stats and row.mark and row.is_like(state)), None)


def match(cut: Cut, state: Mapping[str, Tensor]) -> Match:
    """The best reading of a file's tensors as the body's: the one that makes most of them fit."""
    body = cut.body
    wanted = body.state_dict()
    found = [one for row in LAYOUTS if row.is_like(state) for one in _readings(cut, wanted, row, row.apply(state))]
    best = max(found, key=Match.rank)
    convert = _converter(body)
    if convert and (best.shapes < len(wanted) or best.beside):
        plain = Layout(f"timm's own {type(_inner(body)).__name__}")
        rows = [(one.layout, one.prefix) for one in sorted(found, key=Match.rank, reverse=True)[:3]]
        rows += [(plain, prefix) for prefix in _wrappers(state)]
        for row, prefix in dict.fromkeys(rows):
            under = {name.removeprefix(prefix): t for name, t in row.apply(state).items() if name.startswith(prefix)}
            with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):  # not meant for any file
                found += _readings(cut, wanted, row, convert(under), [""], shown=prefix)
        best = max(found, key=Match.rank)
    rival = next((one for one in found if one.rank()[:3] == best.rank()[:3] and _differ(one, best)), None)
    if rival and best.shapes == len(wanted):
        raise WeightsError(
            f"the file holds two such networks, under {best.prefix!r} and {rival.prefix!r}",
            "save the state dict of the one that is meant",
        )
    rest = {one.prefix: None for one in found if one.shapes == len(wanted) and _differ(one, best)}
    return replace(best, others=tuple(rest))


def _differ(one: Match, other: Match) -> bool:
    return one.prefix != other.prefix and any(
        name not in one.tensors or not torch.equal(one.tensors[name], tensor) for name, tensor in other.tensors.items()
    )


def _inner(body: nn.Module) -> nn.Module:
    """timm's network, where the body holds one."""
    return cast(nn.Module, getattr(body, "net", body))


def _converter(body: nn.Module) -> Callable[[dict[str, Tensor]], dict[str, Tensor]] | None:
    """timm's own reader of other projects' files for this family, which also resamples position embeddings."""
    inner = _inner(body)
    read: Any = getattr(sys.modules.get(type(inner).__module__), "checkpoint_filter_fn", None)
    return None if read is None else lambda state: dict(read(dict(state), inner))


def _wrappers(state: Mapping[str, Tensor]) -> list[str]:
    """Beginnings that name no part of a network."""
    found = Counter(part[0] for name in state if (part := _WRAPPER.match(name)))
    return ["", *(prefix for prefix, _ in found.most_common(_N_PREFIXES))]


def _readings(
    cut: Cut,
    wanted: Mapping[str, Tensor],
    row: Layout,
    state: Mapping[str, Tensor],
    prefixes: list[str] | None = None,
    shown: str = "",
) -> Iterator[Match]:
    """A file's tensors read by one row, once for each beginning that names of the body are found behind."""
    places = _places(cut, wanted, numbered=row.numbered)
    for prefix in _prefixes(places, state) if prefixes is None else prefixes:
        tensors, beside = {}, []
        for name, tensor in state.items():
            if not name.startswith(prefix):
                continue  # of a network saved whole, only the body is of interest
            short = name.removeprefix(prefix)
            if place := places.get(short):
                tensors[place] = _shaped(place, tensor, wanted[place])
            elif not (_in_head(short, cut.heads) or BESIDE.search(short) or _is_zero_bias(short, tensor)):
                beside.append(short)
        if row.numbered:  # behind the body's parts stand those of the head
            last = max((int(place.partition(".")[0]) for place in places if place[:1].isdigit()), default=0)
            beside = [name for name in beside if not name[:1].isdigit() or int(re.split(r"\D", name)[0]) <= last]
        fitting = sum(tensor.shape == wanted[place].shape for place, tensor in tensors.items())
        yield Match(row, shown + prefix, tensors, beside, fitting)


def _places(cut: Cut, wanted: Mapping[str, Tensor], *, numbered: bool) -> dict[str, str]:
    """What a file calls each tensor of the body -> what the body calls it."""
    inner = _inner(cut.body)
    before = "net." if inner is not cut.body else ""
    number = {name: str(place) for place, (name, _) in enumerate(inner.named_children())} if numbered else {}
    places = {}
    for name in wanted:
        first, dot, rest = name.removeprefix(before).partition(".")
        places[f"{number.get(first, first)}{dot}{rest}"] = name
    for old, new in cut.renames.items():
        places |= {old + name.removeprefix(new): place for name, place in places.items() if name.startswith(new)}
    return places


def _prefixes(places: Mapping[str, str], state: Mapping[str, Tensor]) -> list[str]:
    """What stands before names of the body in the file, the most frequent first; of equally frequent ones all."""
    names = list(places)
    some = {*names[:: max(1, len(names) // 16)], names[-1]}
    count: Counter[str] = Counter()
    for key in state:
        count.update(key[: -len(name)] for name in some if key == name or key.endswith(f".{name}"))
    return [prefix for prefix, _ in count.most_common(_N_PREFIXES)] or [""]


def _shaped(name: str, tensor: Tensor, wanted: Tensor) -> Tensor:
    """A tensor in the shape that is wanted, where it only lacks axes of length 1, or is a grid of positions."""
    if tensor.shape == wanted.shape:
        return tensor
    if [n for n in tensor.shape if n > 1] == [n for n in wanted.shape if n > 1]:
        return tensor.reshape(wanted.shape)
    if name.endswith("pos_embedding") and tensor.ndim == 3 and tensor.shape[-1] == wanted.shape[-1]:
        from timm.layers.pos_embed import resample_abs_pos_embed

        side = round((wanted.shape[1] - 1) ** 0.5)
        return cast(Tensor, resample_abs_pos_embed(tensor.float(), [side, side], num_prefix_tokens=1))
    return tensor


def _is_zero_bias(name: str, tensor: Tensor) -> bool:
    return name.endswith("bias") and not tensor.any()


def _is_grey(tensor: Tensor, wanted: Tensor) -> bool:
    """Whether a first convolution's weights are those of a network for grey images."""
    return tensor.ndim == 4 and wanted.ndim == 4 and (tensor.shape[1], wanted.shape[1]) == (1, 3)


def _in_head(name: str, heads: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{head}.") for head in heads)


def _remedy(names: list[str]) -> str:
    asked = [asking for pattern, asking in _ASK_FOR if any(re.search(pattern, name) for name in names)]
    if asked:
        return f"ask the architecture for what the file has: {argument('arch', 'NAME?' + '&'.join(asked))}"
    return f"give the {argument('arch')} that the weights were trained with"


def _by_order(names: Mapping[str, Tensor], state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The packages' files name tensors as another project does, in the same order and shapes."""
    for (name, wanted), (key, value) in zip(names.items(), state.items(), strict=False):
        if wanted.shape != value.shape or not key.endswith(name.rpartition(".")[2]):
            raise WeightsError(f"{origin} does not fit: {key} {tuple(value.shape)} stands in place of {name}")
    return dict(zip(names, state.values(), strict=False))


def adapt_input(body: nn.Module, n_in: int) -> None:
    """Let a network for colour images take grey ones: the first weights summed over the colours.

    A grey image then gives what the same image in three equal channels gave.
    """
    for module in body.modules():  # a few networks have two convolutions side by side at their input
        if isinstance(module, nn.Conv2d) and n_in < module.in_channels == 3:
            module.weight = nn.Parameter(module.weight.detach().sum(dim=1, keepdim=True))
            module.in_channels = n_in
