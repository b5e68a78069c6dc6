"""The special tokens of the tiny tokenizers, spelled as in the published ones."""

MARKERS = ["<|startoftext|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>"]
LABELS = [f"<|img_row_{row}_col_{col}|>" for row in range(1, 11) for col in range(1, 11)]
IMAGE_TOKENS = {
    "image_token": "<image>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail": "<|img_thumbnail|>",
}
SPECIAL = [*MARKERS, *IMAGE_TOKENS.values(), *LABELS]
