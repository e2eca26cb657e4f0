"""A bundle gives what the trained network gave, whatever it is asked with, and says what it cannot do."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medclf.errors import BundleError, DataError, MedclfError, OutputError, ReadError
from medclf.images.reading import prepare
from medclf.inference import bundle as bundle_module
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.runnable import Runnable
from medclf.metrics.calibration import Temperature
from medclf.metrics.ood import OodDetector
from medclf.models.bn_folding import fold, foldable
from medclf.models.plain_nets import lite_body, resnet_body
from medclf.results.calibration import Calibration

from .conftest import fake_learn


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def saved(learn, tmp_path_factory):
    return save_bundle(learn, tmp_path_factory.mktemp("saved") / "hands.bundle", card={"intended use": "tests"})


@pytest.fixture(scope="session")
def bundle(saved):
    return load_bundle(saved)


def eager_logits(learn, path):
    """The long way: the trained network itself, its input made here step by step."""
    how, stats = learn.spec.preprocessing, learn.spec.normalization
    pixels = prepare(path, how.size, resize=how.resize, channels=how.channels)
    x = np.moveaxis(pixels.astype(np.float32) / 255, 2, 0)
    x = (x - np.reshape(stats.mean, (-1, 1, 1))) / np.reshape(stats.std, (-1, 1, 1))
    learn.model.eval()
    with torch.inference_mode():
        return learn.model(torch.tensor(x[None], dtype=torch.float32))[0].double().numpy()


def softmax(logits):
    return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


@pytest.mark.parametrize(
    ("arch", "n_in", "resize"),
    [
        ("resnet18", 3, "squish"),
        ("resnet18", 1, "pad"),
        ("efficientnet_lite0", 3, "crop"),
        ("mobilenet_v3_small", 3, "pad"),
        ("convnext_atto", 3, "squish"),
        ("timm/mobilenetv3_small_050", 1, "squish"),
    ],
)
def test_probabilities_are_the_networks(arch, n_in, resize, images, tmp_path):
    learn = fake_learn(arch, n_in=n_in, resize=resize)
    bundle = load_bundle(save_bundle(learn, tmp_path / "a.bundle"))
    for path, answer in zip(images[:4], bundle.predict(images[:4]), strict=True):
        wanted = softmax(eager_logits(learn, path))
        np.testing.assert_allclose(list(answer.probs.values()), wanted, rtol=0, atol=1e-5)
        assert answer.pred == wanted.argmax() and answer.label == learn.spec.vocab[wanted.argmax()]
        assert list(answer.probs) == bundle.vocab and answer.flags == ()


def test_every_kind_of_image_gives_the_same(bundle, images):
    path = images[1]
    array = np.asarray(Image.open(path))
    wanted = bundle.predict(path)
    for item in (str(path), path.read_bytes(), Image.open(path), array, Image.fromarray(array).convert("RGBA")):
        answer = bundle.predict(item)
        assert answer.probs == pytest.approx(wanted.probs, abs=1e-12)
    assert bundle.predict(array.astype(np.uint16) * 257).probs == wanted.probs
    grey = Image.open(images[0])
    assert bundle.predict(grey).probs == bundle.predict(images[0]).probs == bundle.predict(np.asarray(grey)).probs


def test_a_photograph_taken_sideways_is_turned(bundle, images, tmp_path):
    image = Image.open(images[1])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    answer = bundle.predict(Image.open(tmp_path / "turned.jpg"))
    assert answer.probs == bundle.predict(tmp_path / "turned.jpg").probs != bundle.predict(images[1]).probs


@pytest.mark.parametrize(
    "item",
    [
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((0, 8), np.uint8),
        3,
        None,
        b"not an image",
        "absent.png",
    ],
)
def test_what_is_no_image_is_refused(bundle, item):
    with pytest.raises(ReadError):
        bundle.predict(item)


def test_a_list_a_batch_and_a_stream_agree(bundle, images):
    one_by_one = np.array([list(bundle.predict(path).probs.values()) for path in images])
    np.testing.assert_allclose(bundle.predict_probs(images, bs=3), one_by_one, rtol=0, atol=1e-5)
    streamed = list(bundle.predict_stream(iter(images), bs=4))
    np.testing.assert_allclose([list(answer.probs.values()) for answer in streamed], one_by_one, atol=1e-5)
    assert bundle.predict([]) == [] and bundle.predict_probs([]).shape == (0, 3)
    for at_once in (0, -3):
        with pytest.raises(DataError, match=f"bs must be 1 or more, not {at_once}"):
            bundle.predict_probs(images, bs=at_once)


@pytest.mark.parametrize(
    ("options", "said"), [({"bs": "8"}, "not '8'"), ({"bs": 2.5}, "not 2.5"), ({"threads": -1}, "not -1")]
)
def test_how_many_at_once_is_a_whole_number(bundle, images, options, said):
    with pytest.raises(DataError, match=said):
        list(bundle.predict_stream(images[:1], **options))


def test_the_callers_precision_changes_no_answer(bundle, saved, images):
    """Within autocast it was less exact, and a bundle was refused as one of other versions, or of another network."""
    usual = bundle.predict_probs(images[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(load_bundle(saved).predict_probs(images[:2]), usual)
    torch.set_default_dtype(torch.float64)
    try:
        assert np.allclose(load_bundle(saved).predict_probs(images[:2]), usual, atol=1e-6)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_stream_goes_on_after_a_broken_file_and_a_list_does_not(bundle, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:60])
    answers = list(bundle.predict_stream([broken, images[0], tmp_path / "absent.png", images[1], broken], bs=2))
    assert [isinstance(answer, ReadError) for answer in answers] == [True, False, True, False, True]
    assert answers[0].path == broken and answers[3].probs == pytest.approx(bundle.predict(images[1]).probs, abs=1e-6)
    with pytest.raises(ReadError, match=r"broken\.png"):
        bundle.predict([images[0], broken])


def test_a_stream_takes_only_what_it_needs(bundle, images):
    taken = []
    stream = bundle.predict_stream((taken.append(path) or path for path in images * 100), bs=4)
    for _ in range(6):
        next(stream)
    assert len(taken) <= 12
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_multi_label(images, tmp_path):
    learn = fake_learn(vocab=("effusion", "mass", "nodule"), multi_label=True)
    bundle = load_bundle(save_bundle(learn, tmp_path / "a.bundle"))
    for path in images[:3]:
        answer, wanted = bundle.predict(path), 1 / (1 + np.exp(-eager_logits(learn, path)))
        np.testing.assert_allclose(list(answer.probs.values()), wanted, rtol=0, atol=1e-5)
        assert answer.label == tuple(np.array(bundle.vocab)[wanted >= 0.5]) and answer.pred == tuple(
            np.flatnonzero(wanted >= 0.5)
        )
    never = {"thresholds": dict.fromkeys(bundle.vocab, 1.01)}
    strict = load_bundle(save_bundle(learn, tmp_path / "b.bundle", calibration={"operating_point": never}))
    assert strict.predict(images[0]).label == ()


def test_each_label_can_have_its_temperature(images, tmp_path):
    learn = fake_learn(multi_label=True)
    calibration = {"temperature": {"temperature": [0.5, 1.0, 4.0], "multi_label": True, "n": 100}}
    answer = load_bundle(save_bundle(learn, tmp_path / "a.bundle", calibration=calibration)).predict(images[0])
    wanted = 1 / (1 + np.exp(-eager_logits(learn, images[0]) / [0.5, 1.0, 4.0]))
    np.testing.assert_allclose(list(answer.probs.values()), wanted, atol=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_biases_are_added_and_labels_weighed(images, tmp_path, multi_label):
    learn = fake_learn(multi_label=multi_label)
    fitted = Temperature((1.5,), multi_label, 100, (0.5, -1.0, 0.25))
    rule = {"thresholds": {"chest": 0.01}} if multi_label else {"weights": {"chest": 50.0}}
    calibration = Calibration(fitted, multi_label=multi_label, **rule)
    path = save_bundle(learn, tmp_path / "a.bundle", calibration=calibration)
    assert json.loads((path / "bundle.json").read_text())["format"] == 2  # medclf 0.1 would leave out the biases
    bundle = load_bundle(path)
    for image in images[:3]:
        answer, wanted = bundle.predict(image), fitted.apply(eager_logits(learn, image)[None])[0]
        np.testing.assert_allclose(list(answer.probs.values()), wanted, atol=1e-5)
        chosen = np.flatnonzero(calibration.decided(wanted[None], bundle.vocab)[0])
        assert list(np.atleast_1d(answer.pred)) == chosen.tolist()


def test_calibration_is_applied(learn, images, tmp_path):
    logits = eager_logits(learn, images[0])
    ranked = [learn.spec.vocab[index] for index in logits.argsort()]
    calibration = {
        "temperature": 2.5,
        "operating_point": {"label": ranked[0], "threshold": 0.0},
        "abstain": {"threshold": 0.999999},
    }
    answer = load_bundle(save_bundle(learn, tmp_path / "a.bundle", calibration=calibration)).predict(images[0])
    np.testing.assert_allclose(list(answer.probs.values()), softmax(logits / 2.5), atol=1e-5)
    assert answer.label == ranked[0] and answer.flags == ("unsure",)
    calibration["operating_point"] = {"label": ranked[2], "threshold": 1.1}  # never reached: the next best
    answer = load_bundle(save_bundle(learn, tmp_path / "b.bundle", calibration=calibration)).predict(images[0])
    assert answer.label == ranked[1]


def test_images_unlike_the_training_ones_are_flagged(learn, bundle, images, tmp_path):
    with torch.inference_mode():
        body = bundle.network[0](torch.stack([bundle.preprocess(path) for path in images[:3]]))
    features = body.mean(dim=(2, 3)).double().numpy()
    distance = np.linalg.norm(features - features[0], axis=1)
    assert distance[1:].min() > 0.1
    axes, ones = np.eye(4, 1280), np.ones(4)  # with all variances 1, the score is the mean squared distance
    detector = OodDetector(features[0], axes, ones, rest=1.0, threshold=0.01 / 1280, quantile=0.99, n=1)
    flagging = load_bundle(save_bundle(learn, tmp_path / "a.bundle", calibration={"ood": detector}))
    flags = [answer.flags for answer in flagging.predict(images[:3])]
    assert flags == [(), ("not like the training images",), ("not like the training images",)]


def test_what_a_bundle_holds_and_says(saved, bundle, learn):
    assert sorted(path.name for path in saved.iterdir()) == ["bundle.json", "weights.safetensors"]
    content = json.loads((saved / "bundle.json").read_text())
    assert content["recipe"] == learn.spec.as_dict() and bundle.spec == learn.spec and content["format"] == 1
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert bundle.card["intended use"] == "tests" and bundle.card["encoder"]["weights"]
    assert bundle.name == "hands" and bundle.hash == content["hash"]
    preprocessing = {"size": [64, 72], "resize": "squish", "channels": 3, "window": None, "frame": "middle"}
    assert content["recipe"]["preprocessing"] == preprocessing


def test_the_plain_network_is_there_for_other_uses(bundle, learn, images):
    network = bundle.network
    assert not any(isinstance(module, nn.Identity) for module in network.modules())
    with torch.inference_mode():
        logits = network(bundle.preprocess(images[0])[None])[0].numpy()
    np.testing.assert_allclose(logits, eager_logits(learn, images[0]), rtol=0, atol=1e-4)


def test_norms_are_folded_where_that_keeps_the_logits(bundle, saved):
    assert len(json.loads((saved / "bundle.json").read_text())["fold"]) == 49
    assert not any(isinstance(module, nn.BatchNorm2d) for module in bundle.runnable.modules())


@pytest.mark.parametrize(
    ("body", "count"), [(lambda: resnet_body("resnet50"), 53), (lambda: lite_body("efficientnet_lite0"), 49)]
)
def test_folding_keeps_the_features(body, count):
    network, x = body().eval(), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before = network(x)
        pairs = foldable(network, x)
        fold(network, pairs)
        after = network(x)
    assert len(pairs) == count
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


def test_folding_that_would_move_the_logits_is_not_done(tmp_path, images, monkeypatch):
    learn = fake_learn()
    monkeypatch.setattr(bundle_module, "foldable", lambda network, _x: [("0.conv_stem", "0.blocks.0.0.bn1")])
    saved = save_bundle(learn, tmp_path / "a.bundle")
    assert json.loads((saved / "bundle.json").read_text())["fold"] == []
    np.testing.assert_allclose(
        list(load_bundle(saved).predict(images[0]).probs.values()), softmax(eager_logits(learn, images[0])), atol=1e-5
    )


def test_folding_that_moves_them_on_this_machine_alone_is_undone(saved, images, monkeypatch):
    wanted = load_bundle(saved).predict(images[0]).probs

    def wrong_fold(network, _pairs):
        network[0].conv_stem.weight.data.mul_(1.001)

    monkeypatch.setattr(bundle_module, "fold", wrong_fold)
    assert load_bundle(saved).predict(images[0]).probs == pytest.approx(wanted, abs=1e-5)


def test_another_machines_drift_is_noticed(saved, monkeypatch):
    run = Runnable.run
    monkeypatch.setattr(Runnable, "run", lambda *args: [values + 0.01 for values in run(*args)])
    with pytest.raises(BundleError, match="other logits"):
        load_bundle(saved)
    load_bundle(saved, verify=False)


def test_nothing_is_overwritten_unasked(learn, saved, tmp_path):
    before = (saved / "bundle.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        save_bundle(learn, saved)
    assert (saved / "bundle.json").read_bytes() == before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="more than a bundle"):
        save_bundle(learn, mine, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "years of work"
    target = save_bundle(learn, tmp_path / "a.bundle")
    save_bundle(learn, target, overwrite=True, card={"version": 2})
    assert load_bundle(target).card["version"] == 2 and not list(tmp_path.glob(".*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(learn, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"a\.bundle"):
        save_bundle(learn, tmp_path / "a.bundle")


def test_a_parent_that_is_a_file_is_named(learn, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"a\.bundle"):
        save_bundle(learn, tmp_path / "file" / "a.bundle")


def test_an_interrupted_save_leaves_nothing(learn, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_module, "write_json", full)
    with pytest.raises(OutputError, match="No space left"):
        save_bundle(learn, tmp_path / "a.bundle")
    assert list(tmp_path.iterdir()) == []


def respecify(learn, **changes):
    learn.spec = replace(learn.spec, **changes)


def altered(change):
    learn = fake_learn()
    change(learn)
    return learn


@pytest.mark.parametrize(
    "change",
    [
        lambda learn: respecify(learn, vocab=("a", "b", "c", "d")),
        lambda learn: respecify(learn, arch="efficientnet_lite1"),
        lambda learn: respecify(learn, arch="no such net"),
        lambda learn: setattr(learn, "spec", learn.spec.as_dict()),
        lambda learn: delattr(learn, "spec"),
        lambda learn: learn.model[1].__setitem__(0, nn.AdaptiveMaxPool2d(1)),
        lambda learn: learn.model[1][-1].weight.data.fill_(float("nan")),
    ],
)
def test_a_learner_that_cannot_be_rebuilt_is_refused(change, tmp_path):
    with pytest.raises(BundleError):
        save_bundle(altered(change), tmp_path / "a.bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "calibration",
    [
        {"temperature": 0},
        {"temperature": "1"},
        {"temperature": [1.0, 2.0]},
        {"temperature": {"temperature": [1.0], "bias": [1.0, 2.0], "n": 9}},
        {"temperature": {"temperature": [1.0], "bias": [1.0, 2.0, float("inf")], "n": 9}},
        {"temperature": {"temperature": [1.0], "bias": ["1", 2.0, 3.0], "n": 9}},
        {"decision": {"weights": {"foot": 1.0}}},
        {"decision": {"weights": {"hand": 0.0}}},
        {"decision": [1.0]},
        {"operating_point": {"label": "foot", "threshold": 0.5}},
        {"ood": {"threshold": 1}},
        {"ood": "far"},
        {"abstain": {"threshold": None}},
    ],
)
def test_a_calibration_that_means_nothing_is_refused(calibration, learn, tmp_path):
    with pytest.raises(BundleError):
        save_bundle(learn, tmp_path / "a.bundle", calibration=calibration)


def test_saving_leaves_the_learner_as_it_was(tmp_path):
    learn = fake_learn()
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    save_bundle(learn, tmp_path / "a.bundle")
    assert learn.model.training and not any(module._forward_hooks for module in learn.model.modules())
    for name, tensor in learn.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_half_precision_and_channels_last_networks_are_saved_too(images, tmp_path):
    learn, half = fake_learn(), fake_learn()
    half.model.bfloat16().to(memory_format=torch.channels_last)
    bundle = load_bundle(save_bundle(half, tmp_path / "a.bundle"))
    wanted = softmax(eager_logits(learn, images[0]))
    np.testing.assert_allclose(list(bundle.predict(images[0]).probs.values()), wanted, atol=0.05)


def test_every_error_is_medclfs():
    assert issubclass(BundleError, MedclfError)


def test_predicting_imports_only_what_it_needs(saved, images):
    code = (
        "import sys; from medclf.inference.bundle import load_bundle; "
        f"print(load_bundle({str(saved)!r}).predict({str(images[1])!r}).label); "
        "print({'fastai', 'torchvision', 'timm', 'matplotlib', 'pandas', 'torch._dynamo'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "set()"


@pytest.mark.parametrize(
    "given", [{"temprature": 1.5}, {"abstain": {"treshold": 0.6}}, {"operating_point": {"at": 0.3}}]
)
def test_a_calibration_that_nothing_would_heed_is_refused(given, learn, tmp_path):
    """A misspelt limit was saved, and nothing was flagged."""
    with pytest.raises(BundleError, match="nothing in a bundle would heed"):
        save_bundle(learn, tmp_path / "a.bundle", calibration=given)
    assert not (tmp_path / "a.bundle").exists()


def test_what_is_saved_with_a_network_has_its_form(learn, bundle, tmp_path):
    assessed = SimpleNamespace(calibration=Calibration())
    for given, said in (
        ({"calibration": assessed}, "calibration is of the type SimpleNamespace\ngive its .calibration"),
        ({"card": "a text"}, "card is of the type str\ngive a dict"),
    ):
        with pytest.raises(BundleError, match=said):
            save_bundle(learn, tmp_path / "a.bundle", **given)
    with pytest.raises(BundleError, match="this is a bundle already"):
        save_bundle(bundle, tmp_path / "a.bundle")
