"""The public names: all there, typed, imported when first used, and never in place of fastai's in notebooks."""

import importlib
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import medclf

PROMISED = """
scan audit read_image MedImage MedImageBlock MedDataLoaders SeededSplitter StratifiedSplitter PatientSplitter
KFoldSplitter tfms_for endoscopy_tfms radiograph_tfms dermoscopy_tfms fundus_tfms histology_tfms med_learner
MedInterpretation train evaluate explain report compare save_bundle load_bundle export_onnx MedclfError TrainConfig
Resumable SaveBest assess DecisionPolicy Run predict
""".split()

OF_0_1 = """
medclf: RandomSplitter cnn_learner
medclf.data.audit: with_groups
medclf.data.catalog: CATALOG fetch
medclf.data.split: split_table RandomSplitter
medclf.data.synthetic: draw_endoscopy
medclf.data.table: scan
medclf.deployment.onnx: OnnxModel quantize_onnx
medclf.deployment.server: create_app running
medclf.evaluation.abstain: abstain_curve choose_abstain evaluate_abstain
medclf.evaluation.agreement: cohen_kappa
medclf.evaluation.calibration: calibrate_out_of_fold ece fit_temperature reliability split_parts
medclf.evaluation.comparison: compare_predictions subgroup_metrics
medclf.evaluation.metrics: classification_metrics plan_size wilson
medclf.evaluation.ood: ood_fit
medclf.evaluation.operating: choose_threshold evaluate_threshold restate_prevalence
medclf.evaluation.predictions: Predictions
medclf.evaluation.suspects: label_suspects
medclf.evaluation.worth: judge Worth
medclf.evaluation.decisions: Wishes
medclf.evaluation.basis: Basis
medclf.images.burned_in: why_withheld
medclf.images.heat: hottest_box overlay
medclf.images.pixels: prepare probe read_pixels check
medclf.reporting.claim: checklist
medclf.runs.compare: compare compare_page
medclf.runs.review: export_review
medclf.runs.second_read: import_review
medclf.runs.train: train
medclf.training.backbones: build_network
medclf.training.callbacks: Resumable SaveBest
medclf.training.learner: cnn_learner med_learner
medclf.training.stages: stage_names
"""  # what its README, docs and examples imported


def python(code, *options):
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_promised_names_are_there():
    assert set(PROMISED) <= set(medclf.__all__)
    for name in medclf.__all__:
        assert callable(getattr(medclf, name)), name
    assert set(medclf.__all__) <= set(dir(medclf))


def test_importing_costs_nothing():
    heavy = "{'torch', 'fastai', 'numpy', 'pandas', 'pydicom'}"
    assert python(f"import sys, medclf; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_a_name_that_never_was_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'medclf' has no attribute 'scann'"):
        _ = medclf.scann
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("medclf.data.nothing")


@pytest.mark.slow
def test_type_checkers_see_the_types(tmp_path):
    uses = [f"reveal_type(medclf.{name})" for name in medclf.__all__]
    code = [
        "import medclf",
        "from medclf import scan",
        *uses,
        "reveal_type(scan)",
        "scan('folder', strict=True)",
        "medclf.scan()",
    ]
    (tmp_path / "use.py").write_text("\n".join(code) + "\n")
    large = ",".join(f"mypy-{name}.*" for name in "torch torchvision pandas numpy scipy PIL pydicom timm".split())
    settings = f"[mypy]\nfollow_imports=silent\nignore_missing_imports=True\n[{large}]\nfollow_imports=skip\n"
    (tmp_path / "mypy.ini").write_text(settings)
    command = [sys.executable, "-m", "mypy", "use.py"]
    source = {**os.environ, "MYPYPATH": str(Path(medclf.__file__).parents[1])}  # an editable install hides it
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=source)
    found = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert len(found) == len(uses) + 1, done.stdout + done.stderr
    untyped = [use for use, kind in zip(uses, found, strict=False) if kind in ("Any", "builtins.object")]
    assert not untyped and found[-1].startswith("def (source: ")
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1 and 'Missing positional argument "source"' in errors[0], errors


def test_notebooks_get_fastai_and_medclf():
    import fastai.vision.all as fastai

    names: dict[str, object] = {}
    exec("from medclf.all import *", names)
    assert {"MedDataLoaders", "med_learner", "report", "resnet50", "Path", "Learner"} <= set(names)
    assert names["report"] is medclf.report
    theirs = {name for name in vars(fastai) if not name.startswith("_")}
    assert not theirs & set(medclf.__all__)
    assert all(names[name] is getattr(fastai, name) for name in theirs & set(names) - {"cnn_learner"})
    assert names["cnn_learner"] is importlib.import_module("medclf.learn.learner").cnn_learner


@pytest.mark.parametrize("line", OF_0_1.strip().splitlines())
def test_the_names_of_0_1_warn_and_work(line):
    module, _, names = line.partition(": ")
    for name in names.split():
        if module != "medclf":
            sys.modules.pop(module, None)
        with pytest.warns(DeprecationWarning, match="is now medclf") as warned:
            exec(f"from {module} import {name}", {"__name__": "notebook"})
        assert warned[0].filename == "<string>"  # the user's line, not one of ours


def test_an_old_module_that_is_asked_what_it_is_imports_nothing():
    """`inspect` asks every module for `__file__`, which came while torch was half imported."""
    asked = "import sys, medclf.data.loaders as old; print(hasattr(old, '__file__'), 'medclf.learn' in sys.modules)"
    assert python(asked, "-W", "ignore") == "False False"


def test_the_old_name_of_the_linear_probe_is_taken():
    learner = importlib.import_module("medclf.learn.learner")
    with pytest.warns(DeprecationWarning, match="linear_probe="), pytest.raises(medclf.MedclfError, match="no vocab"):
        learner.med_learner(object(), head_start=False)


def test_what_is_not_old_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for name in medclf.__all__:
            getattr(medclf, name)
    assert Path(medclf.__file__).with_suffix(".pyi").is_file()


def test_no_folder_has_a_public_name():
    """`import medclf.NAME.module` would put the folder where the public name is."""
    folders = {path.stem for path in Path(medclf.__file__).parent.iterdir()}
    assert folders.isdisjoint(medclf.__all__)
