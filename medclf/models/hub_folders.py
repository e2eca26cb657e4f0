"""A model hub's repository, or a folder like one -> which architecture its weights are of, and what they want."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from medclf.errors import MedclfError, WeightsError, argument
from medclf.models.weight_files import reach

_CONFIGS = ("config.json", "open_clip_config.json", "preprocessor_config.json", "README.md")
_WEIGHTS = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
_INDEX = "model.safetensors.index.json"
_MAX_JSON = 16 * 2**20
# open_clip's names -> timm's; those that end in -quickgelu are timm's clip_quickgelu.
OPEN_CLIP = {
    "ViT-B-32": "vit_base_patch32_clip_224",
    "ViT-B-16": "vit_base_patch16_clip_224",
    "ViT-L-14": "vit_large_patch14_clip_224",
    "ViT-L-14-336": "vit_large_patch14_clip_336",
    "ViT-H-14": "vit_huge_patch14_clip_224",
    "ViT-g-14": "vit_giant_patch14_clip_224",
    "ViT-bigG-14": "vit_gigantic_patch14_clip_224",
    "ViT-B-16-SigLIP": "vit_base_patch16_siglip_224",
    "ViT-B-16-SigLIP-256": "vit_base_patch16_siglip_256",
    "ViT-B-16-SigLIP-384": "vit_base_patch16_siglip_384",
    "ViT-L-16-SigLIP-256": "vit_large_patch16_siglip_256",
    "ViT-L-16-SigLIP-384": "vit_large_patch16_siglip_384",
    "ViT-SO400M-14-SigLIP": "vit_so400m_patch14_siglip_224",
    "ViT-SO400M-14-SigLIP-384": "vit_so400m_patch14_siglip_384",
    "RN50": "resnet50_clip",
    "RN101": "resnet101_clip",
    "RN50x4": "resnet50x4_clip",
    "RN50x16": "resnet50x16_clip",
    "RN50x64": "resnet50x64_clip",
}
_WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1152: "so400m", 1280: "huge", 1408: "giant"}
_SWINS: dict[Any, str] = {(96, 6): "tiny", (96, 18): "small", (128, 18): "base", (192, 18): "large"}
_CONVNEXTS: dict[Any, str] = {
    (96, 9): "tiny",
    (96, 27): "small",
    (128, 27): "base",
    (192, 27): "large",
    (256, 27): "xlarge",
}
_CLIPS: dict[Any, str] = {768: "base", 1024: "large", 1280: "huge", 1408: "giant", 1664: "gigantic"}
_RESNETS = {(3, 4, 6, 3): "50", (3, 4, 23, 3): "101", (3, 8, 36, 3): "152"}


@dataclass(frozen=True)
class Published:
    """What a repository of weights says of them.

    Args:
        arch: timm's or torchvision's name, with what it is to be asked for.
        files: of the weights.
        origin: the repository, or the folder's name.
        mean, std: of each colour channel in [0, 1]; None for the architecture's own.
        size: side of the images in pixels; None likewise.
        licence: as its README states it.
    """

    arch: str
    files: tuple[Path, ...]
    origin: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    licence: str = ""

    def facts(self) -> dict[str, str]:
        """For the card of a bundle."""
        return {"weights": self.origin, "licence": self.licence or "not stated there", "published_at": self.origin}


def is_repository(arch: str) -> bool:
    """Whether an architecture is named by where its weights lie.

    Example:
        >>> is_repository("hf-hub:microsoft/rad-dino"), is_repository("timm/resnet18")
        (True, False)
    """
    return arch.startswith(("hf-hub:", "local-dir:")) or (
        ("/" in arch or "\\" in arch) and not arch.startswith("timm/") and Path(arch.partition("?")[0]).is_dir()
    )


def published(arch: str) -> Published:
    """What lies in `hf-hub:OWNER/NAME`, `local-dir:FOLDER`, or a folder: fetched where it is not on this machine.

    The folder is one that timm, transformers or open_clip saved, or one of the hub's cache.

    Raises:
        WeightsError: the hub cannot be reached, or there are no weights in it.
        MedclfError: it is of a network that medclf does not know.
    """
    kind, _, place = arch.partition(":") if arch.startswith(("hf-hub:", "local-dir:")) else ("local-dir", ":", arch)
    place, _, asked = place.partition("?")
    if kind == "hf-hub":
        found = _in_folder(_downloaded(place), place)
    else:
        found = _in_folder(_snapshot(Path(place)), Path(place).absolute().name)  # where it lay stays here
    if asked:
        joint = "&" if "?" in found.arch else "?"
        return Published(**{**vars(found), "arch": f"{found.arch}{joint}{asked}"})
    return found


def _snapshot(folder: Path) -> Path:
    """The folder itself; of the hub's cache (`models--OWNER--NAME`), its snapshot."""
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder", "give one with config.json and its weights")
    main = folder / "refs" / "main"
    if main.is_file():
        return folder / "snapshots" / main.read_text(encoding="utf-8").strip()
    snapshots = sorted((folder / "snapshots").glob("*")) if (folder / "snapshots").is_dir() else []
    return snapshots[-1] if snapshots else folder


@lru_cache(maxsize=64)
def _downloaded(repository: str) -> Path:
    """The repository's folder in the hub's cache, filled."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    def fetched(name: str) -> Path | None:
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
        if not asked:
            reach(huggingface_hub.constants.ENDPOINT, f"hf-hub:{repository}")
            asked.append(name)
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return None

    asked: list[str] = []
    try:
        there = [file for name in _CONFIGS if (file := fetched(name))]
        weights = next((file for name in _WEIGHTS if (file := fetched(name))), None)
        if weights is None and (index := fetched(_INDEX)):
            for name in sorted(set(_json(index).get("weight_map", {}).values())):
                fetched(str(name))
            weights = index
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise WeightsError(
            f"hf-hub:{repository} cannot be fetched: {error}".partition("\n")[0],
            "download the repository where there is a network, and give its folder: local-dir:FOLDER",
        ) from error
    if weights is None:
        raise WeightsError(f"hf-hub:{repository} holds none of {', '.join(_WEIGHTS)}", "choose another repository")
    return (there[0] if there else weights).parent


def _in_folder(folder: Path, origin: str) -> Published:
    config = _json(folder / "config.json")
    clip = _json(folder / "open_clip_config.json")
    seen = _json(folder / "preprocessor_config.json")
    files = tuple(folder / name for name in _WEIGHTS if (folder / name).is_file())[:1]
    if not files and (folder / _INDEX).is_file():
        names = set(map(str, _json(folder / _INDEX).get("weight_map", {}).values()))
        files = tuple(folder / Path(name).name for name in sorted(names))
    if not files:
        raise WeightsError(f"{folder} holds none of {', '.join(_WEIGHTS)}", "give the folder that holds the weights")
    of_timm = config.get("pretrained_cfg") or {}
    of_clip = clip.get("preprocess_cfg") or {}
    mean = of_timm.get("mean") or of_clip.get("mean") or seen.get("image_mean")
    std = of_timm.get("std") or of_clip.get("std") or seen.get("image_std")
    if config.get("architecture"):
        arch = _of_timm(config)
    elif clip:
        arch = _of_open_clip(clip)
    elif config.get("model_type"):
        arch = _of_transformers(config)
    else:
        raise MedclfError(
            f"{folder} does not say which network its weights are of",
            f"give the architecture by name and the file with weights: {_by_name()}",
        )
    size = of_timm.get("input_size", [None])[-1] or config.get("image_size")
    return Published(
        arch,
        files,
        origin,
        tuple(map(float, mean)) if mean else None,
        tuple(map(float, std)) if std else None,
        int(size) if isinstance(size, (int, float)) else None,
        _licence(folder, config),
    )


def _of_timm(config: Mapping[str, Any]) -> str:
    """timm's own repositories: the name, and the arguments that it was made with."""
    from medclf.models.timm_nets import OPTIONS

    asked = [
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in (config.get("model_args") or {}).items()
        if name in OPTIONS and value not in (None, "", [])
    ]
    return f"timm/{config['architecture']}{'?' if asked else ''}{'&'.join(asked)}"


def _of_open_clip(config: Mapping[str, Any]) -> str:
    vision = (config.get("model_cfg") or {}).get("vision_cfg") or {}
    size = int(vision.get("image_size", 224))
    if vision.get("timm_model_name"):
        name, made_for = f"timm/{vision['timm_model_name']}", vision["timm_model_name"].rpartition("_")[2]
        pool = {"avg": "avg", "token": "token", "map": "map"}.get(vision.get("timm_pool", ""), "")
        asked = [*([f"img_size={size}"] if made_for.isdigit() and int(made_for) != size else [])]
        asked += [f"global_pool={pool}"] if pool else []
        return f"{name}{'?' if asked else ''}{'&'.join(asked)}"
    if isinstance(vision.get("layers"), int):
        width = _CLIPS.get(vision.get("width"))
        quick = "quickgelu_" if (config.get("model_cfg") or {}).get("quick_gelu") else ""
        if width:
            return f"timm/vit_{width}_patch{vision.get('patch_size')}_clip_{quick}{size}"
    raise _unknown("open_clip", vision)


def _of_transformers(config: Mapping[str, Any]) -> str:
    kind, config = str(config["model_type"]), {**config, **(config.get("vision_config") or {})}
    width, size, patch = config.get("hidden_size"), config.get("image_size"), config.get("patch_size")
    name = _WIDTHS.get(width or 0, "") if isinstance(width, int) else ""
    depths = tuple(config.get("depths") or ())
    made_for, asked = 224, []
    if kind in ("vit", "vit_mae", "vit_msn", "deit") and name and kind != "deit":
        arch = f"vit_{name}_patch{patch}_224"
    elif kind in ("dinov2", "dinov2_with_registers", "rad_dino") and name:
        registers = "_reg4" if kind.endswith("registers") else ""
        arch, made_for = f"vit_{name}_patch{patch}_{registers[1:] + '_' if registers else ''}dinov2", 518
    elif kind in ("siglip", "siglip_vision_model") and name:
        arch = f"vit_{name}_patch{patch}_siglip_{'384' if patch == 14 else '224'}"
        made_for = 384 if patch == 14 else 224
        asked += ["act_layer=gelu_tanh"] if config.get("hidden_act", "gelu_pytorch_tanh") == "gelu_pytorch_tanh" else []
    elif kind in ("clip", "clip_vision_model") and name:
        quick = "quickgelu_" if config.get("hidden_act") == "quick_gelu" else ""
        arch = f"vit_{name}_patch{patch}_clip_{quick}224"
    elif kind == "swin" and len(depths) == 4 and (named := _SWINS.get((config.get("embed_dim"), depths[2]))):
        arch = f"swin_{named}_patch4_window{config.get('window_size', 7)}_{size or 224}"
        made_for = size or 224
    elif kind in ("convnext", "convnextv2") and len(depths) == 4:
        named = _CONVNEXTS.get(((config.get("hidden_sizes") or [0])[0], depths[2]), "")
        if not named:
            raise _unknown(kind, config)
        arch, size = f"{'convnextv2' if kind.endswith('v2') else 'convnext'}_{named}", None
    elif kind == "resnet" and config.get("layer_type") == "bottleneck" and depths in _RESNETS:
        return f"resnet{_RESNETS[depths]}"
    else:
        raise _unknown(kind, config)
    if isinstance(size, int) and size != made_for:
        asked.append(f"img_size={size}")
    return f"timm/{arch}{'?' if asked else ''}{'&'.join(asked)}"


def _by_name() -> str:
    return f"{argument('arch', 'timm/NAME')}, {argument('weights', 'FILE')}"


def _unknown(kind: str, config: Mapping[str, Any]) -> MedclfError:
    shown = {key: config[key] for key in ("hidden_size", "width", "layers", "depths", "patch_size") if key in config}
    return MedclfError(
        f"a network of the kind {kind!r} with {shown} is not known",
        f"if timm has it, give its name and the file: {_by_name()}",
    )


def _licence(folder: Path, config: Mapping[str, Any]) -> str:
    """What the README's head states, or timm's configuration."""
    readme = folder / "README.md"
    if readme.is_file():
        for line in readme.read_text(encoding="utf-8", errors="replace")[:4000].splitlines():
            key, colon, value = line.partition(":")
            if colon and key.strip() in ("license", "licence") and value.strip():
                return value.strip()
    return str((config.get("pretrained_cfg") or {}).get("license") or "")


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file.

    Raises:
        MedclfError: it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError("it is too long")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MedclfError(f"{path} is not JSON: {error}", "copy it again from its source") from error
    return found if isinstance(found, dict) else {}
