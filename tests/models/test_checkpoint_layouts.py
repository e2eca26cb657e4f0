"""Weights as other programs lay them out, against the features of the network that they were saved from."""

import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn

from medclf.errors import MedclfWarning, WeightsError
from medclf.models.backbones import build_body, describe
from medclf.models.checkpoint_layouts import BESIDE, LAYOUTS, Layout
from medclf.models.pooling import pooling_of

VIT = "timm/vit_tiny_patch16_224?depth=2&img_size=64"
X = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def lively(network):
    """Random weights whose norms have statistics of their own, so that a part left out would show."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for name, parameter in network.named_parameters():
        if name.endswith(("norm.bias", "cls_token", "pos_embed", "qkv.bias", "gamma")):
            nn.init.normal_(parameter, 0, 0.3)
    return network.eval()


def put(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.fixture(scope="module")
def resnet():
    return lively(torchvision.models.resnet18())


@pytest.fixture(scope="module")
def vit():
    return lively(timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64, init_values=1.0))


def parts(network):
    return nn.Sequential(*list(network.children())[:-1]).state_dict()


OF_RESNET = {
    "torch": lambda state, _: state,
    "DataParallel": lambda state, _: put("module.", state),
    "compiled": lambda state, _: put("_orig_mod.", state),
    "Lightning": lambda state, _: {"state_dict": put("model.encoder.", state), "epoch": 3},
    "several prefixes": lambda state, _: put("module.model.backbone.", state),
    "fastai's learn.save": lambda _, network: put("0.", parts(network)) | {"1.8.weight": torch.zeros(2, 512)},
    "with its optimiser": lambda _, network: {"model": put("0.", parts(network)), "opt": {"state": [{"mom": 1}]}},
    "RadImageNet": lambda _, network: put("backbone.", parts(network)) | {"classifier.drop_out.p": torch.zeros(1)},
    "MoCo": lambda state, _: {
        "arch": "resnet18",
        "state_dict": put("module.encoder_q.", state)
        | put("module.encoder_k.", {name: value + 1 for name, value in state.items()})
        | {"module.queue": torch.zeros(128, 16)},
    },
    "DINO": lambda state, _: {
        "student": put("module.backbone.", {name: value + 1 for name, value in state.items()}),
        "teacher": put("backbone.", state) | {"head.mlp.0.weight": torch.zeros(4, 4)},
    },
    "an average beside": lambda state, _: {
        "model": {name: value + 1 for name, value in state.items()},
        "model_ema": state,
    },
    "another head": lambda state, _: (
        {name: value for name, value in state.items() if not name.startswith("fc.")}
        | {"classifier.weight": torch.zeros(14, 512)}
    ),
}


@pytest.mark.parametrize("layout", OF_RESNET)
def test_a_resnet(layout, resnet, tmp_path):
    torch.save(OF_RESNET[layout](resnet.state_dict(), resnet), tmp_path / "weights.pth")
    body = build_body("resnet18", weights=tmp_path / "weights.pth").eval()
    with torch.inference_mode():
        wanted = nn.Sequential(*list(resnet.children())[:-2])(X)
        torch.testing.assert_close(body(X), wanted, rtol=0, atol=1e-5)


def decoder(state):
    return state | {"mask_token": torch.zeros(1, 1, 64), "decoder_embed.weight": torch.zeros(64, 192)}


def in_transformers_words(state, words, final="norm"):
    """The same tensors under other names, queries, keys and values apart."""
    made = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            before = f"{words['layers']}{parts[1]}."
            rest = ".".join(parts[2:-1])
            if rest == "attn.qkv":
                for word, third in zip(words["qkv"], value.chunk(3), strict=True):
                    made[f"{before}{word}.{parts[-1]}"] = third.clone()
            else:
                made[f"{before}{words[rest]}{'' if 'ls' in rest else '.' + parts[-1]}"] = value
        elif name.startswith("patch_embed.proj"):
            made[f"{words['patches']}.{parts[-1]}"] = value
        else:
            made[words.get(name, f"{final}.{parts[-1]}")] = value
    return made


HF = {
    "layers": "encoder.layer.",
    "qkv": [f"attention.attention.{part}" for part in ("query", "key", "value")],
    "attn.proj": "attention.output.dense",
    "patches": "embeddings.patch_embeddings.projection",
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
}
HF_VIT = HF | {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
HF_DINOV2 = HF | {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "ls1": "layer_scale1.lambda1",
    "ls2": "layer_scale2.lambda1",
}
HF_CLIP = {
    "layers": "vision_model.encoder.layers.",
    "qkv": [f"self_attn.{part}_proj" for part in "qkv"],
    "attn.proj": "self_attn.out_proj",
    "patches": "vision_model.embeddings.patch_embedding",
    "pos_embed": "vision_model.embeddings.position_embedding.weight",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
OF_VIT = {
    "timm": lambda state: state,
    "UNI": lambda state: put("module.", state),
    "MAE": lambda state: {"model": decoder(state)},
    "DINOv2": lambda state: state | {"mask_token": torch.zeros(1, 192)},
    "MoCo v3": lambda state: {"state_dict": put("module.base_encoder.", state) | put("module.predictor.0.", state)},
    "BiomedCLIP": lambda state: put("visual.trunk.", state) | {"visual.head.proj.weight": torch.zeros(8, 192)},
    "transformers ViT": lambda state: (
        put("vit.", in_transformers_words(state, HF_VIT, "layernorm")) | {"pooler.dense.weight": torch.zeros(192, 192)}
    ),
    "transformers DINOv2": lambda state: (
        in_transformers_words(state, HF_DINOV2, "layernorm") | {"embeddings.mask_token": torch.zeros(1, 192)}
    ),
}


@pytest.mark.parametrize("layout", OF_VIT)
def test_a_vision_transformer(layout, vit, tmp_path):
    state = {name: value for name, value in vit.state_dict().items() if not name.startswith("head.")}
    plain = layout == "transformers ViT"
    if plain:
        state = {name: value for name, value in state.items() if ".ls" not in name}
    torch.save(OF_VIT[layout](state), tmp_path / "weights.bin")
    body = build_body(VIT if plain else f"{VIT}&init_values=1", weights=tmp_path / "weights.bin").eval()
    theirs = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64, init_values=None if plain else 1.0).eval()
    theirs.load_state_dict(state, strict=False)
    with torch.inference_mode():
        torch.testing.assert_close(body(X), theirs.forward_features(X), rtol=0, atol=1e-4)


def test_siglip_pools_by_attention(tmp_path):
    options = {"depth": 2, "img_size": 64, "embed_dim": 192, "num_heads": 3}
    theirs = lively(timm.create_model("vit_base_patch16_siglip_224", num_classes=0, **options))
    state = theirs.state_dict()
    pool = {name: state.pop(name) for name in list(state) if name.startswith("attn_pool.")}
    saved = in_transformers_words(state, HF_CLIP, "vision_model.post_layernorm")
    saved["vision_model.embeddings.position_embedding.weight"] = state["pos_embed"][0]
    head = "vision_model.head."
    saved[f"{head}probe"] = pool["attn_pool.latent"]
    for kind in ("weight", "bias"):
        saved[f"{head}attention.in_proj_{kind}"] = torch.cat(
            [pool[f"attn_pool.q.{kind}"], pool[f"attn_pool.kv.{kind}"]]
        )
        saved[f"{head}attention.out_proj.{kind}"] = pool[f"attn_pool.proj.{kind}"]
        saved[f"{head}layernorm.{kind}"] = pool[f"attn_pool.norm.{kind}"]
        for layer in ("fc1", "fc2"):
            saved[f"{head}mlp.{layer}.{kind}"] = pool[f"attn_pool.mlp.{layer}.{kind}"]
    torch.save(saved, tmp_path / "siglip.pth")
    asked = "&".join(f"{name}={value}" for name, value in options.items())
    body = build_body(f"timm/vit_base_patch16_siglip_224?{asked}", weights=tmp_path / "siglip.pth").eval()
    with torch.inference_mode():
        torch.testing.assert_close(pooling_of(body)(body(X)), theirs(X), rtol=0, atol=1e-4)


def test_class_and_mean_token(vit, tmp_path):
    torch.save(vit.state_dict(), tmp_path / "virchow.bin")
    arch = f"{VIT}&init_values=1&global_pool=token+avg"
    body = build_body(arch, weights=tmp_path / "virchow.bin").eval()
    with torch.inference_mode():
        tokens = vit.forward_features(X)
        wanted = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)
        torch.testing.assert_close(pooling_of(body)(body(X)), wanted, rtol=0, atol=1e-5)
    assert describe(arch).n_features == 384


@pytest.mark.parametrize("n_in", [1, 3])
def test_torchxrayvision_takes_grey_images_in_its_own_range(n_in, tmp_path):
    theirs = torchvision.models.densenet121(num_classes=18)
    theirs.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    lively(theirs)
    torch.save({**theirs.state_dict(), "op_threshs": torch.full((18,), 0.5)}, tmp_path / "xrv.pth")
    facts = describe("densenet121", tmp_path / "xrv.pth")
    body = build_body("densenet121", weights=tmp_path / "xrv.pth", n_in=n_in).eval()
    pixels = torch.rand(1, 1, 64, 64)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in facts.normalization(n_in))
    with torch.inference_mode():
        wanted = torch.relu(theirs.features((2 * pixels - 1) * 1024))
        found = body((pixels.expand(-1, n_in, -1, -1) - mean) / std)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_position_embeddings_of_another_size_are_resampled(tmp_path):
    theirs = lively(timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64, num_classes=0))
    large = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=96, num_classes=0)
    torch.save({"model": decoder(theirs.state_dict())}, tmp_path / "mae.pth")
    body = build_body("timm/vit_tiny_patch16_224?depth=2&img_size=96", weights=tmp_path / "mae.pth").eval()
    large.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(theirs.state_dict(), large))
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(body(x), large.eval().forward_features(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "mean"),
    [
        (["state_dict.module.encoder_q.conv1.weight"], 0.485),
        (["backbone.0.weight", "backbone.1.weight"], 0.5),
        (["visual.trunk.patch_embed.proj.weight"], 0.48145466),
        (["vit.encoder.layer.0.layernorm_before.weight"], 0.5),
        (["encoder.layer.0.layer_scale1.lambda1"], 0.485),
        (["layer1.0.conv1.weight"], None),
    ],
)
def test_what_a_layout_says_of_the_pixels(keys, mean):
    from medclf.models.fitting import stats_in

    stats = stats_in({key: torch.zeros(1) for key in keys})
    assert (stats and stats[0][0]) == mean


def test_densenets_of_old(tmp_path):
    torch.manual_seed(2)
    network = build_body("densenet121", weights=None)
    state = {}
    for key, value in network.state_dict().items():
        for part in ("norm", "conv"):
            for number in "12":
                key = key.replace(f"{part}{number}.", f"{part}.{number}.") if "denselayer" in key else key
        state[key] = value
    assert any("norm.1" in key for key in state)
    torch.save(state, tmp_path / "old.pth")
    found = build_body("densenet121", weights=tmp_path / "old.pth")
    for (name, one), other in zip(found.state_dict().items(), network.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_one_more_row_is_one_more_layout(resnet, tmp_path, monkeypatch):
    from medclf.models import fitting

    state = {name.replace("conv1", "first"): value for name, value in resnet.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="nearest layout"):
        build_body("resnet18", weights=tmp_path / "weights.pth")
    monkeypatch.setattr(fitting, "LAYOUTS", [*LAYOUTS, Layout("ours", r"\bfirst\.", ((r"\bfirst\b", "conv1"),))])
    assert torch.equal(build_body("resnet18", weights=tmp_path / "weights.pth").conv1.weight, resnet.conv1.weight)


def test_a_deeper_network_does_not_fit(tmp_path):
    torch.save(
        build_body("timm/vit_tiny_patch16_224?depth=3&img_size=64", weights=None).net.state_dict(), tmp_path / "w.pth"
    )
    with pytest.raises(WeightsError, match=r"6 unexpected .*blocks\.2"):
        build_body(VIT, weights=tmp_path / "w.pth")


@pytest.mark.parametrize(("asked", "remedy"), [("init_values=1", "init_values"), ("reg_tokens=4", "reg_tokens")])
def test_what_the_file_has_and_the_network_lacks_is_asked_for(asked, remedy, tmp_path):
    network = build_body(f"{VIT}&{asked}", weights=None)
    torch.save(network.net.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError) as error:
        build_body(VIT, weights=tmp_path / "w.pth")
    assert remedy in error.value.remedy
    assert build_body(f"{VIT}&{asked}", weights=tmp_path / "w.pth")


def test_values_that_are_no_numbers_are_refused(resnet, tmp_path):
    """The checkpoint of a training that broke down was taken, and every feature was NaN."""
    state = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    state["layer1.0.conv1.weight"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(WeightsError, match=r"NaN or infinite values in 1 of .* \(.*layer1\.0\.conv1\.weight\)"):
        build_body("resnet18", weights=tmp_path / "nan.pth")


def test_two_copies_that_nothing_tells_apart_are_refused(resnet, tmp_path):
    other = {name: value + 1 for name, value in resnet.state_dict().items()}
    torch.save(put("left.", resnet.state_dict()) | put("right.", other), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"left\..*right\."):
        build_body("resnet18", weights=tmp_path / "w.pth")


def test_which_of_several_copies_was_taken_is_told(resnet, tmp_path):
    state = resnet.state_dict()
    older = {name: tensor * 0 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save({"model": older, "model_ema": state}, tmp_path / "a.pth")
    with pytest.warns(MedclfWarning, match=r"under 'model_ema\.' is taken, and not that under 'model\.'"):
        body = build_body("resnet18", weights=tmp_path / "a.pth")
    assert torch.equal(body.conv1.weight, state["conv1.weight"])


def test_weights_for_grey_images_taken_for_colour_are_told(resnet, tmp_path):
    state = resnet.state_dict() | {"conv1.weight": resnet.conv1.weight.detach().sum(1, keepdim=True)}
    torch.save(state, tmp_path / "a.pth")
    with pytest.warns(MedclfWarning, match="each colour gets a third"):
        build_body("resnet18", weights=tmp_path / "a.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error", MedclfWarning)
        build_body("resnet18", weights=tmp_path / "a.pth", n_in=1)


def test_what_may_stand_beside_a_body_holds_no_part_of_one():
    for arch in ("resnet18", "densenet121", "timm/convnext_atto", VIT, "timm/swin_tiny_patch4_window7_224"):
        body = build_body(arch, weights=None)
        names = [name.removeprefix("net.") for name in getattr(body, "net", body).state_dict()]
        kept = [name for name in names if not BESIDE.search(name) or name.startswith("head.norm")]
        assert len(kept) >= len([name for name in names if not name.endswith(("num_batches_tracked", "index"))])
