"""Use messages as in the transformers documentation, with images from a URL or file and from PIL.

usage: python transformers_messages.py URL_OR_FILE [MODEL]
"""

import sys

from PIL import Image

from mlx_lfm2vl import ImageLimits, ImageOptions, Sampling, generate, load

source = sys.argv[1]
name = sys.argv[2] if len(sys.argv) > 2 else "LiquidAI/LFM2.5-VL-450M"
model, processor = load(name, limits=ImageLimits(allow_url=True))
conversation = [
    {"role": "system", "content": [{"type": "text", "text": "Answer in one word."}]},
    {
        "role": "user",
        "content": [
            {"type": "image", "url": source},
            {"type": "image", "image": Image.new("RGB", (256, 256), "teal")},
            {"type": "text", "text": "Which of the two images has only one color?"},
        ],
    },
]
result = generate(
    model,
    processor,
    conversation,
    max_tokens=32,
    sampling=Sampling(temperature=0),
    options=ImageOptions(max_image_tokens=128),
)
print(result.text)
for plan in result.images:
    print(plan.size, plan.grid, plan.image_tokens, file=sys.stderr)
