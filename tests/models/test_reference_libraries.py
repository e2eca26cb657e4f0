"""Random networks of transformers and open_clip, saved as those save them, against the features that those give."""

import os

import pytest
import torch

from medclf.models.backbones import build_body, describe
from medclf.models.pooling import pooling_of

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "image_size": 64,
}
VIT = "timm/vit_tiny_patch16_224?depth=2&img_size=64"


def lively(network):
    """Weights that all have a say."""
    torch.manual_seed(0)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if not tensor.is_floating_point() or name.endswith("inv_freq"):
            continue
        positive = name.endswith(("running_var", "norm.weight", "lambda1"))
        tensor.data.uniform_(0.5, 1.5) if positive else tensor.data.normal_(0, 0.05)
    return network.eval()


def vit():
    return transformers.ViTModel(transformers.ViTConfig(**SMALL, patch_size=16, layer_norm_eps=1e-6))


def dinov2():
    return transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, patch_size=14, mlp_ratio=4))


def dinov2_with_registers():
    config = transformers.Dinov2WithRegistersConfig(**SMALL, patch_size=14, mlp_ratio=4, num_register_tokens=4)
    return transformers.Dinov2WithRegistersModel(config)


def dinov3():
    config = transformers.DINOv3ViTConfig(**SMALL, patch_size=16, num_register_tokens=4)
    return transformers.DINOv3ViTModel(config)


def siglip():
    config = transformers.SiglipVisionConfig(**SMALL, patch_size=16, hidden_act="gelu_pytorch_tanh")
    return transformers.SiglipVisionModel(config)


def clip():
    config = transformers.CLIPVisionConfig(**SMALL, patch_size=16, hidden_act="gelu")
    return transformers.CLIPVisionModel(config)


def swin():
    config = transformers.SwinConfig(
        image_size=224, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7
    )
    return transformers.SwinModel(config)


def convnext(kind=""):
    config = getattr(transformers, f"ConvNext{kind}Config")(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 6, 2])
    return getattr(transformers, f"ConvNext{kind}Model")(config)


def resnet():
    return transformers.ResNetModel(transformers.ResNetConfig())


NETWORKS = {
    "vit": (vit, VIT, 64, lambda out: out.last_hidden_state[:, 0]),
    "dinov2": (
        dinov2,
        "timm/vit_tiny_patch16_224?depth=2&img_size=56&patch_size=14&init_values=1",
        56,
        lambda out: out.last_hidden_state[:, 0],
    ),
    "dinov3": (
        dinov3,
        "timm/vit_small_patch16_dinov3_qkvb?depth=2&img_size=64&global_pool=token&embed_dim=192&num_heads=3",
        64,
        lambda out: out.last_hidden_state[:, 0],
    ),
    "siglip": (
        siglip,
        "timm/vit_base_patch16_siglip_224?depth=2&img_size=64&embed_dim=192&num_heads=3&act_layer=gelu_tanh",
        64,
        lambda out: out.pooler_output,
    ),
    "clip": (
        clip,
        "timm/vit_base_patch16_clip_224?depth=2&img_size=64&embed_dim=192&num_heads=3",
        64,
        lambda out: out.pooler_output,
    ),
    "swin": (swin, "timm/swin_tiny_patch4_window7_224", 224, lambda out: out.pooler_output),
    "convnext": (convnext, "timm/convnext_pico", 64, lambda out: out.pooler_output),
    "convnextv2": (lambda: convnext("V2"), "timm/convnextv2_pico", 64, lambda out: out.pooler_output),
    "resnet": (resnet, "resnet50", 64, lambda out: out.pooler_output.flatten(1)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("saving", ["state_dict", "save_pretrained"])
def test_transformers(name, saving, tmp_path):
    make, arch, size, features = NETWORKS[name]
    theirs = lively(make())
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    if saving == "state_dict":
        file = tmp_path / "pytorch_model.bin"
        torch.save(theirs.state_dict(), file)
    else:
        theirs.save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
    ours = build_body(arch, weights=file).eval()
    with torch.inference_mode():
        wanted = features(theirs(pixel_values=x))
        found = pooling_of(ours, class_token=describe(arch).class_token)(ours(x))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * max(1.0, float(wanted.abs().max())))


def test_dinov2_with_registers(tmp_path):
    theirs = lively(dinov2_with_registers())
    torch.save(theirs.state_dict(), tmp_path / "model.bin")
    arch = "timm/vit_small_patch14_reg4_dinov2?depth=2&img_size=70&embed_dim=192&num_heads=3"
    x = torch.randn(1, 3, 70, 70, generator=torch.Generator().manual_seed(1))
    ours = build_body(arch, weights=tmp_path / "model.bin").eval()
    with torch.inference_mode():
        found = ours(x).shape, pooling_of(ours)(ours(x)).shape
    assert found == ((1, 30, 192), (1, 192))


@pytest.mark.parametrize("name", ["ViT-B-32", "timm trunk"])
def test_open_clip(name, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": 64, "layers": 2, "width": 192, "patch_size": 16, "head_width": 64}
    arch = "timm/vit_base_patch16_clip_224?depth=2&img_size=64&embed_dim=192&num_heads=3"
    if name == "timm trunk":
        vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224}
        arch = "timm/vit_tiny_patch16_224"
    text = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 2, "layers": 1}
    theirs = lively(open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text))
    torch.save({"state_dict": theirs.state_dict(), "epoch": 1}, tmp_path / "open_clip_pytorch_model.bin")
    ours = build_body(arch, weights=tmp_path / "open_clip_pytorch_model.bin").eval()
    x = torch.randn(1, 3, vision["image_size"], vision["image_size"], generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = theirs.encode_image(x)
        features = pooling_of(ours)(ours(x))
        projected = features @ theirs.visual.proj if name == "ViT-B-32" else theirs.visual.head(features)
    torch.testing.assert_close(projected, wanted, rtol=0, atol=1e-4)
