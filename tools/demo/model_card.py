"""Write the demo model's card, README.md, from its files and test results.

usage: python tools/demo/model_card.py MODEL RESULTS

MODEL is the checkpoint folder to write the card into, and RESULTS the file that evaluate.py --json
wrote. The text is in card.md. Its account of the packaged model's training is kept by hand, because
the model took several runs.
"""

import argparse
import json
from pathlib import Path

from evaluate import table
from forms import listed
from score import Summary

from mlx_lfm2vl import load
from mlx_lfm2vl.arrays import named_arrays

TARGETS = {  # group of questions -> (what is measured, the lowest share to reach)
    "attribute": ("attributes right", 0.95),
    "count": ("counts right", 0.95),
    "position": ("positions right", 0.95),
    "word": ("words of up to 6 letters read exactly", 0.9),
    "box": ("mean overlap of boxes (intersection over union)", 0.7),
}
CARD = (Path(__file__).parent / "card.md").read_text()


def architecture(folder: Path) -> str:
    """A table of the three parts and their sizes, from the checkpoint's files."""
    model, processor = load(folder)
    vision, text, connector = model.config.vision, model.config.text, model.config.projector
    image, side = processor.image_config, round(model.config.vision.num_patches**0.5)
    sizes = {name: value.size for name, value in named_arrays(model.parameters()).items()}
    attention = text.layer_types.count("full_attention")
    parts = {
        "vision_tower.": f"{vision.num_hidden_layers} layers of width {vision.hidden_size} and "
        f"{vision.num_attention_heads} heads, patches of {vision.patch_size} x "
        f"{vision.patch_size} pixels, {side} x {side} positions, interpolated",
        "multi_modal_projector.": f"{connector.downsample_factor} x {connector.downsample_factor} "
        f"patches become one image token, {connector.hidden_size} wide inside",
        "language_model.": f"{len(text.layer_types)} layers of width {text.hidden_size}, "
        f"{attention} with attention ({text.num_attention_heads} heads, "
        f"{text.num_key_value_heads} of keys) and {len(text.layer_types) - attention} short "
        f"convolutions; {text.vocab_size} tokens",
    }
    lines = ["| part | parameters | |", "|---|---|---|"]
    for prefix, words in parts.items():
        count = sum(size for name, size in sizes.items() if name.startswith(prefix))
        lines.append(f"| `{prefix[:-1]}` | {count:,} | {words} |")
    lines.append(f"| all | {sum(sizes.values()):,} | float16 |")
    views = (
        f"\nA picture is scaled to {image.min_image_tokens} to {image.max_image_tokens} image "
        "tokens, a few more where its sides are rounded up; a larger one is cut into "
        f"{image.min_tiles} to {image.max_tiles} tiles of {image.tile_size} x {image.tile_size} "
        "pixels and shown once more as a whole."
    )
    return "\n".join([*lines, views])


def targets(summary: Summary) -> str:
    """A table of the targets, the measured shares, and whether they were reached."""
    lines = ["| | aim | measured | |", "|---|---|---|---|"]
    for group, (words, least) in TARGETS.items():
        share = summary[group]["all"]
        reached = "reached" if share >= least else "missed"
        lines.append(f"| {words} | {100 * least:.0f} % | {100 * share:.1f} % | {reached} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the model card of the demo model")
    parser.add_argument("model", type=Path, help="checkpoint folder to write the card into")
    parser.add_argument("results", type=Path, help="file that evaluate.py --json wrote")
    options = parser.parse_args()
    summary = json.loads(options.results.read_text())
    card = CARD.format(
        architecture=architecture(options.model),
        questions=summary["overall"]["rows"],
        tiled=summary["tiled"]["rows"],
        table=table(summary),
        targets=targets(summary),
        forms=listed(),
    )
    (options.model / "README.md").write_text(card)


if __name__ == "__main__":
    main()
