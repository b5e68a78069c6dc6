"""Write tests/golden: tiny random LFM2-VL checkpoints and the results of transformers for them.

usage: python tools/make_golden.py [CASE ...]

Needs torch 2.13.0, torchvision 0.28.0 (installed with --no-deps) and transformers 5.23 or 5.24. A
CPU is enough, and nothing is downloaded. Two runs on the same machine write identical files. Each
case is a folder:

    checkpoint/            a checkpoint as on the Hub, in the layout that the case tests
    expected.safetensors   tokens, pixels, features, logits and greedy tokens of every prompt
    expected.json          the prompts, and how close the greedy choices were
    stages.safetensors     hidden states of the prompt `small` (some cases)
    gradients.safetensors  gradient of every parameter for a fixed target (one case)
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # for pictures.py

from golden.case_folder import make_case
from golden.cases import CASES
from golden.files import GOLDEN, size_of
from golden.resize import make_resize_fingerprints
from golden.torchvision_operators import declare_torchvision_operators


def main() -> None:
    wanted = sys.argv[1:] or [case.name for case in CASES]
    unknown = set(wanted) - {case.name for case in CASES}
    if unknown:
        sys.exit(f"no such case: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)  # the order of sums must not depend on the number of cores
    library = declare_torchvision_operators()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for case in CASES:
        if case.name in wanted:
            print(make_case(case), flush=True)
    make_resize_fingerprints()
    print(f"tests/golden: {size_of(GOLDEN)} bytes")
    del library


if __name__ == "__main__":
    main()
