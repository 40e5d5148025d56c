"""What CSASN costs: parameters, arithmetic and speed of each size, beside its single branches and a plain head.

Every row is the same code on the same machine in one run: images of the size's own side, random pixels, float32. A
training step is forward, backward and AdamW. FLOPs count a multiply and an add as two, for one image forward. The rows
are measured in turns, round after round, and the fastest counts: a busy machine slows some rounds and speeds up none.
On a machine that others use, `--clock cpu` with one thread counts what this process had of it.

    python benchmarks/csasn_cost.py --threads 2
    python benchmarks/csasn_cost.py --sizes tiny,small --rounds 10
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from medtail.models.backbones import DualConfig
from medtail.models.csasn import CsasnConfig
from medtail.models.diagnoser import Diagnoser, build_diagnoser
from medtail.models.heads import HeadConfig, LinearHeadConfig
from medtail.tables.labels import LabelSpace

SUBTYPES = LabelSpace(("FTC", "MTC", "ATC"))
SIDES = {"tiny": 64, "small": 224, "base": 224}
BATCHES = {"tiny": 16, "small": 4, "base": 2}


def variants(size: str) -> Iterator[tuple[str, DualConfig, HeadConfig]]:
    full = CsasnConfig.of_size(size)  # type: ignore[arg-type]
    both, vit, cnn = (DualConfig(size=size, branches=name) for name in ("both", "vit", "cnn"))  # type: ignore[arg-type]
    plain = LinearHeadConfig()
    yield "both branches, CSASN head", both, full
    yield "both branches, attention at full width", both, replace(full, rmsc=replace(full.rmsc, width=None))
    yield "both branches, mean and linear layer", both, plain
    yield "transformer alone, CSASN head", vit, full
    yield "transformer alone, mean and linear layer", vit, plain
    yield "convolutional alone, CSASN head", cnn, full
    yield "convolutional alone, mean and linear layer", cnn, plain


def build(backbone: DualConfig, head: HeadConfig, *, size_px: int) -> Diagnoser:
    torch.manual_seed(0)
    model = build_diagnoser(backbone=backbone, head=head, labels=SUBTYPES, link="sigmoid", channels=3, size_px=size_px)
    layout = torch.channels_last if model.backbone.is_convolutional else torch.contiguous_format
    return model.to(memory_format=layout)


def count_flops(model: Diagnoser, *, size_px: int) -> int:
    # the fused attention kernels of a CPU are not counted; the plain one is made of matrix products that are
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model.eval()(torch.rand(1, 3, size_px, size_px))
    return int(counter.get_total_flops())


def measure(size: str, backbone: DualConfig, head: HeadConfig, *, clock: Callable[[], float]) -> tuple[float, float]:
    """Return seconds of one training step and of one forward pass, each the second of two."""
    side, batch = SIDES[size], BATCHES[size]
    model = build(backbone, head, size_px=side)
    layout = torch.channels_last if model.backbone.is_convolutional else torch.contiguous_format
    images = torch.rand(batch, 3, side, side).contiguous(memory_format=layout)
    targets = torch.randint(0, 2, (batch, 3)).float()
    model.eval()
    with torch.inference_mode():
        for _ in range(2):
            began = clock()
            model(images)
            scoring = clock() - began
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for _ in range(2):
        began = clock()
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(images), targets).backward()
        optimizer.step()
        training = clock() - began
    return training, scoring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="tiny,small,base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads > 1:
        parser.error("--clock cpu: adds up all threads; give --threads 1.")
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.clock} clock, {options.rounds} rounds\n")
    print("| size | network | parameters | GFLOPs/image | training images/s | inference images/s |")
    print("|---|---|---|---|---|---|")
    for size in options.sizes.split(","):
        rows = list(variants(size))
        rounds = []
        for _ in range(options.rounds):  # in turns, so that a busy minute does not fall on one row
            rounds.append([measure(size, backbone, head, clock=clock) for _, backbone, head in rows])
            gc.collect()
        for index, (name, backbone, head) in enumerate(rows):
            model = build(backbone, head, size_px=SIDES[size])
            parameters = sum(parameter.numel() for parameter in model.parameters())
            flops = count_flops(model, size_px=SIDES[size])
            training, inference = (BATCHES[size] / min(times[index][kind] for times in rounds) for kind in (0, 1))
            print(
                f"| {size}, {SIDES[size]} px | {name} | {parameters:,} | {flops / 1e9:.3g} | {training:.3g} |"
                f" {inference:.3g} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
