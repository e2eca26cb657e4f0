"""Threads and how they wait, and memory kept or given back: small and large steps of training, in turns.

    python benchmarks/threads.py [--runs 3]

Each cell is a process of its own, since OpenMP reads its settings once. Ratios to the first line of each step, of the
time on the clock and of the processors' time; the second is what the other users of a busy machine feel.
"""

import argparse
import json
import os
import statistics
import sys
import time

from side_by_side import last_json, print_table, timed

STEPS = ("fit of the head, 448 x 1280", "head on kept features", "layer4 on kept features", "whole network, 128 px")


def ways() -> dict[str, dict[str, str]]:
    """Settings by name; ACTIVE is what GNU's OpenMP does by itself where threads do not outnumber the cores."""
    cores = str(os.cpu_count())
    return {
        f"{cores} threads, waiting actively": {"OMP_NUM_THREADS": cores, "OMP_WAIT_POLICY": "ACTIVE"},
        f"{cores} threads, as they are": {"OMP_NUM_THREADS": cores, "OMP_WAIT_POLICY": ""},
        f"{cores} threads, passively": {"OMP_NUM_THREADS": cores, "OMP_WAIT_POLICY": "PASSIVE"},
        f"{cores} threads, passively, memory kept": {
            "OMP_NUM_THREADS": cores,
            "OMP_WAIT_POLICY": "PASSIVE",
            "KEEP_MEMORY": "1",
        },
        "1 thread": {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    }


def measure() -> dict[str, tuple[float, float]]:
    """Seconds on the clock and of the processors for each step, in this process."""
    import numpy as np
    import torch

    from medclf.models.backbones import build_network
    from medclf.models.frozen_prefix import FrozenPrefix
    from medclf.models.linear_probe import fit_linear
    from medclf.parallel import keep_memory

    if os.environ.get("KEEP_MEMORY"):
        keep_memory()
    rng = np.random.default_rng(0)
    y = np.arange(448) % 5
    features = rng.normal(size=(448, 1280)).astype(np.float32) + 0.3 * np.eye(5, 1280, dtype=np.float32)[y]
    network = build_network("resnet34", 5, weights=None).to(memory_format=torch.channels_last).eval()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, fused=True)

    def step(run, x):
        def do():
            run(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return do

    maps = {
        "head": torch.rand(64, 512, 7, 7).contiguous(memory_format=torch.channels_last),
        "layer4": torch.rand(16, 256, 14, 14).contiguous(memory_format=torch.channels_last),
        "whole": torch.rand(16, 3, 128, 128).contiguous(memory_format=torch.channels_last),
    }
    jobs = [
        (lambda: fit_linear(features, y, 5), 1),
        (step(FrozenPrefix(network, 5), maps["head"]), 30),
        (step(FrozenPrefix(network, 4), maps["layer4"]), 3),
        (step(network, maps["whole"]), 2),
    ]
    found = {}
    for name, (job, times) in zip(STEPS, jobs, strict=True):
        job()
        clock, own = time.perf_counter(), time.process_time()
        for _ in range(times):
            job()
        found[name] = (time.perf_counter() - clock) / times, (time.process_time() - own) / times
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help="in this process, as the settings are")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure()))
        return
    found: dict[str, list[dict]] = {name: [] for name in ways()}
    for _ in range(args.runs):
        for name, settings in ways().items():
            environment = {key: value for key, value in settings.items() if value}
            command = [sys.executable, __file__, "--measure"]
            if not settings["OMP_WAIT_POLICY"]:
                command = ["env", "-u", "OMP_WAIT_POLICY", *command]
            found[name].append(last_json(timed(command, environment)[1]))
    rows = []
    for step in STEPS:
        base = next(iter(found.values()))
        for name, results in found.items():
            cells = [step, name, f"{statistics.median(r[step][0] for r in results) * 1000:.1f}"]
            for part in (0, 1):
                pairs = [b[step][part] / r[step][part] for b, r in zip(base, results, strict=True)]
                cells.append(f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})")
            rows.append(cells)
    print_table(["step", "way", "ms", "times as fast, clock", "processors"], rows)


if __name__ == "__main__":
    main()
