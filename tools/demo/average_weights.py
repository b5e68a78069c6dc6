"""Write the mean of the weights of models that were trained further from the same one.

usage: python tools/demo/average_weights.py OUT MODEL MODEL...

Such runs end in one valley of the loss, each on another side of it: their mean often lies lower;
measure it (Wortsman et al., "Model soups", 2022). The one that they began with may be among them.
"""

import argparse
from pathlib import Path

import mlx.core as mx

from mlx_lfm2vl import load
from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.saving import save_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description="Average the weights of models")
    parser.add_argument("out", type=Path, help="folder to write, float16; files are replaced")
    parser.add_argument("model", type=Path)
    parser.add_argument("others", type=Path, nargs="+")
    options = parser.parse_args()
    folders = [options.model, *options.others]
    models = [load(folder, dtype="float32")[0] for folder in folders]
    weights = [named_arrays(model.parameters()) for model in models]
    for name in weights[0]:
        mean = mx.stack([each[name] for each in weights]).mean(0)
        models[0].load_weights([(name, mean.astype(mx.float16))], strict=False)
    save_checkpoint(models[0], options.model, options.out, overwrite=True)


if __name__ == "__main__":
    main()
