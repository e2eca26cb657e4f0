"""One ONNX file that predicts as torch does, opens nothing else, and says what int8 costs."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from medclf.errors import BundleError, DataError, MedclfError, MissingDependency, OutputError, ReadError
from medclf.images import heatmap
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.onnx import OnnxModel, export_onnx, quantize_onnx
from medclf.learn.preprocessing import head_of
from medclf.models.heads import pool_by
from medclf.models.pooling import GeMPool
from medclf.models.registry import ARCHITECTURES, register_arch
from medclf.models.spec import ModelSpec
from medclf.models.stage_maps import AllStages

from .conftest import fake_learn


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bundle(learn, tmp_path_factory):
    calibration = {"temperature": 1.7, "abstain": {"threshold": 0.5}}
    return load_bundle(save_bundle(learn, tmp_path_factory.mktemp("saved") / "hands.bundle", calibration=calibration))


@pytest.fixture(scope="module")
def exported(bundle, tmp_path_factory):
    before = {name: tensor.clone() for name, tensor in bundle.runnable.state_dict().items()}
    path = export_onnx(bundle, tmp_path_factory.mktemp("exported") / "hands.onnx")
    assert all(torch.equal(tensor, before[name]) for name, tensor in bundle.runnable.state_dict().items())
    return path


@pytest.fixture(scope="module")
def model(exported):
    return OnnxModel(exported)


def pictures(count, seed=0):
    """Blotches of many colours and sizes, unlike each other."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        grid = random.integers(0, 256, (random.integers(2, 12), random.integers(2, 12), 3), np.uint8)
        yield np.kron(grid, np.ones((9, 9, 1), np.uint8))


def test_five_hundred_images_get_torchs_probabilities(bundle, model):
    pixels = np.stack([bundle.prepare(image) for image in pictures(500)])
    ours, theirs = (
        np.array([list(answer.probs.values()) for answer in runtime.predict_pixels(pixels)])
        for runtime in (model, bundle)
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert theirs.std(axis=0).max() > 0.05  # they do differ from image to image


def test_a_generalised_mean_and_its_maps_come_along(tmp_path):
    learn = fake_learn(size=(96, 104))
    pool_by(learn.model, "gem")
    learn.spec = replace(learn.spec, head=head_of(learn.model))
    bundle = load_bundle(save_bundle(learn, tmp_path / "gem.bundle"))
    assert isinstance(bundle.runnable.pool, GeMPool)
    model, plain = (
        OnnxModel(export_onnx(bundle, tmp_path / "gem.onnx")),
        load_bundle(save_bundle(fake_learn(), tmp_path / "b")),
    )
    for image in pictures(8):
        ours, theirs, other = (one.predict(image).probs for one in (model, bundle, plain))
        assert ours == pytest.approx(theirs, abs=1e-4) and ours != pytest.approx(other, abs=1e-2)
        np.testing.assert_allclose(model.saliency(image, "hand"), bundle.saliency(image, "hand"), atol=1e-3)


def test_the_maps_of_all_stages_come_along(tmp_path):
    learn = fake_learn(size=(96, 104))
    pool_by(learn.model, "stages")
    learn.spec = replace(learn.spec, all_stages=True)
    bundle = load_bundle(save_bundle(learn, tmp_path / "stages.bundle"))
    assert isinstance(bundle.network[0], AllStages)
    model = OnnxModel(export_onnx(bundle, tmp_path / "stages.onnx"))
    assert (model.spec.all_stages, ModelSpec.from_dict(model.spec.as_dict())) == (True, model.spec)
    for image in pictures(4):
        assert model.predict(image).probs == pytest.approx(bundle.predict(image).probs, abs=1e-4)
        np.testing.assert_allclose(model.saliency(image, "hand"), bundle.saliency(image, "hand"), atol=1e-3)
    with pytest.raises(BundleError, match="all_stages"):
        replace(learn.spec, all_stages="yes")


def test_maps_that_are_too_coarse_are_refused(model, monkeypatch):
    monkeypatch.setattr(heatmap, "_LEAST_PLACES", 4)
    with pytest.raises(MedclfError, match="has 2 x 3 places: too coarse to show where"):
        model.saliency(next(pictures(1)))


def test_files_of_every_kind_get_the_same_answer(bundle, model, images):
    for ours, theirs in zip(model.predict(images), bundle.predict(images), strict=True):
        assert ours.label == theirs.label and ours.flags == theirs.flags
        assert ours.probs == pytest.approx(theirs.probs, abs=1e-4)
    assert (model.vocab, model.spec, model.calibration) == (bundle.vocab, bundle.spec, bundle.calibration)
    with pytest.raises(ReadError):
        model.predict("absent.png")


def test_what_the_file_says_to_other_programs(exported, bundle):
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    assert (pixels.name, pixels.type, pixels.shape[1:]) == ("pixels", "tensor(uint8)", [64, 72, 3])
    assert [output.name for output in session.get_outputs()] == ["logits", "features", "maps"]
    described = json.loads(session.get_modelmeta().custom_metadata_map["medclf"])
    assert described["recipe"]["vocab"] == bundle.vocab and described["recipe"]["preprocessing"]["size"] == [64, 72]
    assert described["calibration"]["temperature"] == 1.7
    images = np.stack([bundle.prepare(image) for image in pictures(7)])
    for batch in (1, 2, 7):
        logits, _, maps = session.run(None, {"pixels": images[:batch]})
        assert logits.shape == (batch, 3) and maps.shape[:2] == (batch, 3)


def test_one_image_is_predicted_without_torch(exported, bundle, images):
    program = (
        "import sys; from medclf.cli import program; import os\n"
        "os._exit = lambda code: print([m for m in ('torch', 'torchvision', 'pandas', 'scipy', 'matplotlib') "
        "if m in sys.modules])\n"
        "sys.argv = ['medclf', 'predict', *sys.argv[1:], '--json']; program()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, exported, images[1]], capture_output=True, text=True, check=True
    )
    answer, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    expected = bundle.predict(images[1])
    assert json.loads(answer)["label"] == expected.label
    assert json.loads(answer)["prob_hand"] == pytest.approx(expected.probs["hand"], abs=1e-4)


def test_it_is_one_file(exported):
    assert [path.name for path in exported.parent.iterdir()] == ["hands.onnx"]
    onnx.checker.check_model(onnx.load(exported))
    assert not any(tensor.external_data for tensor in onnx.load(exported, load_external_data=False).graph.initializer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("resnet18", (64, 64)),
        ("timm/vit_tiny_patch16_224?depth=3", (96, 80)),
        ("timm/beit_base_patch16_224?depth=1&img_size=64&embed_dim=64&num_heads=2", (64, 64)),
    ],
)
def test_other_networks(arch, size, tmp_path):
    saved = save_bundle(fake_learn(arch, size=size, multi_label=True), tmp_path / "a.bundle")
    ours, theirs = OnnxModel(export_onnx(saved, tmp_path / "a.onnx")), load_bundle(saved)
    images = list(pictures(4))
    np.testing.assert_allclose(ours.predict_probs(images), theirs.predict_probs(images), rtol=0, atol=1e-4)


def test_nothing_is_overwritten_unasked(bundle, exported):
    before = exported.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        export_onnx(bundle, exported)
    with pytest.raises(OutputError):
        export_onnx(bundle, exported.parent, overwrite=True)
    assert exported.read_bytes() == before
    with pytest.raises(OutputError, match="does not end in"):  # and no command would take it for a model
        export_onnx(bundle, exported.with_suffix(".bin"))


def changed(exported, out, change):
    model = onnx.load(exported)
    change(model)
    out.write_bytes(model.SerializeToString())
    return out


def external(tensor):
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    for key, value in {"location": "/etc/passwd", "offset": "0", "length": "16"}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def hide_external(model):
    """In a subgraph, where a look at the initializers alone does not find it."""
    secret = helper.make_tensor("secret", TensorProto.FLOAT, [4], [0.0] * 4)
    external(secret)
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=secret)],
        "branch",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])],
    )
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(yes)
    model.graph.node.append(helper.make_node("If", ["yes"], ["leak"], then_branch=graph, else_branch=graph))


def redescribe(model, **fields):
    content = json.loads(model.metadata_props[0].value) | fields
    model.metadata_props[0].value = json.dumps(content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: external(model.graph.initializer[0]), "other files"),
        (hide_external, "other files|within its graph"),
        (lambda model: model.metadata_props.pop(), "preprocessing"),
        (lambda model: redescribe(model, card={"approved": True}), "changed"),
        (lambda model: redescribe(model, format=3), "format 3"),
        (lambda model: setattr(model.graph.node[-1], "op_type", "Evil"), "cannot be run"),
        (lambda model: setattr(model.graph.node[-1], "domain", "com.evil"), "cannot be run"),
        (lambda model: model.graph.ClearField("node"), "cannot be run"),
    ],
)
def test_a_changed_file_is_refused(exported, tmp_path, change, reason):
    with pytest.raises(BundleError, match=reason):
        OnnxModel(changed(exported, tmp_path / "changed.onnx", change))


def test_a_changed_weight_is_noticed(exported, tmp_path):
    def halve(model):
        weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) / 2).tobytes()

    with pytest.raises(BundleError, match="other logits"):
        OnnxModel(changed(exported, tmp_path / "changed.onnx", halve))


@pytest.mark.parametrize(("fields", "named"), [([{"name": "age"}], "age"), ([], "overlay")])
def test_a_bundle_that_takes_more_than_the_image_is_refused(fields, named, tmp_path):
    loaded = SimpleNamespace(name="a.bundle", runnable=None, fields=fields, calibration={"tabular": {"columns": []}})
    with pytest.raises(BundleError, match=rf"a\.bundle uses columns beside the image \(.*{named}"):
        export_onnx(loaded, tmp_path / "a.onnx")


class Counting(nn.Module):
    """A network whose graph is fixed to the images that it was traced with."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).reshape(len(x), 4, 6, 6)


def test_a_graph_for_one_number_of_images_is_refused(tmp_path):
    register_arch("counting", Counting, size=8)
    try:
        learn = fake_learn("counting", size=(8, 8))
        with pytest.raises(
            MedclfError, match="counting cannot be exported to ONNX: its graph takes 2 images at a time"
        ):
            export_onnx(save_bundle(learn, tmp_path / "a.bundle", calibration={}), tmp_path / "a.onnx")
    finally:
        ARCHITECTURES.pop("counting")
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("content", [None, b"", b"not onnx", b"\x08\x07" * 99])
def test_what_is_no_onnx_file_is_refused(content, tmp_path):
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"a\.onnx"):
        OnnxModel(path)


def test_a_missing_runtime_names_the_extra(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"medclf\[onnx\]"):
        OnnxModel(exported)


def test_int8_says_what_it_costs(exported, model, tmp_path):
    images = list(pictures(24, seed=1))
    cost = quantize_onnx(exported, tmp_path / "int8.onnx", images)
    small = OnnxModel(tmp_path / "int8.onnx")
    compared = images[1::2]
    moved = np.abs(small.predict_probs(compared) - model.predict_probs(compared))
    same = [a.label == b.label for a, b in zip(small.predict(compared), model.predict(compared), strict=True)]
    assert cost.n == 12 and cost.same_label == np.mean(same)
    assert cost.mean_difference == pytest.approx(moved.mean()) and cost.worst_difference == pytest.approx(moved.max())
    assert cost.megabytes[1] < 0.4 * cost.megabytes[0] and "int8" in str(cost)
    assert moved.mean() < 0.1
    with pytest.raises(DataError, match="too few"):
        quantize_onnx(exported, tmp_path / "other.onnx", images[:7])


def test_predicting_imports_no_fastai(exported, images):
    code = (
        "import sys; from medclf.inference.onnx import OnnxModel; "
        f"print(OnnxModel({str(exported)!r}).predict({str(images[0])!r}).label); "
        "print({'fastai', 'torchvision', 'timm', 'matplotlib', 'pandas'} & set(sys.modules))"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "set()", time.monotonic() - start


def graph_of(exported, tmp_path, nodes, outputs, name="pixels", initializers=()):
    """A file with the genuine description of `exported` and another graph."""
    genuine = onnx.load(exported)
    shape = ["n", *(d.dim_value for d in genuine.graph.input[0].type.tensor_type.shape.dim[1:])]
    pixels = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, shape)
    graph = onnx.helper.make_graph(nodes, "g", [pixels], outputs, list(initializers))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in genuine.metadata_props})
    path = tmp_path / "crafted.onnx"
    onnx.save(model, path)
    return path


def output(name, kind=onnx.TensorProto.FLOAT, shape=None):
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def constant(name, value):
    return onnx.numpy_helper.from_array(np.asarray(value), name)


CAST = onnx.helper.make_node("Cast", ["pixels"], ["logits"], to=onnx.TensorProto.FLOAT)
TEXT = onnx.helper.make_node("Cast", ["pixels"], ["logits"], to=onnx.TensorProto.STRING)
SAME = onnx.helper.make_node("Identity", ["logits"], ["features"])
RESHAPED = onnx.helper.make_node("Reshape", ["pixels", "odd"], ["logits"])
OTHER = onnx.helper.make_node("Cast", ["other"], ["logits"], to=onnx.TensorProto.FLOAT)
HUGE = onnx.helper.make_node("ConstantOfShape", ["huge"], ["logits"])
CRAFTED = {
    "no features": ([CAST], [output("logits")], {}),
    "another input": ([OTHER, SAME], [output("logits"), output("features")], {"name": "other"}),
    "logits of another shape": ([CAST, SAME], [output("logits"), output("features")], {}),
    "logits of text": (
        [TEXT, SAME],
        [output("logits", onnx.TensorProto.STRING), output("features", onnx.TensorProto.STRING)],
        {},
    ),
    "a graph that fails when it is run": (
        [RESHAPED, SAME],
        [output("logits", onnx.TensorProto.UINT8), output("features", onnx.TensorProto.UINT8)],
        {"initializers": [constant("odd", np.array([7, 11, 13]))]},
    ),
    "more memory than there is": (
        [HUGE, SAME],
        [output("logits"), output("features")],
        {"initializers": [constant("huge", np.array([2**40, 2**10]))]},
    ),
}


@pytest.mark.parametrize(("nodes", "outputs", "more"), CRAFTED.values(), ids=CRAFTED)
def test_another_graph_under_a_genuine_description_is_refused(exported, tmp_path, nodes, outputs, more):
    with pytest.raises(BundleError, match=r"crafted"):
        OnnxModel(graph_of(exported, tmp_path, nodes, outputs, **more))


@pytest.mark.parametrize("kind", ["Loop", "If"])
def test_a_graph_that_could_run_for_ever_is_not_run(exported, tmp_path, kind):
    value = onnx.helper.make_tensor_value_info
    if kind == "Loop":
        inner = [
            onnx.helper.make_node("Identity", ["go"], ["go_on"]),
            onnx.helper.make_node("Identity", ["state"], ["next"]),
        ]
        body = onnx.helper.make_graph(
            inner,
            "body",
            [value("i", 7, []), value("go", 9, []), value("state", 1, None)],
            [value("go_on", 9, []), value("next", 1, None)],
        )
        node = onnx.helper.make_node("Loop", ["turns", "yes", "start"], ["logits"], body=body)
    else:
        branch = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["start"], ["out"])], "branch", [], [value("out", 1, None)]
        )
        node = onnx.helper.make_node("If", ["yes"], ["logits"], then_branch=branch, else_branch=branch)
    start = onnx.helper.make_node("Cast", ["pixels"], ["start"], to=onnx.TensorProto.FLOAT)
    more = [constant("turns", np.int64(2**62)), constant("yes", np.bool_(True))]
    path = graph_of(exported, tmp_path, [start, node, SAME], [output("logits"), output("features")], initializers=more)
    started = time.perf_counter()
    with pytest.raises(BundleError, match="for ever"):
        OnnxModel(path)
    assert time.perf_counter() - started < 20


def test_a_graph_that_could_be_computed_for_ever_while_it_is_loaded_is_stopped(exported, tmp_path, monkeypatch):
    """From constants alone: an optimiser would do it before any time limit of ours holds."""
    monkeypatch.setattr("medclf.inference.onnx_file._PATIENCE_S", 2.0)
    node = onnx.helper.make_node
    one = onnx.helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [1.0])
    products = [node("MatMul", [f"m{n}", f"m{n}"], [f"m{n + 1}"]) for n in range(500)]
    nodes = [node("ConstantOfShape", ["size"], ["m0"], value=one), *products, node("Identity", ["m500"], ["logits"])]
    size = [constant("size", np.array([2000, 2000]))]
    path = graph_of(exported, tmp_path, [*nodes, SAME], [output("logits"), output("features")], initializers=size)
    started = time.perf_counter()
    with pytest.raises(BundleError, match="crafted"):
        OnnxModel(path)
    assert time.perf_counter() - started < 40


def test_functions_that_call_each_other_are_refused(exported, tmp_path):
    path = graph_of(exported, tmp_path, [CAST, SAME], [output("logits"), output("features")])
    model, imports = onnx.load(path), [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("d", 1)]
    twice = [onnx.helper.make_node("g", ["x"], ["a"], domain="d"), onnx.helper.make_node("g", ["a"], ["y"], domain="d")]
    model.functions.append(onnx.helper.make_function("d", "f", ["x"], ["y"], twice, imports))
    onnx.save(model, path)
    with pytest.raises(BundleError, match="functions"):
        OnnxModel(path)


def test_maps_of_another_shape_are_refused(exported, tmp_path):
    model = onnx.load(exported)
    for one in model.graph.node:
        one.output[:] = ["maps_" if name == "maps" else name for name in one.output]
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["maps_"], ["maps"], keepdims=0))
    onnx.save(model, tmp_path / "odd.onnx")
    found = OnnxModel(tmp_path / "odd.onnx")
    with pytest.raises(BundleError, match="maps"):
        found.saliency(np.zeros((90, 80, 3), np.uint8))


def test_a_run_that_lasts_too_long_is_stopped(exported, monkeypatch):
    monkeypatch.setattr("medclf.inference.onnx_file._PATIENCE_S", 0.0)
    run = OnnxModel._run

    def late(self, pixels, options=None):
        time.sleep(0.2)
        return run(self, pixels, options)

    monkeypatch.setattr(OnnxModel, "_run", late)
    with pytest.raises(BundleError, match="cannot be run"):
        OnnxModel(exported)
