"""Describe one image.

usage: python caption.py IMAGE [MODEL]
"""

import sys

from mlx_lfm2vl import generate, load

image = sys.argv[1]
model, processor = load(sys.argv[2] if len(sys.argv) > 2 else "LiquidAI/LFM2.5-VL-450M")
message = {
    "role": "user",
    "content": [
        {"type": "image", "image": image},
        {"type": "text", "text": "Describe this image in one sentence."},
    ],
}
print(generate(model, processor, [message], max_tokens=64))
