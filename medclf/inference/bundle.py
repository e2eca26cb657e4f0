"""A trained network as a folder that others can use: safetensors and JSON, no stored code, no fastai.

`save_bundle` writes it, `load_bundle` checks it and predicts with the same pixels as in training.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, singledispatch
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from medclf.errors import BundleError, DataError, MedclfError, WeightsError, did_you_mean
from medclf.files import finite, sha256_of, write_json, write_tensors
from medclf.images.heatmap import check_places, on_prepared
from medclf.inference import bundle_format
from medclf.inference.bundle_folder import may_write, replacing_folder
from medclf.inference.bundle_format import WEIGHTS, golden_pixels
from medclf.inference.predictor import Prediction, Predictor
from medclf.inference.runnable import Runnable
from medclf.models.backbones import build_network, encoder_facts
from medclf.models.bn_folding import fold, foldable
from medclf.models.heads import make_head, pool_by
from medclf.models.spec import ModelSpec
from medclf.models.weight_files import read_state
from medclf.parallel import usable_device
from medclf.results.calibration import Calibration

if TYPE_CHECKING:
    from medclf.images.preprocessing import Item

__all__ = ["Bundle", "Prediction", "load_bundle", "save_bundle"]

CALIBRATION = ("temperature", "abstain", "operating_point", "decision", "ood", "tabular", "unit", "prevalence")
_DRIFT = 1e-4  # of the golden inputs' logits, where none of them is above 1
_FOLDING_DRIFT = 1e-5
_OTHER_DEVICE_DRIFT = 1e-2  # CUDA convolves in TF32


class Trained(Protocol):
    """What `save_bundle` needs of a learner: `med_learner` gives it."""

    @property
    def spec(self) -> ModelSpec: ...
    @property
    def model(self) -> nn.Module: ...


class Assessment(Protocol):
    """What `save_bundle` needs of an assessment: `assess` gives it."""

    @property
    def calibration(self) -> Calibration: ...
    @property
    def card(self) -> Mapping[str, Any]: ...


@runtime_checkable
class Assessable(Protocol):
    """A learner that can say how sure its network is: `med_learner` gives it."""

    @property
    def spec(self) -> ModelSpec: ...
    def assessed(self) -> Assessment: ...


@singledispatch
def as_trained(learn: Any) -> Trained:
    """What `save_bundle` makes of the learner that it is given: itself; `medclf.learn` registers fastai's own."""
    return cast(Trained, learn)


class Bundle(Predictor):
    """A loaded bundle: see `load_bundle`.

    Attributes:
        vocab: the labels in the order of the probabilities.
        multi_label: whether an image can carry several.
        spec: what the network is, its preprocessing included.
        calibration: temperature, operating point and limits, as far as they were saved.
        card: what the model's maker says of it.
        name: the folder's.
        hash: of everything in the bundle.
        device: where the network runs.
        content: all that bundle.json says.
        runnable: uint8 pixels (B, H, W, C) -> logits and pooled features; its norms may be folded.
    """

    def __init__(self, content: Mapping[str, Any], folder: Path, network: nn.Module, device: torch.device) -> None:
        at = folder.resolve()
        self.runnable = Runnable(network, ModelSpec.from_dict(content["recipe"]))
        super().__init__(content, at.parent.name if at.name == "bundle" else at.stem, self.runnable.run)
        self.device, self.content = device, dict(content)
        self._folder = folder

    @cached_property
    def network(self) -> nn.Module:
        """The network as it was trained, in eval mode, for what is not prediction; read when first asked for.

        Returns:
            `nn.Sequential(body, head)`: what `preprocess` gives, in a batch, -> logits.

        Raises:
            BundleError: the folder was changed or removed since it was loaded.
        """
        if bundle_format.read(self._folder)["hash"] != self.hash:
            raise BundleError(f"{self._folder} was changed since it was loaded", "load it again")
        return _restored(self.content, self._folder).to(self.device)

    def preprocess(self, item: Item) -> Tensor:
        """What the network takes: the prepared pixels, at its input's size and normalised.

        Args:
            item: see `predict`.

        Returns:
            float32 of (channels, height, width) on the bundle's device.

        Raises:
            ReadError: the image cannot be read.
        """
        inputs = self.runnable.inputs
        return cast(Tensor, inputs(inputs.tensor(self.prepare(item)[None]))[0])

    def saliency(self, item: Item, label: str | None = None, *, method: str = "grad-cam") -> np.ndarray:
        """Where the network looked: what `medclf.grad_cam` gives of a learner.

        Args:
            item: see `predict`; or pixels that `prepare` gave.
            label: a name of the vocab; the predicted one where None, of several labels the most probable.
            method: "grad-cam", or "occlusion", which needs no gradients and is slower.

        Returns:
            float32 of (height, width) of the prepared image, in [0, 1].

        Raises:
            ReadError: the image cannot be read.
            DataError: the label is not in the vocab.
            MedclfError: the network gives no map of the image.
        """
        from medclf.models.saliency import heat_maps

        prepared = np.array(self.prepare(item))[None]  # a copy, since torch wants to be able to write
        target = self._target(prepared, label)
        network = nn.Sequential(self.runnable.body, self.runnable.head)
        images = self.runnable.inputs(self.runnable.inputs.tensor(prepared))
        heat = heat_maps(network, images, [target], method)[0]
        check_places(heat.shape)
        return on_prepared(heat, self.preprocessing)


def save_bundle(
    learn: Any,
    path: str | Path,
    *,
    calibration: Calibration | Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a trained learner as a bundle: a folder with `weights.safetensors` and `bundle.json`.

    Args:
        learn: what `med_learner` returned, trained; or fastai's `vision_learner`, on loaders that read their images
            with medclf (`MedDataLoaders`, or a `DataBlock` with `MedImageBlock`).
        path: the folder to make.
        calibration: temperature, decision thresholds, limits for abstaining and for images out of distribution, as
            `assess` finds them; a dict has the form that the docs' page on bundles gives. Where None, the learner is
            assessed, if it was not since the network changed; {} for none.
        card: what users should know of the model: intended use, data, limits; any JSON. Where None, how it did.
        overwrite: replace a bundle that is there.

    Returns:
        `path`.

    Raises:
        OutputError: `path` exists already, or cannot be written.
        PreprocessingError: the loaders do to images what a bundle cannot carry over; the message names the transform.
        BundleError: the learner was made otherwise, or its network is not what its spec builds.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> from medclf.images.preprocessing import Preprocessing
        >>> from medclf.models.spec import Normalization
        >>> half = Normalization([0.5] * 3, [0.5] * 3)
        >>> learn = SimpleNamespace(
        ...     model=build_network("efficientnet_lite0", 2, weights=None),
        ...     spec=ModelSpec("efficientnet_lite0", ["normal", "polyp"], Preprocessing(64), half))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(file.name for file in save_bundle(learn, Path(folder) / "polyps.bundle").iterdir())
        ['bundle.json', 'weights.safetensors']
    """
    path = Path(path)
    if isinstance(learn, Bundle):
        raise BundleError("this is a bundle already", "copy its folder, or call push")
    may_write(path, overwrite)
    trained = as_trained(learn)
    content, state = _described(trained, calibration or {}, card or {})
    if calibration is None and isinstance(trained, Assessable):
        content |= _assessed(trained, card)
        spec = _spec(trained)
        content["format"] = bundle_format.format_of(spec.preprocessing, content["calibration"], spec.head)
    with replacing_folder(path) as folder:
        write_tensors(folder / WEIGHTS, state)
        content["weights"] = {"file": WEIGHTS, "sha256": sha256_of(folder / WEIGHTS)}
        content["hash"] = bundle_format.content_hash(content)
        write_json(folder / "bundle.json", content)
    return path


def _with_encoder(card: Mapping[str, Any], spec: ModelSpec) -> dict[str, Any]:
    """The card, and where the encoder's weights come from and under which licence."""
    try:
        facts = encoder_facts(spec.arch, spec.weights)
    except (MedclfError, OSError):  # a file that was moved, a registered network that is gone
        facts = {"weights": str(spec.weights)}
    return cast("dict[str, Any]", finite({"encoder": facts, **card}))


def _assessed(learn: Assessable, card: Mapping[str, Any] | None) -> dict[str, Any]:
    """What bundle.json says of how sure the network is, and how it did."""
    try:
        found = learn.assessed()
    except DataError as error:
        remedy = f"{error.remedy}; or give calibration={{}} to save it without limits"
        raise BundleError(f"the network cannot be assessed: {error.message}", remedy) from error
    return {
        "calibration": bundle_format.as_json(found.calibration),
        "card": _with_encoder(found.card if card is None else card, learn.spec),
    }


def _described(
    learn: Trained, calibration: Calibration | Mapping[str, Any], card: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """bundle.json without its hashes, and the tensors of the weights' file."""
    for name, given in (("calibration", calibration), ("card", card)):
        if not isinstance(given, (Mapping, Calibration)):
            remedy = "give its .calibration" if hasattr(given, "calibration") else "give a dict"
            raise BundleError(f"{name} is of the type {type(given).__name__}", remedy)
    spec = _spec(learn)
    recipe = finite(spec.as_dict())
    try:
        calibration = bundle_format.as_json(calibration)
        bundle_format.check_calibration(calibration, spec)
        heeded = Calibration.from_dict(calibration, multi_label=spec.multi_label).as_dict()
        json.dumps([recipe, calibration, finite(dict(card))])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"the calibration or card lacks or misstates: {error}", "see docs/bundle.md") from error
    for name in (name for name, value in calibration.items() if value and name not in heeded):
        remedy = did_you_mean(name, CALIBRATION) or "see docs/bundle.md"
        raise BundleError(f"nothing in a bundle would heed calibration[{name!r}] = {calibration[name]}", remedy)
    model = getattr(learn.model, "module", learn.model)  # out of DistributedDataParallel
    state = {name: _plain(tensor) for name, tensor in model.state_dict().items()}
    network = _assembled(spec, state, "the learner's network")
    pixels = golden_pixels(spec.preprocessing)
    with _running("the learner"):
        logits, _ = Runnable(network, spec).run(pixels)
        _compare_with_model(model, pixels, spec, logits)
        pairs = _safe_pairs(network, pixels, spec, logits)
    content = {
        "format": bundle_format.format_of(spec.preprocessing, calibration, spec.head),
        "recipe": recipe,
        "calibration": calibration,
        "card": _with_encoder(card, spec),
        "versions": {name: metadata.version(name) for name in ("medclf", "torch", "torchvision", "timm")},
        "fold": pairs,
        "golden": {"logits": logits.astype(np.float64).tolist()},
    }
    return content, state


def _spec(learn: Trained) -> ModelSpec:
    spec = getattr(learn, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise BundleError(
            f"a {type(learn).__name__} does not say what its network was built from, so a bundle could not build it "
            "again",
            'make the learner with med_learner(dls, "resnet18"), or with another architecture that it knows',
        )
    return spec


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.contiguous().clone()  # safetensors refuses tensors that share memory


def _compare_with_model(model: nn.Module, pixels: np.ndarray, spec: ModelSpec, logits: np.ndarray) -> None:
    """The network that the spec builds must be the one that was trained, not one of equal parameters."""
    device = next(model.parameters()).device
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        model = copy.deepcopy(model).float()
    training = model.training
    model.eval()
    try:
        trained, _ = Runnable(model, spec).run(pixels)
    finally:
        model.train(training)
    if not _within(trained, logits, _DRIFT if device.type == "cpu" else _OTHER_DEVICE_DRIFT):
        raise BundleError(
            "the learner's network does not give what its architecture builds, or gives no finite numbers",
            "save a network that med_learner made, its layers unchanged",
        )


def _safe_pairs(network: nn.Module, pixels: np.ndarray, spec: ModelSpec, logits: np.ndarray) -> list[list[str]]:
    """What can be folded without moving the golden inputs' logits."""
    inputs = Runnable(network, spec).inputs
    pairs = foldable(network, inputs(inputs.tensor(pixels[:1])))
    fold(network, pairs)
    folded, _ = Runnable(network.to(memory_format=torch.channels_last), spec).run(pixels)
    return [list(pair) for pair in pairs] if _within(folded, logits, _FOLDING_DRIFT) else []


def load_bundle(path: str | Path, device: str | torch.device = "cpu", verify: bool = True) -> Bundle:
    """Load what `save_bundle` wrote; nothing in it is executed, and a changed file is refused.

    Args:
        path: the folder.
        device: where to predict: "cpu", "cuda", ...
        verify: run the golden inputs again and compare their logits with those saved.

    Raises:
        BundleError: a file is missing, damaged or changed, of another format version, or the network on
            this machine drifts from the saved logits by more than 1e-4.

    Example:
        >>> # load_bundle("polyps.bundle").predict("image.png").label
    """
    return restore(bundle_format.read(Path(path)), path, device, verify)


def restore(
    content: Mapping[str, Any], path: str | Path, device: str | torch.device = "cpu", verify: bool = True
) -> Bundle:
    """`load_bundle`, where `bundle_format.read` has been called already: that needs no torch."""
    folder = Path(path)
    network: nn.Module = _restored(content, folder)
    with _running(str(folder)):
        fold(network, content["fold"])
        network = network.to(memory_format=torch.channels_last)
        if verify:
            network = _verified(network, content, folder)
    target = usable_device(device)
    return Bundle(content, folder, network.to(target), target)


@contextmanager
def _running(origin: str) -> Iterator[None]:
    """What a network raises on a size it cannot take, or a layer that is not there, as our own error."""
    try:
        yield
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise BundleError(f"{origin}: the network cannot run as described: {reason}", "see docs/bundle.md") from error


def _verified(network: nn.Module, content: Mapping[str, Any], folder: Path) -> nn.Module:
    """The folded network, or the plain one where folding moves the logits on this machine."""
    spec, saved = ModelSpec.from_dict(content["recipe"]), np.array(content["golden"]["logits"])
    pixels = golden_pixels(spec.preprocessing)
    if _within(Runnable(network, spec).run(pixels)[0], saved, _FOLDING_DRIFT):
        return network
    plain = _restored(content, folder)
    logits, _ = Runnable(plain, spec).run(pixels)
    if not _within(logits, saved, _DRIFT):
        raise BundleError(
            f"{folder} gives other logits here than where it was saved: by {np.abs(logits - saved).max():.2g}",
            "compare the versions in its bundle.json with those installed here",
        )
    return plain


def _within(logits: np.ndarray, wanted: np.ndarray, tolerance: float) -> bool:
    return bool((np.abs(logits - wanted) <= tolerance * max(1.0, float(np.abs(wanted).max()))).all())


def _restored(content: Mapping[str, Any], folder: Path) -> nn.Sequential:
    origin = str(folder / WEIGHTS)
    try:
        state = read_state(folder / WEIGHTS)
    except WeightsError as error:
        raise BundleError(error.message, "copy the bundle again from its source") from error
    return _assembled(ModelSpec.from_dict(content["recipe"]), state, origin)


def _assembled(spec: ModelSpec, state: Mapping[str, Tensor], origin: str) -> nn.Sequential:
    """The spec's network with these tensors, in eval mode; none of it is initialised first."""
    callers = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        try:
            with torch.device("meta"):
                network = _bare(spec, state)
        except NotImplementedError:  # a few networks read values while they are built
            network = _bare(spec, state)
        _load_state(network, state, origin)
        if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            network = _bare(spec, state)  # it has tensors that are computed, not saved
            _load_state(network, state, origin)
    finally:
        torch.set_default_dtype(callers)
    return network.eval()


def _bare(spec: ModelSpec, state: Mapping[str, Tensor]) -> nn.Sequential:
    old = not any(name.startswith("0.net.") for name in state)  # where it is one of timm's
    try:
        network = build_network(
            spec.arch, spec.n_out, weights=None, n_in=spec.n_in, dropout=spec.dropout, as_in_0_1=old
        )
        if spec.all_stages:
            pool_by(network, "stages")
        if spec.head is None:
            return network
        return nn.Sequential(network[0], make_head(spec.head, next(network[1].children())))
    except MedclfError as error:
        own = f"call medclf.models.own_networks.register_network({spec.arch.removeprefix('own/')}) before"
        remedy = own if spec.arch.startswith("own/") else error.remedy
        raise BundleError(f"the network cannot be built: {error.message}", remedy) from error


def _load_state(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    wanted = network.state_dict()
    wrong = sorted(wanted.keys() ^ state.keys())
    wrong += [
        name
        for name in wanted.keys() & state.keys()
        if (wanted[name].shape, wanted[name].dtype) != (state[name].shape, state[name].dtype)
    ]
    if wrong:
        raise BundleError(
            f"{origin} does not fit the network described: {len(wrong)} tensors differ ({', '.join(wrong[:3])})",
            "save the network that med_learner made, unchanged",
        )
    network.load_state_dict(state, assign=True)
