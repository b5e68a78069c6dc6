"""Write the model card of the demo model, its README.md, from its files and its test results.

usage: python tools/demo/model_card.py MODEL RESULTS

MODEL is the checkpoint folder the card is written into, RESULTS what evaluate.py --json wrote. What
the packaged model learned, and when, is kept here by hand: it took several sessions.
"""

import argparse
import json
from pathlib import Path

from evaluate import table
from score import Summary

from mlx_lfm2vl import load
from mlx_lfm2vl.arrays import named_arrays

TARGETS = {  # group of questions: (what is asked for, the least share)
    "attribute": ("attributes right", 0.95),
    "count": ("counts right", 0.95),
    "position": ("positions right", 0.95),
    "word": ("words of up to 6 letters read exactly", 0.9),
    "box": ("mean overlap of boxes (intersection over union)", 0.7),
}
CARD = """\
---
license: mit
library_name: mlx
pipeline_tag: image-text-to-text
---

# The demo model of mlx-lfm2vl

A vision-language model of the LFM2-VL architecture that is small enough to be part of a Python
package, made so that everything in it can be tried and tested without a download. It was trained
from nothing on drawn shapes and printed capitals, and it knows nothing else. It is not a model of
Liquid AI, and holds none of their weights. **It is not finished**: it sees what is there and mostly
where, but miscounts one time in six, reads two words of three exactly, and compares two pictures
rightly half of the time; the evaluation has the numbers.

```
python -m mlx_lfm2vl.generate --model demo --image demo --prompt "What color is the circle?"
```

## Architecture

{architecture}

## Training

Pictures and answers are drawn and written by `tools/demo` of the repository: one to five shapes of
six kinds, eight colours and two sizes on ten backgrounds, up to three lines of print, and pairs of
such pictures. The tower first learns what each image token is to tell, and the decoder, apart from
it, to answer from image tokens that tell the truth (`codes.py`); then both learn together from
pictures and questions. Every parameter is trained, each stage with a cosine schedule.

| lessons | updates | of | learning rate | hours | last loss |
|---|---|---|---|---|---|
| the decoder's beginning: an earlier model (readings, grids, maps, scenes) | 3,900 | 32 | 0.0015 | 1.4 | 0.29 |
| tower, from nothing: codes of image tokens (squared errors only) | 1,250 | 32 | 0.0015 | 0.2 | - |
| tower: with cross entropies | 1,250 | 32 | 0.0015 | 0.2 | - |
| tower: with weight on places | 3,500 | 32 | 0.0015 | 0.5 | 1.6 |
| decoder: true image tokens, questions as in the data | 200 | 32 | 0.0015 | 0.1 | 0.22 |
| decoder: true image tokens, more short and hard questions | 2,400 | 32 | 0.0015 | 1.6 | 0.06 |
| both together: pictures and questions (96,000 conversations) | 750 | 32 | 0.0006 | 0.3 | 0.15 |

Muon and AdamW, one core for a tower and one for a decoder, both for both. Losses of different lessons
cannot be compared.

Trained on 2 cores of an AMD EPYC (Zen 5).

## Evaluation

{questions:,} questions about pictures whose random states no training picture has: eight categories
about scenes, with words that training never prints, {tiled} of them about a picture that is cut
into tiles. Half of the scenes are drawn in other ways than in training: thick outlines, noise, blur,
JPEG artefacts, other fonts, slightly turned print. Greedy, float32; an answer is right or wrong, and
boxes count their overlap.

{table}

What was aimed at, and what came out over all pictures, those drawn otherwise included:

{targets}

## Limits

It answers the questions of its lessons, in one form each. Asked about anything else, a photo for
example, it makes something up.

## Licence

MIT, as the package. The pictures it was trained on are the project's own drawings; their print is
set in fonts that come with Pillow and matplotlib.

## Making it again

`tools/demo/README.md` of the repository says how it came about, by which scripts. No single command
repeats it: the decoder began as an earlier model, and settings changed between the stages.
"""


def architecture(folder: Path) -> str:
    """A table of the three parts and what they measure, from the checkpoint's own files."""
    model, processor = load(folder)
    vision, text, connector = model.config.vision, model.config.text, model.config.projector
    image, side = processor.image_config, round(model.config.vision.num_patches**0.5)
    sizes = {name: value.size for name, value in named_arrays(model.parameters()).items()}
    attention = text.layer_types.count("full_attention")
    parts = {
        "vision_tower.": f"{vision.num_hidden_layers} layers of width {vision.hidden_size} and "
        f"{vision.num_attention_heads} heads, patches of {vision.patch_size} x "
        f"{vision.patch_size} pixels, {side} x {side} positions",
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
        f"\nA view is up to {image.tile_size} x {image.tile_size} pixels and takes "
        f"{image.min_image_tokens} to {image.max_image_tokens} image tokens; a larger picture is "
        f"cut into {image.min_tiles} to {image.max_tiles} tiles and shown once more as a whole."
    )
    return "\n".join([*lines, views])


def targets(summary: Summary) -> str:
    """A table of what was aimed at and what was reached, missed or not."""
    lines = ["| | aim | measured | |", "|---|---|---|---|"]
    for group, (words, least) in TARGETS.items():
        share = summary[group]["all"]
        reached = "reached" if share >= least else "missed"
        lines.append(f"| {words} | {100 * least:.0f} % | {100 * share:.1f} % | {reached} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the model card of the demo model")
    parser.add_argument("model", type=Path)
    parser.add_argument("results", type=Path)
    options = parser.parse_args()
    summary = json.loads(options.results.read_text())
    card = CARD.format(
        architecture=architecture(options.model),
        questions=summary["overall"]["rows"],
        tiled=summary["tiled"]["rows"],
        table=table(summary),
        targets=targets(summary),
    )
    (options.model / "README.md").write_text(card)


if __name__ == "__main__":
    main()
