"""One ONNX file that finds the boxes that torch and torchvision find, and is refused where it was changed."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import astuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from typer.testing import CliRunner

from medclf.cli import app
from medclf.errors import BundleError, DataError, MedclfError, OutputError, ReadError
from medclf.images.preprocessing import Preprocessing
from medclf.inference.bundle_format import is_detector
from medclf.inference.detector_bundle import load_detector, save_detector
from medclf.inference.detector_onnx import OnnxDetector
from medclf.inference.onnx import OnnxModel, export_onnx, quantize_onnx
from medclf.inference.runtimes import load_box_model, load_model
from medclf.run.export import export

from ..fixtures.small_detectors import pictures, small_detector


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shell(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A bundle whose 20 labels make more candidates on one feature map than torchvision looks at."""
    path = tmp_path_factory.mktemp("saved") / "polyps.bundle"
    return save_detector(small_detector(n_labels=20), path, threshold=0.47, card={"note": "drawn"})


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "polyps.onnx"
    assert str(out) in shell("export", saved, "--out", out)
    return out


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five images of several sizes; and one that is none."""
    folder = tmp_path_factory.mktemp("files")
    names = [folder / f"{number}.png" for number in range(5)]
    for name, pixels in zip(names, pictures(5, seed=1), strict=True):
        Image.fromarray(pixels).save(name)
    (folder / "x.png").write_bytes(b"no picture")
    return [*names, folder / "x.png"]


def compare(found, wanted):
    """Boxes with their probs and labels, within 1e-4; how many there are."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert [box.label for box in one.boxes] == [box.label for box in other.boxes]
        numbers = [[astuple(box)[1:] for box in answer.boxes] for answer in (one, other)]
        np.testing.assert_allclose(*numbers, rtol=0, atol=1e-4)
        assert (one.width, one.height, one.threshold, one.vocab) == (
            other.width,
            other.height,
            other.threshold,
            other.vocab,
        )
    return [len(one.boxes) for one in found]


def test_batches_of_any_size_get_torchs_boxes(saved, exported):
    bundle, model = load_detector(saved), OnnxDetector(exported)
    logits, _, _ = bundle.detector(bundle.inputs(torch.zeros(1, 64, 96, 3)))
    assert bundle.detector.per_level[0] * logits.shape[2] > bundle.detector.net.topk_candidates
    pixels = np.stack([bundle.preprocessing.prepare(image) for image in pictures(7)])
    for n in (1, 2, 7):
        assert min(compare(model.predict_pixels(pixels[:n]), bundle.predict_pixels(pixels[:n]))) > 3


def test_a_light_neck_gets_torchs_boxes_too(tmp_path):
    detector = small_detector("light", how=Preprocessing((96, 64), "crop"))
    bundle = load_detector(save_detector(detector, tmp_path / "light.bundle"))
    model = OnnxDetector(export_onnx(bundle, tmp_path / "light.onnx"))
    images = list(pictures(6))
    assert min(compare([model.predict(one) for one in images], [bundle.predict(one) for one in images])) > 3
    assert model.hash != bundle.hash == model.exported_from


@pytest.mark.slow
@pytest.mark.parametrize("neck", ["pyramid", "light"])
def test_a_real_backbone_gets_torchs_boxes(neck, tmp_path):
    bundle = load_detector(save_detector(small_detector(neck, arch="efficientnet_lite0"), tmp_path / "a.bundle"))
    model = OnnxDetector(export_onnx(bundle, tmp_path / "a.onnx"))
    images = list(pictures(6))
    assert sum(compare([model.predict(one) for one in images], [bundle.predict(one) for one in images]))


def test_images_without_a_box(saved, exported, tmp_path):
    """At a higher least probability, in torch and in the graph."""
    bundle, images = load_detector(saved), list(pictures(7))
    pixels = np.stack([bundle.preprocessing.prepare(image) for image in images])
    best = sorted(one.boxes[0].prob for one in bundle.predict_pixels(pixels))
    least = bundle.detector.net.score_thresh = float(np.mean(best[2:4]))
    model = onnx.load(exported)
    (constant,) = (one for one in model.graph.initializer if one.name == "nms_least")
    constant.CopyFrom(numpy_helper.from_array(np.array([least], np.float32), "nms_least"))
    onnx.save(model, tmp_path / "strict.onnx")
    strict = OnnxDetector(tmp_path / "strict.onnx")
    counts = compare(strict.predict_pixels(pixels), bundle.predict_pixels(pixels))
    assert counts.count(0) == 3
    none = counts.index(0)
    assert strict.predict(images[none]).shown == () and set(strict.predict(images[none]).probs.values()) == {0}


def test_what_the_file_says_to_other_programs(saved, exported):
    onnx.checker.check_model(onnx.load(exported))
    assert [path.name for path in exported.parent.iterdir()] == ["polyps.onnx"]
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    assert (pixels.name, pixels.type, pixels.shape[1:]) == ("pixels", "tensor(uint8)", [64, 96, 3])
    described = json.loads(session.get_modelmeta().custom_metadata_map["medclf"])
    bundle = load_detector(saved)
    assert described["detector"] == json.loads(json.dumps(bundle.spec.as_dict()))
    assert (described["threshold"], described["card"], described["exported_from"]) == (
        0.47,
        {"note": "drawn"},
        bundle.hash,
    )
    images = np.stack([bundle.preprocessing.prepare(image) for image in pictures(3)])
    names = ["images", "labels", "probs", "boxes"]
    found = dict(zip(names, session.run(names, {"pixels": images}), strict=True))
    assert set(found["images"]) == {0, 1, 2} and found["labels"].max() < 20 and found["boxes"].shape[1] == 4


def test_files_of_any_size_and_a_broken_one(saved, exported, files):
    bundle, model = load_detector(saved), OnnxDetector(exported, threads=1)
    *found, broken = model.predict_stream(files, bs=2)
    *wanted, _ = bundle.predict_stream(files, bs=2)
    assert isinstance(broken, ReadError) and min(compare(found, wanted)) > 3
    assert (model.spec, model.vocab, model.threshold, model.card) == (
        bundle.spec,
        bundle.vocab,
        bundle.threshold,
        bundle.card,
    )


def as_numbers(text):
    """Of the CSV that predict prints, the words, and the numbers of each row."""
    rows = list(csv.reader(io.StringIO(text)))
    return [[*row[:2], row[-1]] for row in rows], [[float(cell or "nan") for cell in row[2:9]] for row in rows[1:]]


def test_the_shell_predicts_alike(saved, exported, files):
    out = exported
    for options in ([], ["--threshold", "0"], ["--threshold", "1"], ["--boxes"]):
        (words, numbers), (other, theirs) = (
            as_numbers(shell("predict", model, *files, "--csv", *options)) for model in (out, saved)
        )
        assert words == other and len(numbers) >= len(files)
        np.testing.assert_allclose(numbers, theirs, atol=0.11)  # printed with one digit after the point
    found = [json.loads(shell("predict", model, files[0], "--json", "--threshold", 0)) for model in (out, saved)]
    assert len(found[0]["boxes"]) == len(found[1]["boxes"]) > 10
    assert shell("predict", out, files[0]) == shell("predict", saved, files[0])
    with pytest.raises(OutputError, match="exists already"):
        export_onnx(saved, out)


def test_boxes_are_predicted_without_torch(exported, saved, files):
    program = (
        "import sys; from medclf.cli import program; import os\n"
        "os._exit = lambda code: print([m for m in ('torch', 'torchvision', 'pandas', 'scipy', 'matplotlib') "
        "if m in sys.modules])\n"
        "sys.argv = ['medclf', 'predict', *sys.argv[1:], '--json']; program()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, exported, files[0]], capture_output=True, text=True, check=True
    )
    answer, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    wanted = load_detector(saved).predict(files[0]).shown
    assert wanted and [box["label"] for box in json.loads(answer)["boxes"]] == [box.label for box in wanted]


def test_a_folder_runs_by_the_file_beside_it(saved, exported, files, tmp_path):
    folder = tmp_path / "mine.bundle"
    load = load_detector(saved)
    save_detector(load.detector, folder, threshold=load.threshold, card=load.card)
    (tmp_path / "mine.onnx").write_bytes(exported.read_bytes())
    found = load_box_model(folder, "onnx")
    assert isinstance(found, OnnxDetector) and compare([found.predict(files[0])], [load.predict(files[0])])
    save_detector(load.detector, folder, threshold=0.1, overwrite=True)
    with pytest.raises(BundleError, match="was not exported from"):
        load_box_model(folder, "onnx")
    with pytest.raises(MedclfError, match="must be torch or onnx"):
        load_box_model(folder, "tensorrt")
    with pytest.raises(MedclfError, match="on the processor"):
        load_box_model(exported, device="cuda")


def test_int8_and_what_is_a_classifiers_are_refused(saved, exported, files, tmp_path):
    for model in (saved, exported):
        with pytest.raises(DataError, match="a detector, which has no int8"):
            list(export(model, tmp_path / "small.onnx", int8=True, data=[files[0].parent]))
    with pytest.raises(BundleError, match="holds a detector"):
        quantize_onnx(exported, tmp_path / "small.onnx", files * 2)
    with pytest.raises(BundleError, match="holds a detector"):
        OnnxModel(exported)
    with pytest.raises(BundleError, match="holds a detector"):
        load_model(exported)
    with pytest.raises(BundleError, match="exported file already"):
        export_onnx(OnnxDetector(exported), tmp_path / "again.onnx")
    done = CliRunner().invoke(app, ["predict", str(exported), str(files[0]), "--unit"])
    assert "no answer for a unit" in str(done.exception)


def described(exported, change, path):
    """A copy whose description is what `change` makes of it."""
    model = onnx.load(exported)
    content = json.loads({entry.key: entry.value for entry in model.metadata_props}["medclf"])
    onnx.helper.set_model_props(model, {"medclf": json.dumps(change(content))})
    onnx.save(model, path)
    return path


def test_a_file_of_a_classifier_is_refused_by_name(exported, tmp_path):
    path = described(exported, lambda content: {"recipe": {}}, tmp_path / "a.onnx")
    assert is_detector(exported) and not is_detector(path)
    for load in (OnnxDetector, load_box_model):
        with pytest.raises(BundleError, match=r"a\.onnx holds no detector"):
            load(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"threshold": 0.5}, "was changed"),
        ({"format": 9}, "format 9"),
        ({"golden": [[1], []]}, "damaged"),
        ({"hash": None}, "was changed"),
    ],
)
def test_a_changed_description_is_refused(exported, tmp_path, change, reason):
    path = described(exported, lambda content: content | change, tmp_path / "a.onnx")
    with pytest.raises(BundleError, match=reason):
        OnnxDetector(path)


def test_a_damaged_file_is_refused(exported, tmp_path):
    path = tmp_path / "a.onnx"
    for content in (exported.read_bytes()[:-1000], b"no model", b""):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"a\.onnx"):
            OnnxDetector(path)
        done = CliRunner().invoke(app, ["predict", str(path), str(path)])
        assert isinstance(done.exception, BundleError) and "a.onnx" in str(done.exception)
    path.unlink()
    with pytest.raises(BundleError, match="does not exist"):
        load_box_model(path)


def test_a_changed_weight_is_noticed(exported, tmp_path):
    model = onnx.load(exported)
    weight = max(model.graph.initializer, key=lambda one: np.prod(one.dims))
    weight.CopyFrom(numpy_helper.from_array(np.flip(numpy_helper.to_array(weight)).copy(), weight.name))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(BundleError, match="gives other outputs here"):
        OnnxDetector(tmp_path / "a.onnx")
    assert OnnxDetector(tmp_path / "a.onnx", verify=False).vocab


@pytest.mark.parametrize(
    ("name", "node", "reason"),
    [
        ("boxes", onnx.helper.make_node("Transpose", ["boxes_"], ["boxes"]), "not boxes"),
        ("labels", onnx.helper.make_node("Neg", ["labels_"], ["labels"]), "not in its vocab"),
        ("probs", onnx.helper.make_node("Cast", ["probs_"], ["probs"], to=onnx.TensorProto.INT64), "not boxes"),
    ],
)
def test_a_graph_that_gives_no_boxes_is_refused(exported, tmp_path, name, node, reason):
    model = onnx.load(exported)
    for one in model.graph.node:
        one.output[:] = [f"{name}_" if output == name else output for output in one.output]
    model.graph.node.append(node)
    for output in [output for output in model.graph.output if output.name == name]:
        output.type.tensor_type.ClearField("shape")
        output.type.tensor_type.elem_type = onnx.TensorProto.INT64 if name != "boxes" else onnx.TensorProto.FLOAT
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(BundleError, match=reason):
        OnnxDetector(tmp_path / "a.onnx")
    found = OnnxDetector(tmp_path / "a.onnx", verify=False)
    with pytest.raises(BundleError, match=reason):
        found.predict(next(pictures(1)))


def test_outputs_that_do_not_fit_each_other_are_refused(exported, tmp_path):
    model = onnx.load(exported)
    for one in model.graph.node:
        one.output[:] = ["logits_" if output == "logits" else output for output in one.output]
        one.input[:] = ["logits_" if name == "logits" else name for name in one.input]
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["logits_"], ["logits"], keepdims=0))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(BundleError, match="do not fit each other"):
        OnnxDetector(tmp_path / "a.onnx")
