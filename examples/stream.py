"""Print an answer while it is generated, then its number of image tokens and its speed.

usage: python stream.py IMAGE [MODEL]
"""

import sys

from mlx_lfm2vl import load, stream_generate

image = sys.argv[1]
model, processor = load(sys.argv[2] if len(sys.argv) > 2 else "LiquidAI/LFM2.5-VL-450M")
content = [
    {"type": "image", "image": image},
    {"type": "text", "text": "What is in this image?"},
]
for piece in stream_generate(model, processor, [{"role": "user", "content": content}]):
    print(piece.text, end="", flush=True)
    if piece.result is not None:
        speed = piece.result.tokens_per_second
        print(f"\n{piece.result.image_tokens} image tokens, {speed:.0f} tokens/s", file=sys.stderr)
