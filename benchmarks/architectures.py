"""Which of timm's and torchvision's networks work, and in what: a table for docs/encoders.md.

    python benchmarks/architectures.py --write docs/encoders.md
    python benchmarks/architectures.py --only resnet18,vit_tiny_patch16_224
    python benchmarks/architectures.py --write docs/encoders.md --steps ONNX

Each network gets random weights and small drawn images of two kinds, and a process of its own. A step that fails is
named in the table by its error; what a network cannot do by its nature (a map of a network without feature map) is a
dash. With --write, only what the page's table has no cell for is tried, and the page is written after each network.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import warnings
from pathlib import Path

NAMES = """
resnet18 resnet34 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 vgg11_bn mobilenet_v2 mobilenet_v3_small
shufflenet_v2_x0_5 squeezenet1_1 efficientnet_b0 efficientnet_v2_s regnet_y_400mf mnasnet0_5 convnext_tiny swin_t
swin_v2_t vit_b_32 maxvit_t inception_v3 googlenet efficientnet_lite0 efficientnet_lite1
timm/resnet10t timm/resnetv2_50 timm/seresnet18 timm/skresnet18 timm/res2net50_14w_8s timm/resnest14d timm/dla34
timm/cspresnet50 timm/dpn48b timm/hrnet_w18_small timm/repvgg_a0 timm/vovnet39a timm/rexnet_100 timm/ghostnet_050
timm/mobilenetv3_small_050 timm/mobilenetv4_conv_small timm/efficientnet_lite0 timm/tinynet_e timm/regnety_002
timm/nfnet_l0 timm/convnext_atto timm/convnextv2_atto timm/inception_next_atto timm/mambaout_femto timm/starnet_s1
timm/xception41 timm/vit_tiny_patch16_224 timm/vit_small_patch32_224 timm/vit_small_patch14_dinov2
timm/vit_small_patch14_reg4_dinov2 timm/vit_small_patch16_dinov3 timm/vit_base_patch32_clip_224
timm/vit_base_patch32_siglip_256 timm/deit_tiny_patch16_224 timm/deit3_small_patch16_224 timm/beit_base_patch16_224
timm/eva02_tiny_patch14_224 timm/cait_xxs24_224 timm/xcit_nano_12_p16_224 timm/convit_tiny timm/crossvit_tiny_240
timm/levit_128s timm/pit_ti_224 timm/pvt_v2_b0 timm/swin_s3_tiny_224 timm/swinv2_cr_tiny_ns_224
timm/coat_lite_tiny timm/coatnet_nano_rw_224 timm/maxvit_rmlp_pico_rw_256 timm/mobilevit_xxs timm/mobilevitv2_050
timm/edgenext_xx_small timm/efficientformer_l1 timm/efficientvit_b0 timm/fastvit_t8 timm/focalnet_tiny_srf
timm/gcvit_xxtiny timm/hiera_tiny_224 timm/mvitv2_tiny timm/nest_tiny timm/poolformer_s12 timm/caformer_s18
timm/mixer_s32_224 timm/gmlp_ti16_224 timm/resmlp_12_224 timm/sequencer2d_s timm/tiny_vit_5m_224 timm/twins_svt_small
timm/volo_d1_224 timm/visformer_tiny timm/repvit_m0_9 timm/davit_tiny timm/tnt_s_patch16_224
""".split()
STEPS = ("size", "linear probe", "stages", "groups", "map", "bundle", "cold prediction", "ONNX")
BEGIN, END = "<!-- made by benchmarks/architectures.py -->", "<!-- end of that -->"
LIGHT = 40e6  # parameters: larger networks are not trained here beyond the linear probe


def drawn(folder: Path) -> Path:
    """Six small pictures of each of two kinds."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    for kind, length in (("wide", 9), ("narrow", 4)):
        (folder / kind).mkdir(parents=True)
        for number in range(6):
            wave = np.sin(x / length + rng.uniform(0, 6)) * np.cos(y / length)
            pixels = 120 + 60 * wave[..., None] + rng.normal(0, 20, (48, 48, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / kind / f"{number}.png")
    return folder


def tried(arch: str, images: Path, folder: Path, wanted: list[str]) -> dict[str, str]:
    """What works of one network: a step -> "yes", "-" or why not."""
    from medclf.errors import MedclfError
    from medclf.learn.dataloaders import MedDataLoaders
    from medclf.learn.learner import med_learner
    from medclf.models.backbones import describe, fitted_to

    found: dict[str, str] = {}
    for side in (64, 96, 112, 128, describe(arch).size):
        try:
            fitted_to(arch, (side, side))
            break
        except MedclfError:
            continue
    found["size"] = str(side)
    dls = MedDataLoaders.from_folder(
        images, size=side, split="stratified", valid_pct=0.34, bs=4, progress=False, device="cpu", num_workers=0
    )
    learn = med_learner(dls, arch, weights=None, linear_probe=True, mixed_precision=False)
    with learn.no_bar(), learn.no_logging():
        for step, work in steps(learn, folder):
            if step not in wanted:
                continue
            try:
                found[step] = work()
            except MedclfError as error:
                found[step] = f"- ({error.message.partition(':')[0]})" if step == "map" else error.message[:80]
            except Exception as error:  # noqa: BLE001 - the table says which network fails, and how
                found[step] = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:60]}"
    return found


def steps(learn, folder: Path):
    """The steps in turn, each with what does it."""
    import numpy as np
    import torch

    from medclf.inference.bundle import load_bundle, save_bundle
    from medclf.inference.onnx import OnnxModel, export_onnx
    from medclf.models.saliency import grad_cam
    from medclf.models.stages import stage_names

    image, place = learn.dls.valid_ds.items[0], folder / "bundle"

    def probe() -> str:
        learn.fit_head(progress=False)
        return "yes"

    def stages() -> str:
        names = stage_names(learn.model)
        learn.fine_tune(1, train_from=names[-2])
        return f"{len(names) - 2} + stem"

    def groups() -> str:
        learn.fit_one_cycle(1, slice(1e-6, 1e-4))
        return "yes" if len({group["lr"] for group in learn.opt.hypers}) > 1 else "one rate"

    def mapped() -> str:
        heat = grad_cam(learn, image)
        return "yes" if np.isfinite(heat).all() else "not finite"

    def bundled() -> str:
        save_bundle(learn, place, calibration={}, overwrite=True)
        gap = np.abs(probs(load_bundle(place), image) - learn.predict(image)[2].numpy()).max()
        return "yes" if gap < 1e-5 else f"differs by {gap:.1g}"

    def cold() -> str:
        start = time.perf_counter()
        probs(load_bundle(place), image)
        return f"{time.perf_counter() - start:.1f} s"

    def exported() -> str:
        save_bundle(learn, place, calibration={}, overwrite=True)
        path = export_onnx(place, folder / "network.onnx", overwrite=True)
        gap = np.abs(probs(OnnxModel(path), image) - probs(load_bundle(place), image)).max()
        return "yes" if gap < 1e-4 else f"differs by {gap:.1g}"

    def probs(bundle, item) -> np.ndarray:
        return bundle.predict_probs([item])[0]

    torch.manual_seed(0)
    light = sum(parameter.numel() for parameter in learn.model.parameters()) < LIGHT
    yield "linear probe", probe
    if light:
        yield "stages", stages
        yield "groups", groups
    yield "map", mapped
    yield "bundle", bundled
    yield "cold prediction", cold
    yield "ONNX", exported


def in_own_process(arch: str, wanted: list[str], seconds: float) -> dict[str, str]:
    """As `tried`; a network that ends the process, or lasts too long, ends no more than that."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        with tempfile.TemporaryDirectory() as temporary:
            try:
                found = tried(arch, drawn(Path(temporary) / "images"), Path(temporary), wanted)
            except Exception as error:  # noqa: BLE001 - the table says which network fails, and how
                found = {"size": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:60]}"}
            sender.send(found)

    process = context.Process(target=work)
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return dict.fromkeys(wanted, f"not within {seconds:.0f} s")
        return dict(receiver.recv())
    except EOFError:
        return dict.fromkeys(wanted, "the process ends")
    finally:
        process.kill()
        process.join()


def table(rows: dict[str, dict[str, str]]) -> str:
    """As Markdown."""
    head = f"| architecture | {' | '.join(STEPS)} |\n|{'---|' * (len(STEPS) + 1)}"
    lines = (f"| {name} | {' | '.join(row.get(step, '') for step in STEPS)} |" for name, row in rows.items())
    return "\n".join([head, *lines])


def rows_of(page: str) -> dict[str, dict[str, str]]:
    """What `table` wrote into a page."""
    lines = page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: {step: cell for step, cell in zip(STEPS, row, strict=True) if cell} for name, *row in cells}


def main() -> None:
    """Try them, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="these, between commas")
    parser.add_argument("--steps", default=",".join(STEPS), help="steps that are tried, between commas")
    parser.add_argument("--write", type=Path, help="go on from the table in this page, and write it there")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further network after these")
    parser.add_argument("--seconds", type=float, default=300, help="for one network, at most")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    import medclf.all  # once, for all processes
    import medclf.inference.onnx  # noqa: F401

    torch.set_num_threads(1)
    rows = rows_of(given.write.read_text(encoding="utf-8")) if given.write else {}
    start = time.monotonic()
    for name in given.only.split(",") if given.only else NAMES:
        wanted = [step for step in given.steps.split(",") if step not in rows.get(name, {})]
        if not wanted or time.monotonic() - start > given.minutes * 60:
            continue
        rows[name] = rows.get(name, {}) | in_own_process(name, wanted, given.seconds)
        print(name, rows[name], flush=True)
        if given.write:
            before, _, rest = given.write.read_text(encoding="utf-8").partition(BEGIN)
            text = f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.partition(END)[2]}"
            given.write.write_text(text, encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
