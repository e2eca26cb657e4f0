"""How programs name the tensors that they save, and what their networks want of the pixels: a row a layout.

What stands before each tensor's name (`module.`, `state_dict.model.encoder.` ...) is found by itself, see
`medclf.models.fitting`. Every row whose mark a file bears is tried, and the one is taken that makes most tensors fit
the network. To read one more layout, add a row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Rename = tuple[str, "str | Callable[[re.Match[str]], str]"]
Stats = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
IMAGENET: Stats = (IMAGENET_MEAN, IMAGENET_STD)
TO_MINUS_ONE_AND_ONE: Stats = (HALF, HALF)
CLIP: Stats = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
TO_MINUS_AND_PLUS_1024: Stats = (HALF, (1 / 2048,) * 3)

# Tensors of a file that need not fit: other heads, what pretraining alone used, and what is computed anew.
BESIDE = re.compile(
    r"^(decoder\w*|mask_token|head\w*|heads|fc|classifier|_fc|cls_head|last_linear|project(or|ion)\w*|predict(or|ion)\w*"
    r"|pred|prototypes|pooler|proj|visual_projection|logit_\w+|queue\w*|op_threshs|aux\w*|AuxLogits|lm_head|n_averaged"
    r"|local_cls_norm|(embeddings|patch_embed)\.position_ids)(\.|$)"
    r"|(^|\.)(relative_position_index|relative_coords_table|attn_mask|position_ids|num_batches_tracked|bias_mask|periods)$"
)


@dataclass(frozen=True)
class Layout:
    """One row.

    Args:
        written_by: the programs that save so.
        mark: a regular expression that the name of some tensor must match; "" for any file.
        renames: (regular expression, replacement) pairs, one after the other, for each name. Of names that then end
            their stem with @0, @1, @2 the tensors are stacked: queries, keys and values.
        splits: beginnings of names whose tensors hold queries, keys and values -> those of the queries, of the rest.
        numbered: the network's parts are numbered in their order instead of named, as `nn.Sequential` does.
        stats: mean and standard deviation that such networks want of pixels in [0, 1]; None for as the architecture
            has it.

    Example:
        >>> layout = Layout("an old trainer", renames=((r"norm\\.(\\d)", r"norm\\1"),))
        >>> list(layout.apply({"module.norm.1.bias": torch.zeros(2)}))
        ['module.norm1.bias']
        >>> row = Layout("three projections", renames=(("^q", "qkv@0"), ("^k", "qkv@1"), ("^v", "qkv@2")))
        >>> row.apply({"q.bias": torch.zeros(1), "k.bias": torch.ones(1), "v.bias": torch.zeros(1)})
        {'qkv.bias': tensor([0., 1., 0.])}
    """

    written_by: str
    mark: str = ""
    renames: tuple[Rename, ...] = ()
    splits: tuple[tuple[str, str, str], ...] = ()
    numbered: bool = False
    stats: Stats | None = None

    def is_like(self, names: Mapping[str, Tensor]) -> bool:
        """Whether some name bears the mark."""
        return not self.mark or any(re.search(self.mark, name) for name in names)

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under the names that the network's own library gives them."""
        renamed = {self._named(name): tensor for name, tensor in state.items()}
        stacked: dict[str, list[Tensor]] = {}
        for name in sorted(name for name in renamed if "@" in name):
            stacked.setdefault(re.sub(r"@\d", "", name), []).append(renamed[name])
        made = {name: tensor for name, tensor in renamed.items() if "@" not in name}
        made |= {name: torch.cat(parts) for name, parts in stacked.items()}
        for start, first, rest in self.splits:
            for name in [name for name in made if start in name]:
                tensor = made.pop(name)
                third = len(tensor) // 3
                made[name.replace(start, first)] = tensor[:third]
                made[name.replace(start, rest)] = tensor[third:]
        return made

    def _named(self, name: str) -> str:
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name


_TRANSFORMERS: tuple[Rename, ...] = (  # ViT, DeiT, DINOv2; as they name them from version 5 on, and before
    (r"\bembeddings\.(cls_token|mask_token|register_tokens)\b", r"\1"),
    (r"\bembeddings\.position_embeddings\b", "pos_embed"),
    (r"\bembeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"\b(encoder\.)?layers?\.(\d+)\.(?!blocks|downsample)", r"blocks.\2."),
    (r"\battention\.((attention|self)\.query|q_proj)\.", "attn.qkv@0."),
    (r"\battention\.((attention|self)\.key|k_proj)\.", "attn.qkv@1."),
    (r"\battention\.((attention|self)\.value|v_proj)\.", "attn.qkv@2."),
    (r"\battention\.(output\.dense|o_proj)\.", "attn.proj."),
    (r"\blayernorm_before\.", "norm1."),
    (r"\blayernorm_after\.", "norm2."),
    (r"\bintermediate\.dense\.", "mlp.fc1."),
    (r"\boutput\.dense\.", "mlp.fc2."),
    (r"\bmlp\.weights_in\.", "mlp.fc1."),
    (r"\bmlp\.weights_out\.", "mlp.fc2."),
    (r"\blayer_scale(\d)\.lambda1\b", r"ls\1.gamma"),
    (r"\blayernorm\.", "norm."),
)
_SWIN: tuple[Rename, ...] = (
    (r"\bembeddings\.norm\.", "patch_embed.norm."),
    (r"\bencoder\.layers\.", "layers."),
    (r"\battention\.(self|relative_position_bias)\.(relative_position\w+)", r"attn.\2"),
    *_TRANSFORMERS,
)
_DINOV3: tuple[Rename, ...] = (
    (r"\bembeddings\.register_tokens\b", "reg_token"),
    (r"\bembeddings\.(cls_token|mask_token)\b", r"\1"),
    (r"\bembeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"\b(model\.)?layer\.(\d+)\.", r"blocks.\2."),
    (r"\battention\.q_proj\.weight\b", "attn.qkv@0.weight"),
    (r"\battention\.k_proj\.weight\b", "attn.qkv@1.weight"),
    (r"\battention\.v_proj\.weight\b", "attn.qkv@2.weight"),
    (r"\battention\.([qkv])_proj\.bias\b", r"attn.\1_bias"),
    (r"\battention\.o_proj\.", "attn.proj."),
    (r"\blayer_scale(\d)\.lambda1\b", r"gamma_\1"),
    (r"\bmlp\.down_proj\.", "mlp.fc2."),
)
_CLIP: tuple[Rename, ...] = (  # CLIP and SigLIP in transformers
    (r"\bembeddings\.class_embedding\b", "cls_token"),
    (r"\bembeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"\bembeddings\.position_embedding\.weight\b", "pos_embed"),
    (r"\bencoder\.layers\.(\d+)\.", r"blocks.\1."),
    (r"\bself_attn\.q_proj\.", "attn.qkv@0."),
    (r"\bself_attn\.k_proj\.", "attn.qkv@1."),
    (r"\bself_attn\.v_proj\.", "attn.qkv@2."),
    (r"\bself_attn\.out_proj\.", "attn.proj."),
    (r"\blayer_norm(\d)\.", r"norm\1."),
    (r"\bpre_layrnorm\.", "norm_pre."),
    (r"\bpost_layernorm\.", "norm."),
    (r"\bhead\.probe\b", "attn_pool.latent"),
    (r"\bhead\.attention\.out_proj\.", "attn_pool.proj."),
    (r"\bhead\.attention\.in_proj_", "attn_pool.in_proj_"),
    (r"\bhead\.layernorm\.", "attn_pool.norm."),
    (r"\bhead\.mlp\.", "attn_pool.mlp."),
)
_OPEN_CLIP: tuple[Rename, ...] = (
    (r"\bclass_embedding\b", "cls_token"),
    (r"\bconv1\.", "patch_embed.proj."),
    (r"\bpositional_embedding\b", "pos_embed"),
    (r"\btransformer\.resblocks\.", "blocks."),
    (r"\bln_pre\.", "norm_pre."),
    (r"\bln_post\.", "norm."),
    (r"\bln_(\d)\.", r"norm\1."),
    (r"\battn\.in_proj_", "attn.qkv."),
    (r"\battn\.out_proj\.", "attn.proj."),
    (r"\bmlp\.c_fc\.", "mlp.fc1."),
    (r"\bmlp\.c_proj\.", "mlp.fc2."),
)
_CONVNEXT: tuple[Rename, ...] = (
    (r"\bembeddings\.patch_embeddings\.", "stem.0."),
    (r"\bembeddings\.layernorm\.", "stem.1."),
    (r"\b(encoder\.)?stages\.(\d+)\.downsampling_layer\.", r"stages.\2.downsample."),
    (r"\b(encoder\.)?stages\.(\d+)\.layers\.(\d+)\.layernorm\.", r"stages.\2.blocks.\3.norm."),
    (r"\b(encoder\.)?stages\.(\d+)\.layers\.(\d+)\.", r"stages.\2.blocks.\3."),
    (r"\bdwconv\.", "conv_dw."),
    (r"\bpwconv(\d)\.", r"mlp.fc\1."),
    (r"\blayer_scale_parameter\b", "gamma"),
    (r"\bgrn\.", "mlp.grn."),
    (r"\blayernorm\.", "head.norm."),
)


def _one_more(before: str) -> Callable[[re.Match[str]], str]:
    """A replacement that counts from 1 what its match counts from 0."""
    return lambda match: f"{before}{int(match[1]) + 1}."


_RESNET: tuple[Rename, ...] = (
    (r"\bembedder\.embedder\.convolution\.", "conv1."),
    (r"\bembedder\.embedder\.normalization\.", "bn1."),
    (r"\bencoder\.stages\.(\d+)\.layers\.", _one_more("layer")),
    (r"\bshortcut\.convolution\.", "downsample.0."),
    (r"\bshortcut\.normalization\.", "downsample.1."),
    (r"\blayer\.(\d+)\.convolution\.", _one_more("conv")),
    (r"\blayer\.(\d+)\.normalization\.", _one_more("bn")),
)

LAYOUTS: list[Layout] = [
    Layout("torch.save(model.state_dict()), torchvision, timm, UNI, Virchow, MoCo, Lightning, DataParallel"),
    Layout("fastai's learn.save, nn.Sequential", r"(^|\.)0\.(\w+\.)*(weight|bias)$", numbered=True),
    Layout("torchvision's first DenseNets", r"denselayer", ((r"(denselayer\d+\.(?:norm|conv|relu))\.(\d)", r"\1\2"),)),
    Layout("RadImageNet", r"\bbackbone\.0\.(\w+\.)*weight$", numbered=True, stats=TO_MINUS_ONE_AND_ONE),
    Layout("TorchXRayVision", r"\bop_threshs$", stats=TO_MINUS_AND_PLUS_1024),
    Layout("MoCo", r"\b(encoder_q|base_encoder)\.", stats=IMAGENET),
    Layout("DINO", r"\bteacher\.backbone\.", stats=IMAGENET),
    Layout("DINOv2 and DINOv3", r"\b(mask_token|storage_tokens)$"),
    Layout("masked autoencoders: MAE, RETFound", r"\bdecoder_\w+", stats=IMAGENET),
    Layout("open_clip with a network of timm: BiomedCLIP", r"\bvisual\.trunk\.", stats=CLIP),
    Layout("open_clip and OpenAI's CLIP", r"\btransformer\.resblocks\.", _OPEN_CLIP, stats=CLIP),
    Layout("transformers: CLIP", r"\bembeddings\.class_embedding$", _CLIP, stats=CLIP),
    Layout(
        "transformers: SigLIP, MedSigLIP",
        r"\bembeddings\.patch_embedding\.",
        _CLIP,
        (("attn_pool.in_proj_", "attn_pool.q.", "attn_pool.kv."),),
        stats=TO_MINUS_ONE_AND_ONE,
    ),
    Layout("transformers: ViT, DeiT", r"\blayernorm_before\.", _TRANSFORMERS, stats=TO_MINUS_ONE_AND_ONE),
    Layout("transformers: DINOv2, RAD-DINO", r"\blayer_scale1\.lambda1$", _TRANSFORMERS, stats=IMAGENET),
    Layout("transformers: DINOv3", r"\battention\.o_proj\.", (*_DINOV3, (r"\bup_proj\.", "fc1.")), stats=IMAGENET),
    Layout(
        "transformers: DINOv3 with a gated layer",
        r"\bmlp\.gate_proj\.",
        (*_DINOV3, (r"\bgate_proj\.", "fc1_g."), (r"\bup_proj\.", "fc1_x.")),
        stats=IMAGENET,
    ),
    Layout("transformers: Swin", r"\battention\.\w+\.relative_position_bias_table$", _SWIN, stats=IMAGENET),
    Layout("transformers: ConvNeXt", r"\blayers\.\d+\.pwconv1\.", _CONVNEXT, stats=IMAGENET),
    Layout("transformers: ResNet", r"\bembedder\.embedder\.convolution\.", _RESNET, stats=IMAGENET),
]
