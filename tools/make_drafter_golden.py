"""Write tests/golden/drafters: tiny random DSpark drafters and what mlx-vlm makes of them.

usage: python tools/make_drafter_golden.py PEER_PYTHON [CASE ...]

PEER_PYTHON is the Python of an environment with mlx 0.32.4 and mlx-vlm 0.7.10. Nothing is
downloaded, and two runs write identical files. The targets are not kept, because tests make them
again: `make_target` in tests/drafters.py. Each case has

    CASE/                         a drafter in the published layout
    CASE.expected.safetensors     what golden/mlx_vlm_drafter.py says
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from drafters import DRAFTERS, TARGETS, make_target  # noqa: E402

PEER = ROOT / "tools" / "golden" / "mlx_vlm_drafter.py"
# Of each case: heads are (query, key, size of one), and `bits` packs the layers and fc.
CASES = {
    "tied": {"layers": 2, "block": 5, "heads": (4, 2, 16)},
    "own_head": {"layers": 2, "block": 9, "heads": (4, 2, 16)},
    "quantized": {"layers": 1, "block": 4, "heads": (4, 2, 32), "bits": 4},
    "half_split": {"layers": 1, "block": 6, "heads": (2, 1, 16), "half_split": True},
    "wrapped_bf16": {
        "layers": 1,
        "block": 3,
        "heads": (2, 2, 16),
        "dtype": "bfloat16",
        "prefix": "model.",
    },
}


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    peer, *names = sys.argv[1:]
    if unknown := set(names) - set(CASES):
        sys.exit(f"no such case: {', '.join(sorted(unknown))}")
    assert CASES.keys() == TARGETS.keys()
    for name in names or CASES:
        with tempfile.TemporaryDirectory() as folder:
            target = make_target(Path(folder) / "target", name)
            subprocess.run(
                [peer, PEER, target, DRAFTERS / name, json.dumps(CASES[name])], check=True
            )


if __name__ == "__main__":
    main()
