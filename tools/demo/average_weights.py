"""Write the mean of the weights of models that come from one, by runs of their own.

usage: python tools/demo/average_weights.py OUT MODEL MODEL...

Runs that begin with the same weights end in one valley of the loss, each on another side of it:
their mean lies lower (Wortsman et al., "Model soups", 2022).
"""

import argparse
from pathlib import Path

import mlx.core as mx

from mlx_lfm2vl import load
from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.saving import save_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description="Average the weights of models, in float32")
    parser.add_argument("out", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    options = parser.parse_args()
    models = [load(folder, dtype="float32")[0] for folder in options.models]
    weights = [named_arrays(model.parameters()) for model in models]
    mean = [(name, mx.stack([each[name] for each in weights]).mean(0)) for name in weights[0]]
    models[0].load_weights(mean)
    save_checkpoint(models[0], options.models[0], options.out, overwrite=True)


if __name__ == "__main__":
    main()
