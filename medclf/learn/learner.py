"""DATALOADERS -> LEARNER: a pretrained network, its head, loss, optimiser and precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy, accuracy_multi
from fastai.optimizer import OptimWrapper
from fastai.torch_core import apply_init
from fastcore.basics import defaults
from fastcore.foundation import L

from medclf._deprecated import warn
from medclf.config import Balance, Pooling, TrainConfig
from medclf.errors import DataError, MedclfError, PreprocessingError, argument, check_known
from medclf.learn.arguments import check_callables, check_head, fastai_head, weights_asked
from medclf.learn.balance import balanced_loss
from medclf.learn.checkpoint import seeded
from medclf.learn.deferred_loss import DeferredSmoothLoss, FetchLosses
from medclf.learn.labels import check_rows, class_names, is_multi_label
from medclf.learn.measures import check_measures, ends_in_logits
from medclf.learn.normalization import stats_for
from medclf.learn.precision import TrainInBf16, has_bf16
from medclf.learn.preprocessing import preprocessing_of, reading_of
from medclf.learn.training import MedLearner
from medclf.learn.weights import last_weight
from medclf.models.backbones import Backbone, build_network, describe, fitted_to, origin
from medclf.models.heads import pool_by
from medclf.models.own_networks import is_own, register_network, weights_as_given
from medclf.models.spec import Normalization
from medclf.models.stages import stages
from medclf.parallel import usable_device

FUSED_ADAMW = partial(OptimWrapper, opt=torch.optim.AdamW, fused=True)


def med_learner(
    dls: DataLoaders,
    arch: str | Callable[..., Any] = TrainConfig.arch,
    normalize: bool = True,
    n_out: int | None = None,
    pretrained: bool | None = None,
    weights: Any = TrainConfig.weights,
    loss_func: Any = None,
    opt_func: Any = FUSED_ADAMW,
    lr: float | slice = defaults.lr,
    splitter: Callable[..., Any] | None = None,
    cbs: Any = None,
    metrics: Any = None,
    path: str | Path | None = None,
    model_dir: str | Path = "models",
    wd: float | None = None,
    wd_bn_bias: bool = False,
    train_bn: bool = True,
    moms: tuple[float, ...] = (0.95, 0.85, 0.95),
    cut: int | Callable[..., Any] | None = None,
    init: Callable[..., Any] | None = None,
    custom_head: torch.nn.Module | None = None,
    concat_pool: bool | None = None,
    pool: bool | None = None,
    lin_ftrs: Sequence[int] | None = None,
    ps: float | Sequence[float] | None = None,
    first_bn: bool | None = None,
    bn_final: bool | None = None,
    lin_first: bool | None = None,
    y_range: tuple[float, float] | None = None,
    *,
    n_in: int | None = None,
    dropout: float = 0.2,
    linear_probe: bool | None = None,
    balance: Balance = TrainConfig.balance,
    mixed_precision: bool | None = None,
    compile: bool = False,
    pooling: Pooling | None = None,
    **kwargs: Any,
) -> MedLearner:
    """A fastai `Learner` that fine-tunes a pretrained network on `dls`: fastai's `vision_learner`, and more.

    The head is pooling, dropout and one linear layer, which `fine_tune` fits first. With any of fastai's arguments of a
    head (`concat_pool`, `pool`, `lin_ftrs`, `ps`, `first_bn`, `bn_final`, `lin_first`, `y_range`) it is the one that
    fastai's `create_head` makes, and `fine_tune` is fastai's.

    Args:
        dls: loaders from `MedDataLoaders`, or any of fastai's.
        arch: a name ("resnet34", "efficientnet_lite0", any of torchvision's, timm's or open_clip's), a repository
            ("hf-hub:OWNER/NAME"), a folder with weights, or a torchvision function (see `describe` in
            `medclf.models.backbones`); or a network of one's own, or a function that makes it, which is cut at its
            last pooling (see `medclf.models.own_networks`).
        normalize: add the backbone's own Normalize, unless the loaders have one.
        n_out: outputs; as many as the loaders have labels.
        pretrained: False for random weights.
        weights: "default" for pretrained ones, a file in a layout that `medclf.models.checkpoint_layouts` knows, or
            None for random ones. A network that is given itself keeps the weights that it has.
        loss_func: fastai's for the task where None.
        opt_func: fastai optimiser; fused AdamW.
        lr, cbs, model_dir, wd, wd_bn_bias, train_bn, moms: as fastai's.
        splitter: parameter groups; one a stage of the network where None.
        metrics: fastai metrics; accuracy where None.
        path: where `learn.save` and `learn.export` write; the current folder where None.
        cut: of a network of one's own: the number of layers before its classifier, or what makes a body of it.
        init: initialises the head's layers; fastai's `kaiming_normal_` where fastai's head is asked for.
        custom_head: a module to use as the head.
        concat_pool, pool, lin_ftrs, ps, first_bn, bn_final, lin_first, y_range: of fastai's `create_head`.
        n_in: input channels; as the loaders have it where None.
        dropout: before the linear layer, in [0, 1).
        linear_probe: fit the head on the frozen body's features before `fine_tune`; on where the body is pretrained.
        balance: how rare classes are made to count, in the probe and in training: "none", "loss", "sampling", "focal"
            or "logits". The probabilities stay true with each; see `medclf.models.balance`.
        mixed_precision: None for yes on CUDA (bfloat16 where the card has it) and on processors with bfloat16
            instructions, never on others. On a processor, training alone makes use of it.
        compile: let torch compile the network when it is first run, which takes a minute or more.
        pooling: how feature maps become one vector: "mean" of the last, "gem", its generalised mean, or "stages", the
            means of all stages' maps; the network's own way where None.
        kwargs: of fastai's `Learner` (`default_cbs`).

    Returns:
        a `Learner`.

    Raises:
        WeightsError: the weights cannot be had or do not fit; the message names other ways.
        DataError: the loaders do not say how many classes there are, have other rows than an image and its label, or
            normalise otherwise than the backbone; or both a balance and a loss function are given.
        MedclfError: arguments that contradict each other, or a network that cannot be cut.

    Example:
        >>> # learn = med_learner(dls, "efficientnet_lite0"); learn.fine_tune(5)
        >>> # learn = med_learner(dls, "efficientnet_lite0", lin_ftrs=[256], ps=0.5)
    """
    if "head_start" in kwargs:
        warn("med_learner(head_start=)", "linear_probe=")
        linear_probe = kwargs.pop("head_start")
    check_known(kwargs, med_learner, Learner.__init__)
    check_callables(loss_func=loss_func, opt_func=opt_func, splitter=splitter, metrics=metrics, cbs=cbs)
    if not (isinstance(dropout, (int, float)) and 0 <= dropout < 1):
        raise MedclfError(f"dropout must be 0 or more and below 1, not {dropout!r}", "it is the share that is dropped")
    n_out = _outputs_asked(dls, n_out)
    weights = weights_asked(weights, pretrained)
    if isinstance(arch, torch.nn.Module):
        weights = weights_as_given(arch, weights)
    if isinstance(dls.device, str):
        dls.to(usable_device(dls.device))
    logits = ends_in_logits(custom_head) if isinstance(custom_head, torch.nn.Module) else y_range is None
    check_measures(loss_func, metrics, is_multi_label(dls), n_out, dls.device, logits=logits)
    n_in = _channels_asked(dls, n_in)
    head_options = dict(concat_pool=concat_pool, pool=pool, lin_ftrs=lin_ftrs, ps=ps)
    head_options |= dict(first_bn=first_bn, bn_final=bn_final, lin_first=lin_first, y_range=y_range)
    head_options = {name: value for name, value in head_options.items() if value is not None}
    _check_head_asked(custom_head, head_options, linear_probe)
    own = is_own(arch)
    with seeded(getattr(dls.train, "seed", None)):
        arch = _known_arch(arch, cut, dls)
        backbone = describe(arch, weights)
        network = build_network(arch, n_out, weights=weights, n_in=n_in, dropout=dropout)
        head = _fastai_head(network, backbone, n_out, head_options) if head_options else custom_head
        if head is not None:
            network[1] = head
            init = init or torch.nn.init.kaiming_normal_
        if own or head is not None:
            check_head(network, n_in, n_out, _input_size(dls) or (backbone.size, backbone.size))
        if init is not None:
            apply_init(network[1], init)
    if pooling is not None:
        pool_by(network, pooling)
    network.to(memory_format=torch.channels_last)  # depthwise networks train 1.8 times as fast with it on a CPU
    learn = MedLearner(
        dls,
        network,
        loss_func=_loss_asked(dls, loss_func, balance, n_out),
        opt_func=opt_func,
        lr=lr,
        splitter=splitter or param_groups,
        cbs=cbs,
        metrics=[accuracy_multi if is_multi_label(dls) else accuracy] if metrics is None else metrics,
        path=Path() if path is None else path,  # fastai would write its models into the data's folder
        model_dir=model_dir,
        wd=wd,
        wd_bn_bias=wd_bn_bias,
        train_bn=train_bn,
        moms=moms,
        **kwargs,
    )
    learn.arch, learn.dropout, learn.balance = backbone.name, dropout, balance
    learn._measures = (learn.loss_func, *learn.metrics)
    learn._first_head = last_weight(network).cpu().clone()
    learn.weights = origin(arch, weights)
    if normalize:
        learn.stats = Normalization(*stats_for(backbone.mean, backbone.std, n_in))
        learn.dls = dls
    learn.linear_probe = weights is not None if linear_probe is None else linear_probe
    if compile:
        network.compile()
    _fit_for_device(learn, mixed_precision)
    learn.freeze()
    return learn


def _outputs_asked(dls: DataLoaders, n_out: int | None) -> int:
    known = len(class_names(dls))
    check_rows(dls)
    if n_out not in (None, known):
        raise MedclfError(f"n_out={n_out}, but the loaders have {known} labels", "leave n_out out")
    return known


def _channels_asked(dls: DataLoaders, n_in: int | None) -> int:
    known = _channels(dls)
    if n_in is not None and known not in (None, n_in):
        remedy = f"leave n_in out, or make the loaders with channels={n_in}"
        raise MedclfError(f"n_in={n_in}, but the loaders give images of {known} channels", remedy)
    return n_in or known or 3


def _check_head_asked(custom_head: Any, options: dict[str, Any], linear_probe: bool | None) -> None:
    """Refuse a head of one's own that is no module, or that leaves other arguments nothing to do."""
    if custom_head is not None and options:
        raise MedclfError(f"custom_head leaves {next(iter(options))} nothing to do", "give the one or the other")
    if custom_head is not None and not isinstance(custom_head, torch.nn.Module):
        name = getattr(custom_head, "__name__", type(custom_head).__name__)
        raise MedclfError(f"custom_head is a module, and {name} is none", "give one that is made")
    if linear_probe and (custom_head is not None or options):
        raise MedclfError("a linear probe fits one linear layer, and this head has others", "leave linear_probe out")


def _loss_asked(dls: DataLoaders, loss_func: Any, balance: Balance, n_out: int) -> Any:
    if balance == "none":
        return loss_func
    if loss_func is not None:
        raise DataError(f"{argument('balance', balance)} has a loss function of its own", "leave one of them out")
    return balanced_loss(dls, balance, n_out, is_multi_label(dls))


def _fastai_head(network: Any, backbone: Backbone, n_out: int, options: dict[str, Any]) -> torch.nn.Module:
    """What fastai's `create_head` makes, on the body's own pooling where it has one."""
    own_pool = next(network[1].children()) if hasattr(network[0], "make_pooling") else None
    token = backbone.class_token
    return fastai_head(backbone.n_features, n_out, class_token=token, body_pool=own_pool, **options)


def _known_arch(arch: Any, cut: Any, dls: DataLoaders) -> Any:
    """The architecture, by a name if it is one of the user's own, and as the images' size wants it."""
    if is_own(arch):
        arch = register_network(arch, cut)
    elif cut is not None:
        raise MedclfError("cut= is for networks of one's own; where to cut this one is known", "leave cut out")
    size = _input_size(dls)
    return arch if size is None else fitted_to(arch, size)


def _fit_for_device(learn: MedLearner, mixed_precision: bool | None) -> None:
    device = torch.device(learn.dls.device)
    on_gpu, fast = device.type == "cuda", has_bf16(device)
    if on_gpu:
        learn.recorder.smooth_loss = DeferredSmoothLoss(learn.recorder)
        learn.add_cb(FetchLosses())
    if mixed_precision if mixed_precision is not None else on_gpu or fast:
        on_cuda = MixedPrecision(amp_mode=AMPMode.BF16 if fast else AMPMode.FP16)
        learn.add_cb(on_cuda if on_gpu else TrainInBf16())


def cnn_learner(dls: DataLoaders, arch: str | Callable[..., Any] = TrainConfig.arch, *args: Any, **kwargs: Any) -> Any:
    """`med_learner`, by the old name that fastai's `vision_learner` had."""
    return med_learner(dls, arch, *args, **kwargs)


def param_groups(network: torch.nn.Module) -> L:
    """fastai's splitter: one group of parameters a stage, from the input to the head.

    Raises:
        MedclfError: it is no body with a head, as `med_learner` makes it.
    """
    if len(list(network.children())) != 2:
        text = f"learn.model is of type {type(network).__name__}, and not the body and head that med_learner made"
        remedy = "give a network as arch; med_learner(compile=True) compiles, learn.distrib_ctx() takes several GPUs"
        raise MedclfError(text, remedy)
    return L([list(stage.parameters()) for stage in stages(network)]).map(L)


def _input_size(dls: DataLoaders) -> tuple[int, int] | None:
    """Height and width of what the network will see; None where the loaders do not tell."""
    try:
        found = preprocessing_of(dls)
    except PreprocessingError:
        return None
    return found.size if found.sampling is None else found.sampling.size


def _channels(dls: DataLoaders) -> int | None:
    try:
        return reading_of(dls).channels
    except PreprocessingError:
        return None
