"""Folders of timm, transformers, open_clip and the hub's cache: which network, pixels and licence they say."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from medclf.errors import MedclfError, WeightsError
from medclf.models.backbones import build_body, describe, encoder_facts, fitted_to, origin
from medclf.models.hub_folders import OPEN_CLIP, published
from medclf.models.registry import resolve

X = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def folder_of(tmp_path, config, name="config.json", **files):
    (tmp_path / name).write_text(json.dumps(config))
    for file, content in files.items():
        (tmp_path / f"{file}.json").write_text(json.dumps(content))
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-nd-4.0\n---\n# A model\n")
    if not (tmp_path / "model.safetensors").exists():
        save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def timms(tmp_path):
    """As timm.models.push_to_hf_hub writes it."""
    network = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64, init_values=1.0, num_classes=0)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0}
    config["model_args"] = {"depth": 2, "img_size": 64, "init_values": 1.0, "num_classes": 0}
    config["pretrained_cfg"] = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 64, 64]}
    return folder_of(tmp_path, config), network.eval()


@pytest.mark.parametrize("kind", ["local-dir", "folder", "hub's cache"])
def test_a_folder_of_timm(kind, timms):
    folder, network = timms
    arch = f"local-dir:{folder}" if kind == "local-dir" else str(folder)
    if kind == "hub's cache":
        cache = folder / "models--owner--name"
        (cache / "refs").mkdir(parents=True)
        (cache / "refs" / "main").write_text("abc")
        (cache / "snapshots").mkdir()
        (cache / "snapshots" / "abc").symlink_to(folder)
        arch = f"local-dir:{cache}"
    facts = describe(arch)
    assert (facts.source, facts.mean, facts.std, facts.size) == ("timm", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 64)
    assert facts.name == "timm/vit_tiny_patch16_224?depth=2&img_size=64&init_values=1.0"
    with torch.inference_mode():
        torch.testing.assert_close(build_body(arch).eval()(X), network.forward_features(X), rtol=0, atol=1e-5)
    assert origin(arch, "default") == arch and encoder_facts(arch, "default")["licence"] == "cc-by-nc-nd-4.0"


@pytest.mark.parametrize(
    ("config", "arch"),
    [
        ({"model_type": "dinov2", "hidden_size": 768, "patch_size": 14, "image_size": 518}, "vit_base_patch14_dinov2"),
        (
            {"model_type": "dinov2_with_registers", "hidden_size": 384, "patch_size": 14, "image_size": 518},
            "vit_small_patch14_reg4_dinov2",
        ),
        ({"model_type": "vit", "hidden_size": 192, "patch_size": 16, "image_size": 224}, "vit_tiny_patch16_224"),
        (
            {
                "model_type": "siglip",
                "vision_config": {"hidden_size": 1152, "patch_size": 14, "image_size": 448},
                "text_config": {"hidden_size": 1152},
            },
            "vit_so400m_patch14_siglip_384?act_layer=gelu_tanh&img_size=448",
        ),
        (
            {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "window_size": 7, "image_size": 224},
            "swin_tiny_patch4_window7_224",
        ),
        ({"model_type": "convnext", "depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768]}, "convnext_tiny"),
        ({"model_type": "resnet", "depths": [3, 4, 6, 3], "layer_type": "bottleneck"}, "resnet50"),
    ],
)
def test_what_transformers_configurations_mean(config, arch, tmp_path):
    folder = folder_of(tmp_path, config, preprocessor_config={"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3})
    found = published(f"local-dir:{folder}")
    assert found.arch == (arch if arch == "resnet50" else f"timm/{arch}") and found.mean == (0.5307,) * 3
    assert resolve(found.arch)[1] == arch


def test_biomedclip_is_one_of_timms(tmp_path):
    vision = {"timm_model_name": "vit_base_patch16_224", "timm_pool": "", "image_size": 224}
    config = {"model_cfg": {"embed_dim": 512, "vision_cfg": vision}, "preprocess_cfg": {"mean": [0.48, 0.46, 0.41]}}
    found = published(str(folder_of(tmp_path, config, "open_clip_config.json")))
    assert found.arch == "timm/vit_base_patch16_224" and found.mean == (0.48, 0.46, 0.41)


def test_open_clips_names_are_timms():
    assert resolve("ViT-B-16") == ("timm", "vit_base_patch16_clip_224")
    assert resolve("ViT-B-16-quickgelu") == ("timm", "vit_base_patch16_clip_quickgelu_224")
    assert all(timm.is_model(name) for name in OPEN_CLIP.values())


@pytest.mark.parametrize("config", [{}, {"model_type": "bert", "hidden_size": 768}])
def test_a_folder_of_another_kind_is_refused(config, tmp_path):
    with pytest.raises(MedclfError) as error:
        describe(f"local-dir:{folder_of(tmp_path, config)}")
    assert "arch=" in error.value.remedy


def test_folders_without_weights_or_with_damaged_json_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="not a folder"):
        describe(f"local-dir:{tmp_path / 'absent'}")
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        describe(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(MedclfError, match="not JSON"):
        describe(f"local-dir:{tmp_path}")


def test_an_unreachable_repository_is_said_at_once(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(WeightsError, match="cannot be fetched"):
        describe("hf-hub:nobody/nothing")


@pytest.mark.parametrize(
    ("arch", "size", "wanted"),
    [
        ("resnet34", (50, 70), "resnet34"),
        ("vit_b_16", (64, 64), "vit_b_16"),
        ("timm/vit_tiny_patch16_224", (96, 96), "timm/vit_tiny_patch16_224"),
        ("timm/vit_small_patch14_dinov2", (32, 45), "timm/vit_small_patch14_dinov2"),
        (
            "timm/vit_small_patch14_dinov2?img_size=224",
            (32, 45),
            "timm/vit_small_patch14_dinov2?img_size=224&dynamic_img_size=true&dynamic_img_pad=true",
        ),
        ("timm/crossvit_tiny_240", (240, 240), "timm/crossvit_tiny_240"),
    ],
)
def test_the_network_that_takes_the_size(arch, size, wanted):
    assert fitted_to(arch, size) == wanted


def test_a_size_that_does_not_fit_is_refused_in_one_line():
    with pytest.raises(MedclfError, match="takes no images of 65 x 65 pixels") as error:
        fitted_to("vit_b_16", (65, 65))
    assert "size=224" in error.value.remedy and "\n" not in error.value.message


@pytest.mark.parametrize("asked", ["img_size=9999", "depth=x", "imgsize=64", "mlp_layer=os.system", "qkv_bias=1"])
def test_what_a_network_cannot_be_asked_for(asked):
    with pytest.raises(MedclfError) as error:
        resolve(f"timm/vit_tiny_patch16_224?{asked}")
    assert error.value.remedy


@pytest.mark.parametrize("asked", ["crossvit_tiny_240?img_size=96", "vit_tiny_patch16_224?num_heads=5"])
def test_what_timm_cannot_build_is_refused_by_name(asked):
    with pytest.raises(MedclfError, match=r"\?.* cannot be built: ") as error:
        describe(f"timm/{asked}")
    assert "question mark" in error.value.remedy and "\n" not in error.value.message
