"""Average the weights of models that were fine-tuned from the same model.

usage: python tools/demo/average_weights.py OUT MODEL MODEL...

Such runs often end on different sides of the same valley of the loss, and their mean has a lower
loss (Wortsman et al., "Model soups", 2022); measure it. The original model may be among them.
"""

import argparse
from pathlib import Path

import mlx.core as mx

from mlx_lfm2vl import load
from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.saving import save_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description="Average the weights of models")
    parser.add_argument("out", type=Path, help="folder to write in float16; it is replaced")
    parser.add_argument("model", type=Path, help="checkpoint folder; its small files are copied")
    parser.add_argument("others", type=Path, nargs="+", help="checkpoint folders of other runs")
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
