"""Prepare a joined model for training its tower and decoder separately again.

usage: python tools/demo/take_apart.py MODEL OUT

This reverses `put_together.py`. After joint training the image tokens no longer use the vectors of
`codes.dictionary`. A least-squares fit over drawn pictures gives two things: a new last layer of
the connector, which makes the tokens use those vectors again (the model in OUT, for
`teach_tower.py`), and the vectors that best describe the old tokens (OUT/codes.npy, for
`teach_decoder.py`).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from codes import COUNT, dictionary, tells
from put_together import transform
from teach_decoder import save_with_codes
from teach_tower import ATTENTION, Picture, draw_pictures, measure

from mlx_lfm2vl import load
from mlx_lfm2vl.model.lfm2vl import Lfm2VL

PICTURES = 3000
RIDGE = 0.01  # regularizes reading codes off tokens, as a share of the tokens' mean square


def tell(model: Lfm2VL, pictures: Sequence[Picture]) -> tuple[np.ndarray, np.ndarray]:
    """The true codes of the image tokens of pictures, (N, COUNT), and the tokens, (N, HIDDEN)."""
    told = [
        np.array(model.encode_views(mx.array(picture.patches[None]), picture.grid))
        for picture in pictures
    ]
    true = [picture.tokens.astype(np.float32) for picture in pictures]
    return np.concatenate(true), np.concatenate(told)


def fit_vectors(true: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Vectors, (COUNT, HIDDEN), with which the sum of a token's codes is nearest to the token."""
    weighted = true * np.where(tells(true), ATTENTION, 1.0)[:, None]
    return np.linalg.solve(weighted.T @ true + np.eye(COUNT), weighted.T @ told).astype(np.float32)


def fit_reading(true: np.ndarray, told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight, (HIDDEN, COUNT), and bias, (COUNT,), of a layer that reads codes off image tokens."""
    told = np.concatenate([told, np.ones((len(told), 1), told.dtype)], axis=1)
    squares = told.T @ told
    squares += RIDGE * np.diag(squares).mean() * np.eye(len(squares))
    reading = np.linalg.solve(squares, told.T @ true)
    return reading[:-1], reading[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the demo model apart")
    parser.add_argument("model", type=Path, help="checkpoint folder of a joined model")
    parser.add_argument("out", type=Path, help="checkpoint folder to write")
    options = parser.parse_args()
    model, processor = load(options.model, dtype="float32")
    model.eval()
    true, told = tell(model, draw_pictures(processor.image_config, "apart", PICTURES))
    codes = fit_vectors(true, told)
    matrix, offset = fit_reading(true, told)
    transform(model.multi_modal_projector, matrix @ dictionary(), offset @ dictionary())
    held_out = draw_pictures(processor.image_config, "measured", 200)
    print(json.dumps(measure(model, held_out, dictionary())))
    save_with_codes(model, codes, options.model, options.out)


if __name__ == "__main__":
    main()
