"""Join a tower and a decoder trained separately by `teach_tower.py` and `teach_decoder.py`.

usage: python tools/demo/put_together.py TOWER DECODER OUT

The tower uses the vectors of `codes.dictionary`, while the decoder has learned its own. The last
layer of the connector is linear, so it can translate the former into the latter.
"""

import argparse
from pathlib import Path

import mlx.core as mx
import numpy as np
from codes import HIDDEN, dictionary

from mlx_lfm2vl import load
from mlx_lfm2vl.model.projector import MultiModalProjector
from mlx_lfm2vl.saving import save_checkpoint


def transform(connector: MultiModalProjector, matrix: np.ndarray, offset: np.ndarray) -> None:
    """Change a connector in place so that its output `x` becomes `x @ matrix + offset`.

    Args:
        connector: its last layer is changed.
        matrix: (HIDDEN, HIDDEN).
        offset: (HIDDEN,).
    """
    last = connector.linear_2
    last.weight = mx.array((matrix.T @ np.array(last.weight)).astype(np.float32))
    last.bias = mx.array((np.array(last.bias) @ matrix + offset).astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description="Join a tower and a decoder taught apart")
    for name in ("tower", "decoder", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    seeing, _ = load(options.tower, dtype="float32")
    model, _ = load(options.decoder, dtype="float32")
    model.vision_tower = seeing.vision_tower
    model.multi_modal_projector = seeing.multi_modal_projector
    codes = np.load(options.decoder / "codes.npy")  # (COUNT, HIDDEN)
    transform(model.multi_modal_projector, dictionary().T @ codes, np.zeros(HIDDEN))
    save_checkpoint(model, options.decoder, options.out, overwrite=True)


if __name__ == "__main__":
    main()
