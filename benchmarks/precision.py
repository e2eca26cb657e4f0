"""A training step in bfloat16 and in float32, in turns: milliseconds an image, and what it gains.

    python benchmarks/precision.py [--runs 3] [--archs resnet34 resnet50 efficientnet_lite0]

Random weights and noise: times only. The norms keep their statistics, as medclf trains.
"""

import argparse
import statistics

from side_by_side import print_table, ratios


def main() -> None:
    import torch

    from medclf.learn.precision import has_bf16
    from medclf.learn.step_costs import measure
    from medclf.models.backbones import build_network

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--archs", nargs="+", default=["resnet34", "resnet50", "efficientnet_lite0"])
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not has_bf16(device):
        parser.exit(1, f"{device.type} has no instructions for bfloat16 here: medclf trains in float32\n")
    rows = []
    for arch in args.archs:
        network = build_network(arch, 5, weights=None).to(device).to(memory_format=torch.channels_last)
        found: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(args.runs):
            for mixed, seconds in found.items():
                seconds.append(1000 * measure(network, args.size, mixed_precision=mixed).whole)
        ms = [f"{statistics.median(each):.1f}" for each in found.values()]
        rows.append([arch, *ms, ratios(found[False], found[True])])
    print_table(["a training step, ms an image", "float32", "bfloat16", "float32 / bfloat16"], rows)


if __name__ == "__main__":
    main()
