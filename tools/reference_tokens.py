"""Print the greedy answers of transformers about images, as JSON.

usage: python tools/reference_tokens.py CHECKPOINT IMAGE[@WIDTHxHEIGHT] ... [--tokens 16]

Runs in float32 on a CPU, in the environment of make_golden.py. `IMAGE@1280x720` is the image after
bicubic resizing to that size. `tests/golden/full_size.json` is the output for a checkpoint written
by make_checkpoint.py.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import torch

# Its classes import torchvision at first use, which is after declare_torchvision_operators().
import transformers
from golden.files import version_of
from golden.torchvision_operators import declare_torchvision_operators
from PIL import Image

PROMPT = "Describe this image in detail."


def open_image(name: str) -> tuple[str, Image.Image]:
    """Read `path` or `path@WIDTHxHEIGHT`; returns the file's name and the picture."""
    path, width, height = re.fullmatch(r"(.*?)(?:@(\d+)x(\d+))?", name).groups()
    image = Image.open(path).convert("RGB")
    if width:
        image = image.resize((int(width), int(height)), Image.Resampling.BICUBIC)
    return Path(path).name, image


@torch.no_grad()
def answer(
    model: transformers.Lfm2VlForConditionalGeneration,
    processor: transformers.Lfm2VlProcessor,
    image: Image.Image,
    tokens: int,
) -> dict:
    """Greedy ids and, for each, the lead of its logit over the second best."""
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]},
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[[image]], text=[text], return_tensors="pt")
    generated = model.generate(
        **inputs,
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        output_scores=True,
        return_dict_in_generate=True,
    )
    length = inputs["input_ids"].shape[1]
    leaders = [scores[0].topk(2).values.tolist() for scores in generated.scores]
    first = generated.scores[0][0]
    return {
        "prompt_tokens": length,
        "greedy": generated.sequences[0, length:].tolist(),
        "gaps": [round(best - second, 4) for best, second in leaders],
        # The logits of the first token: the five best, and the largest absolute value.
        "first_best": [
            [int(index), round(float(value), 5)]
            for value, index in zip(*first.topk(5), strict=True)
        ],
        "first_largest": round(float(first.abs().max()), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder written by make_checkpoint.py")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE[@WIDTHxHEIGHT]", help="files to ask about"
    )
    parser.add_argument(
        "--tokens", type=int, default=16, help="tokens to generate per image; default: 16"
    )
    options = parser.parse_args()
    library = declare_torchvision_operators()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    processor = transformers.AutoProcessor.from_pretrained(options.checkpoint)
    model = transformers.Lfm2VlForConditionalGeneration.from_pretrained(
        options.checkpoint, dtype=torch.float32
    ).eval()
    cases = []
    for name in options.images:
        file, image = open_image(name)
        case = {"image": file, "size": [image.height, image.width], "prompt": PROMPT}
        cases.append(case | answer(model, processor, image, options.tokens))
    versions = {name: version_of(name) for name in ("torch", "transformers", "torchvision")}
    made_with = json.loads((options.checkpoint / "made_with.json").read_text())
    print(json.dumps({"versions": versions, "made_with": made_with, "cases": cases}, indent=1))
    del library


if __name__ == "__main__":
    main()
