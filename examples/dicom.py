"""Train on a folder of DICOM files with a CSV of labels, split by patient.

    python examples/dicom.py DATA --labels labels.csv [--path-col file] [--label-col label] [--patient-col patient_id]

Windows, rescale, MONOCHROME1 and compressed syntaxes are handled by the reader; --window takes a name ("lung") or
CENTER,WIDTH for CT.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from medclf import MedDataLoaders, MedInterpretation, med_learner, report, save_bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--labels", type=Path, help="CSV [default: DATA/labels.csv]")
    parser.add_argument("--path-col", default="file")
    parser.add_argument("--label-col", default="label")
    parser.add_argument("--patient-col", default="patient_id")
    parser.add_argument("--window")
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("dicom-run"))
    args = parser.parse_args()
    window = tuple(map(float, args.window.split(","))) if args.window and "," in args.window else args.window
    args.out.mkdir(parents=True, exist_ok=True)

    dls = MedDataLoaders.from_dicom(
        args.data,
        labels=args.labels or args.data / "labels.csv",
        path_col=args.path_col,
        label_col=args.label_col,
        patient_col=args.patient_col,
        split="patient",
        modality="radiograph",
        window=window,
        cache=True,
    )
    learn = med_learner(dls, args.arch)
    with learn.no_bar():
        learn.fine_tune(args.epochs)
        interp = MedInterpretation.from_learner(learn)
    facts = interp.facts()
    print(facts["data"]["split"]["sentence"])
    print("confusion matrix (rows are the actual labels):", *facts["confusion_matrix"], sep="\n  ")
    print(f"balanced accuracy: {interp.metrics()['balanced_accuracy']}")
    save_bundle(learn, args.out / "bundle", overwrite=True)
    print(f"report: {report(interp, args.out / 'report.html')}")


if __name__ == "__main__":
    main()
