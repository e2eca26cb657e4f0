"""Does the map lie on the finding? Grad-CAM and occlusion on drawn growths whose place is known, and what a map costs.

    python benchmarks/saliency.py [--arch efficientnet_lite0] [--epochs 0] [--images 60]

A network is trained on the drawn endoscopy set, then looks at fresh frames with a growth (polyp and dyed), for the
label each has. Hit: the hottest pixel lies on the growth. Heat on it: the share of the map's heat. IoU: of the hottest
box (share 0.5) and the growth's. As controls, the same network with a random head, and a map that is hottest in the
middle.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from side_by_side import print_table

from medclf import demo_images
from medclf.images.heatmap import Box, hottest_box
from medclf.models.saliency import heat_maps, learner_maps


class Recorded(demo_images._Canvas):
    """Remembers where the growth was drawn."""

    def growth(self, *args, **kwargs):
        self.where = super().growth(*args, **kwargs)
        return self.where


def drawn(count: int, side: int) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Fresh frames, where the growth is in each (bool), and their labels."""
    found = []
    for number in range(count):
        label, draw = (("polyp", demo_images._polyp), ("dyed", demo_images._dyed))[number % 2]
        canvas = Recorded(np.random.default_rng([99, number]), (side, side))
        draw(canvas)
        found.append((np.asarray(canvas.finished()), np.asarray(canvas.where) > 0.5, label))
    return found


def iou(box: Box | None, other: Box) -> float:
    if box is None:
        return 0.0
    width = min(box.right, other.right) - max(box.left, other.left)
    height = min(box.bottom, other.bottom) - max(box.top, other.top)
    shared = max(0, width) * max(0, height)
    areas = [(b.right - b.left) * (b.bottom - b.top) for b in (box, other)]
    return shared / (sum(areas) - shared)


def judged(maps: list[np.ndarray], masks: list[np.ndarray]) -> list[str]:
    hits = [bool(mask.flat[heat.argmax()]) and heat.max() > 0 for heat, mask in zip(maps, masks, strict=True)]
    heats = [heat[mask].sum() / max(heat.sum(), 1e-9) for heat, mask in zip(maps, masks, strict=True)]
    overlaps = [iou(hottest_box(heat), hottest_box(mask.astype(float))) for heat, mask in zip(maps, masks, strict=True)]
    return [f"{np.mean(hits):.0%}", f"{np.mean(heats):.0%}", f"{statistics.median(overlaps):.2f}"]


def seconds(call) -> float:
    call()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.no_grad()
def predicted(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return network(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    from medclf import MedDataLoaders, med_learner

    with tempfile.TemporaryDirectory() as name:
        folder = demo_images.draw_endoscopy(Path(name) / "drawn", n_per_class=40, size=(args.size, args.size))
        dls = MedDataLoaders.from_folder(folder, modality="endoscopy", size=args.size, split="stratified", seed=42)
        learn = med_learner(dls, args.arch)
        learn.fine_tune(args.epochs)
        frames, masks, labels = zip(*drawn(args.images, args.size), strict=True)
        masks = list(masks)
        vocab = list(learn.dls.vocab)
        y = torch.tensor([vocab.index(label) for label in labels])
        batch = next(iter(learn.dls.test_dl(list(frames), num_workers=0, bs=args.images)))[0].as_subclass(torch.Tensor)
        learn.model.eval()
        with torch.no_grad():
            right = (learn.model(batch).argmax(1) == y).float().mean().item()
        rows = []
        for method in ("grad-cam", "occlusion"):
            patch = {"patch": args.size // 7, "stride": args.size // 7} if method == "occlusion" else {}
            maps = learner_maps(learn, frames, labels, method, **patch)
            rows.append([method, *judged(maps, masks)])
        before = learner_maps(learn, frames, labels)
        torch.manual_seed(0)
        torch.nn.init.normal_(learn.model[1][-1].weight, 0, 0.03)
        after = learner_maps(learn, frames, labels)
        rows.append(["grad-cam, random head", *judged(after, masks)])
        square = np.mgrid[-1 : 1 : args.size * 1j, -1 : 1 : args.size * 1j]
        rows.append(["the middle", *judged([np.exp(-4 * (square**2).sum(0))] * len(masks), masks)])
        area = np.mean([mask.mean() for mask in masks])
        same = np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(before, after, strict=True) if b.any()])
        few = batch[:16]
        forward = seconds(lambda: predicted(learn.model, few))
        with_map = seconds(lambda: heat_maps(learn.model, few))
        covered = seconds(lambda: heat_maps(learn.model, few[:1], method="occlusion"))
    print(f"{args.arch}, {args.epochs} epochs, {args.images} frames of which {right:.0%} right; a growth is {area:.0%}")
    print_table(["map", "hit", "heat on it", "box IoU, median"], rows)
    print(f"\nmaps before and after the head was randomised: correlation {same:.2f}")
    print(
        f"one map: {1000 * with_map / 16:.1f} ms, a prediction {1000 * forward / 16:.1f} ms, occlusion {covered:.2f} s"
    )


if __name__ == "__main__":
    main()
