"""What is public: `medclf/__init__.py` imports each of these names when it is first used."""

from .auditing.audit import audit as audit
from .auditing.decisions import DecisionPolicy as DecisionPolicy
from .auditing.shortcut_test import shortcut_test as shortcut_test
from .config import TrainConfig as TrainConfig
from .dataset.scan import scan as scan
from .dataset.splits import KFoldSplitter as KFoldSplitter
from .dataset.splits import PatientSplitter as PatientSplitter
from .dataset.splits import SeededSplitter as SeededSplitter
from .dataset.splits import StratifiedGroupSplitter as StratifiedGroupSplitter
from .dataset.splits import StratifiedSplitter as StratifiedSplitter
from .errors import MedclfError as MedclfError
from .images.heatmap import hottest_box as hottest_box
from .images.heatmap import overlay as overlay
from .inference.bundle import load_bundle as load_bundle
from .inference.bundle import save_bundle as save_bundle
from .inference.onnx import export_onnx as export_onnx
from .learn.assess import assess as assess
from .learn.callbacks import Resumable as Resumable
from .learn.callbacks import SaveBest as SaveBest
from .learn.dataloaders import MedDataLoaders as MedDataLoaders
from .learn.image_block import MedImage as MedImage
from .learn.image_block import MedImageBlock as MedImageBlock
from .learn.image_block import read_image as read_image
from .learn.interpretation import MedInterpretation as MedInterpretation
from .learn.learner import med_learner as med_learner
from .learn.presets import dermoscopy_tfms as dermoscopy_tfms
from .learn.presets import endoscopy_tfms as endoscopy_tfms
from .learn.presets import fundus_tfms as fundus_tfms
from .learn.presets import histology_tfms as histology_tfms
from .learn.presets import radiograph_tfms as radiograph_tfms
from .learn.presets import show_augmentations as show_augmentations
from .learn.presets import tfms_for as tfms_for
from .models.registry import register_arch as register_arch
from .models.saliency import grad_cam as grad_cam
from .models.saliency import occlusion as occlusion
from .reporting.report import report as report
from .results.subgroups import subgroups as subgroups
from .run.compare import compare as compare
from .run.evaluate import evaluate as evaluate
from .run.explain import explain as explain
from .run.predict import predict as predict
from .run.run import Run as Run
from .run.train import train as train

__version__: str
