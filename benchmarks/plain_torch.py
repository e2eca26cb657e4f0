"""Two more peers for the same job: torchvision's reference loop, and MONAI's classification tutorial.

    python benchmarks/plain_torch.py DATA --epochs 3 --loader torchvision|monai [--table table.csv] [--arch resnet34]

The same backbone, weights, images and split as `plain_fastai.py`; the loop, optimiser and transforms of the two
projects' own examples. Prints one JSON line: accuracy, and seconds by stage once imported. MONAI is not a dependency:
`pip install monai`.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from plain_fastai import lite0
from torch import nn
from torch.utils.data import DataLoader, Dataset

STATS = {"efficientnet_lite0": ([0.5] * 3, [0.5] * 3)}
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Images(Dataset):
    """Files through a function to tensors."""

    def __init__(self, rows, root, vocab, transform):
        self.rows, self.root, self.vocab, self.transform = rows, root, vocab, transform

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        from PIL import Image

        image = Image.open(self.root / self.rows["path"].iloc[i]).convert("RGB")
        return self.transform(image), self.vocab.index(self.rows["label"].iloc[i])


def torchvision_loaders(parts, root, vocab, args):
    from torchvision.transforms import v2

    mean, std = STATS.get(args.arch, IMAGENET)
    end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    train = v2.Compose([v2.RandomResizedCrop(args.size, antialias=True), v2.RandomHorizontalFlip(), *end])
    valid = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(args.size), *end])
    return [
        DataLoader(Images(rows, root, vocab, tfm), args.bs, shuffle=i == 0, num_workers=args.workers)
        for i, (rows, tfm) in enumerate(zip(parts, (train, valid), strict=True))
    ]


def monai_loaders(parts, root, vocab, args):
    """The tutorial's transforms (rotate, flip, zoom) after a Resize, cached in memory up to the first random one."""
    from monai.data import CacheDataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        NormalizeIntensityd,
        RandFlipd,
        RandRotated,
        RandZoomd,
        RepeatChanneld,
        Resized,
        ScaleIntensityd,
    )

    mean, std = STATS.get(args.arch, IMAGENET)
    key = ["image"]
    first = [LoadImaged(key, image_only=True, reader="PILReader"), EnsureChannelFirstd(key), ScaleIntensityd(key)]
    first.append(lambda d: d | {"image": d["image"][:3]} if len(d["image"]) >= 3 else RepeatChanneld(key, 3)(d))
    first += [Resized(key, (args.size, args.size)), NormalizeIntensityd(key, mean, std, channel_wise=True)]
    draws = [
        RandRotated(key, range_x=np.pi / 12, prob=0.5, keep_size=True),
        RandFlipd(key, spatial_axis=0, prob=0.5),
        RandZoomd(key, min_zoom=0.9, max_zoom=1.1, prob=0.5),
    ]
    loaders = []
    for i, rows in enumerate(parts):
        items = [
            {"image": str(root / path), "label": vocab.index(label)}
            for path, label in zip(rows["path"], rows["label"], strict=True)
        ]
        tfms = Compose(first + draws if i == 0 else first)
        cached = CacheDataset(items, tfms, num_workers=os.cpu_count(), progress=False)
        loaders.append(DataLoader(cached, args.bs, shuffle=i == 0, num_workers=0, collate_fn=_collate))
    return loaders


def _collate(items):
    return torch.stack([torch.as_tensor(d["image"]) for d in items]), torch.tensor([d["label"] for d in items])


def network(args, n_out):
    if args.arch == "efficientnet_lite0":
        model = lite0()
        model.reset_classifier(n_out)
        return model
    import torchvision

    model = getattr(torchvision.models, args.arch)(weights=None if args.weights else "DEFAULT")
    if args.weights:
        model.load_state_dict(torch.load(args.weights, weights_only=True))
    model.fc = nn.Linear(model.fc.in_features, n_out)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--loader", choices=["torchvision", "monai"], required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--table", help="CSV with path, label and partition; TRAIN and VAL folders where there is none")
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--weights", help="a file of torchvision's weights")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--bs", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    start = time.perf_counter()
    torch.manual_seed(args.seed)
    if args.table:
        table = pd.read_csv(args.table)
    else:
        files = [path for side in ("TRAIN", "VAL") for path in sorted((args.data / side).rglob("*.png"))]
        rows = [
            (str(f.relative_to(args.data)), f.parent.name, "train" if "TRAIN" in f.parts else "valid") for f in files
        ]
        table = pd.DataFrame(rows, columns=["path", "label", "partition"])
    parts = [table[table["partition"] == side] for side in ("train", "valid")]
    vocab = sorted(set(parts[0]["label"]))
    make = torchvision_loaders if args.loader == "torchvision" else monai_loaders
    train, valid = make(parts, args.data, vocab, args)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = network(args, len(vocab)).to(device)
    optimiser = torch.optim.Adam(model.parameters(), 1e-4 if args.loader == "torchvision" else 1e-5 * 10)
    loss = nn.CrossEntropyLoss()
    matrix = torch.zeros(len(vocab), len(vocab), dtype=torch.long)
    for epoch in range(args.epochs):
        model.train()
        for x, y in train:
            optimiser.zero_grad()
            loss(model(x.to(device)), y.to(device)).backward()
            optimiser.step()
        model.eval()
        with torch.no_grad():
            for x, y in valid:
                pred = model(x.to(device)).argmax(1).cpu()
                if epoch + 1 == args.epochs:
                    matrix.index_put_((y, pred), torch.ones(len(y), dtype=torch.long), accumulate=True)
    done = time.perf_counter()
    right, n = int(matrix.trace()), int(matrix.sum())
    print(json.dumps({"accuracy": right / n, "right": right, "n": n, "total_s": done - start}))


if __name__ == "__main__":
    main()
