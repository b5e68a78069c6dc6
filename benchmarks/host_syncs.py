"""Count how often the host waits for the device between an image and the answer's tokens.

usage: python benchmarks/host_syncs.py [CHECKPOINT]

The default checkpoint is tiny, since the count depends on the code path and not on sizes.
"""

import sys
from pathlib import Path

from PIL import Image

from mlx_lfm2vl import Sampling, generate, load, stream_generate
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.speed.host_syncs import HostSyncs

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "golden" / "real_geometry" / "checkpoint"
SEVEN_VIEWS = (1536, 1024)  # pixels: 3 x 2 tiles of 512 and a thumbnail
LIQUIDS = Sampling(temperature=0.1, min_p=0.15, repetition_penalty=1.05)


def count_waits(checkpoint: Path, sampling: Sampling, tokens: int) -> HostSyncs:
    """Answer a question about an image of seven views and count the waits, without loading."""
    model, processor = load(checkpoint)
    image = Image.radial_gradient("L").convert("RGB").resize(SEVEN_VIEWS)
    messages = user_message("What is this?", [image])
    if len(processor(messages).pixel_values) != 7:
        raise ValueError(f"{checkpoint} does not split {SEVEN_VIEWS} pixels into seven views")
    generate(model, processor, messages, max_tokens=1)  # on a CPU, the first one makes tables
    with HostSyncs() as syncs:
        *_, last = stream_generate(
            model, processor, messages, max_tokens=tokens, sampling=sampling, seed=0
        )
    assert last.result is not None
    if len(last.result.token_ids) != tokens:
        raise ValueError("the answer ended early: use another seed")
    return syncs


def main() -> None:
    checkpoint = Path(sys.argv[1]) if len(sys.argv) > 1 else TINY
    for name, sampling in (("greedy", Sampling()), ("Liquid's sampling", LIQUIDS)):
        for tokens in (1, 8):
            syncs = count_waits(checkpoint, sampling, tokens)
            print(f"{name}, 7 views, {tokens} token(s): {syncs.total} waits {dict(syncs.count)}")
            for place, count in syncs.places.items():
                print(f"    {count} x {place}")


if __name__ == "__main__":
    main()
