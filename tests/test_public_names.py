"""The public names: all there, imported when first used, and over fastai's in notebooks."""

import subprocess
import sys
from pathlib import Path

import medclf

PROMISED = """
scan audit read_image MedImage MedImageBlock MedDataLoaders RandomSplitter StratifiedSplitter PatientSplitter
KFoldSplitter tfms_for endoscopy_tfms radiograph_tfms dermoscopy_tfms fundus_tfms histology_tfms med_learner
cnn_learner MedInterpretation evaluate report compare save_bundle load_bundle export_onnx MedclfError
""".split()


def test_the_promised_names_are_there():
    assert set(PROMISED) <= set(medclf.__all__)
    for name in medclf.__all__:
        assert callable(getattr(medclf, name)), name


def test_importing_costs_nothing():
    code = "import sys, medclf; print(sorted({'torch', 'fastai', 'numpy', 'pandas', 'pydicom'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_notebooks_get_fastai_and_medclf():
    names: dict[str, object] = {}
    exec("from medclf.all import *", names)
    assert {"MedDataLoaders", "med_learner", "report", "resnet50", "Path", "Learner"} <= set(names)
    assert names["report"] is medclf.report


def test_no_folder_has_a_public_name():
    """`import medclf.NAME.module` would put the folder where the public name is."""
    folders = {path.stem for path in Path(medclf.__file__).parent.iterdir()}
    assert folders.isdisjoint(medclf.__all__)
