"""Write a checkpoint with the shapes of a published model and random weights.

usage: python tools/make_checkpoint.py ASSETS OUT [--name LFM2.5-VL-450M] [--dtype bfloat16]

Needs only numpy. ASSETS holds one folder per published checkpoint, with its small files (config,
processor, template) and `tensor_inventory.json`, the names and shapes of its tensors. The weights
are the same on every machine: the seed of each tensor is derived from its name. The arguments are
written to OUT/made_with.json.
"""

import argparse
import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

TOKENIZER_HOME = "LFM2-VL-450M"  # the folder whose tokenizer.json the others share
BYTES = {"float32": 4, "bfloat16": 2}
TAGS = {"float32": "F32", "bfloat16": "BF16"}  # safetensors' names


def make_checkpoint(
    assets: Path,
    out: Path,
    name: str = "LFM2.5-VL-450M",
    dtype: str = "float32",
    seed: int = 0,
) -> Path:
    """Write one checkpoint folder and return it.

    Args:
        assets: folder with one folder per published checkpoint.
        out: folder to write; files in it are replaced.
        name: the published checkpoint to imitate.
        dtype: "float32" or "bfloat16", the file's type; bfloat16 weights are the rounded float32.
        seed: another seed gives other weights.
    """
    source = assets / name
    inventory = json.loads((source / "tensor_inventory.json").read_text())["tensors"]
    files = [path for path in source.iterdir() if path.suffix in (".json", ".jinja")]
    tokenizer = source / "tokenizer.json"
    if not tokenizer.exists():
        files.append(assets / TOKENIZER_HOME / "tokenizer.json")
    if not (source / "config.json").exists():
        raise SystemExit(f"{source} has no config.json: choose --name from {assets}")
    out.mkdir(parents=True, exist_ok=True)
    for path in files:
        if path.name != "tensor_inventory.json":
            shutil.copyfile(path, out / path.name)
    made_with = {"name": name, "dtype": dtype, "seed": seed}
    (out / "made_with.json").write_text(json.dumps(made_with) + "\n")
    write_weights(out / "model.safetensors", inventory, dtype, seed)
    return out


def write_weights(path: Path, inventory: dict[str, list[int]], dtype: str, seed: int) -> None:
    """Write tensors to a safetensors file one by one; memory holds one at a time."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in inventory.items():
        start, end = end, end + int(np.prod(shape)) * BYTES[dtype]
        header[name] = {"dtype": TAGS[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in inventory.items():
            weight = make_tensor(name, shape, seed)
            file.write((weight if dtype == "float32" else to_bfloat16(weight)).data)


def make_tensor(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """Draw float32 weights that all affect the output, so that answers depend on the picture."""
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    mean, spread = 0.0, 1.4 / float(np.prod(shape[1:])) ** 0.5
    if name.endswith("bias"):
        spread = 0.2
    elif name.endswith(("q_layernorm.weight", "k_layernorm.weight")):
        mean, spread = 1.4, 0.3
    elif len(shape) == 1:
        mean, spread = 1.0, 0.2
    elif "language_model" in name and "self_attn.out_proj" in name:
        # Averages over many tokens are small, but attention must still change the answer.
        spread = 5.0 / shape[1] ** 0.5
    elif "position_embedding" in name:
        spread = 0.7
    elif "embed_tokens" in name:
        spread = 0.2  # gives logits a spread of 6, and the best one a lead of about 1
    weight = random.standard_normal(tuple(shape), dtype=np.float32)
    weight *= np.float32(spread)
    weight += np.float32(mean)
    return weight


def to_bfloat16(weight: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 bits: the upper half of float32, rounded to nearest even."""
    bits = weight.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("assets", type=Path, help="folder of published small files")
    parser.add_argument("out", type=Path, help="checkpoint folder to write")
    parser.add_argument(
        "--name", default="LFM2.5-VL-450M", help="checkpoint to imitate; default: %(default)s"
    )
    parser.add_argument(
        "--dtype", choices=BYTES, default="float32", help="type of the file; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights; default: 0")
    options = parser.parse_args()
    print(make_checkpoint(**vars(options)))


if __name__ == "__main__":
    main()
