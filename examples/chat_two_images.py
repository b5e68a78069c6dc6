"""Hold a conversation in which each image belongs to the turn that shows it.

usage: python chat_two_images.py FIRST SECOND [MODEL]
"""

import sys

from mlx_lfm2vl import generate, load

first, second = sys.argv[1:3]
model, processor = load(sys.argv[3] if len(sys.argv) > 3 else "LiquidAI/LFM2.5-VL-1.6B")
messages = []
turns = [
    [{"type": "image", "image": first}, {"type": "text", "text": "What is this?"}],
    [{"type": "image", "image": second}, {"type": "text", "text": "And this?"}],
    [{"type": "text", "text": "What do the two have in common?"}],
]
for content in turns:
    messages.append({"role": "user", "content": content})
    answer = str(generate(model, processor, messages, max_tokens=128))
    messages.append({"role": "assistant", "content": answer})
    print("-", answer)
