"""Check that mlx-vlm and mlx-lm can use our conversions, and that we can use theirs.

usage: python benchmarks/interop.py CHECKPOINT --peer-python PYTHON [--image FILE] [--tokens 24]

CHECKPOINT is a checkpoint that is not quantized, or `demo` for the one in the package. PYTHON
belongs to an environment with mlx-vlm and mlx-lm. Compares greedy answers, prints a Markdown table,
and exits with 1 if two programs give different answers with the same files.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROMPT = "Describe the image."
VLM = """
import json, sys
from mlx_vlm import load, stream_generate
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import load_config
import mlx.core as mx
folder, image, prompt, count = sys.argv[1:5]
model, processor = load(folder)
model.set_dtype(mx.float32)
text = apply_chat_template(processor, load_config(folder), prompt, num_images=1)
options = {'image': [image], 'max_tokens': int(count), 'temperature': 0.0}
parts = stream_generate(model, processor, text, **options)
print(json.dumps([int(part.token) for part in parts if part.token is not None]))
"""
LM = """
import json, sys
import mlx.core as mx
from mlx_lm.utils import load_model
from pathlib import Path
folder, ids, count = sys.argv[1:4]
model, _ = load_model(Path(folder))
model.set_dtype(mx.float32)
ids = json.loads(ids)
for _ in range(int(count)):
    ids.append(int(mx.argmax(model(mx.array(ids)[None])[0, -1]).item()))
print(json.dumps(ids[-int(count):]))
"""


def run(python: str, *arguments: str) -> str:
    """Run a program; returns the last line it prints."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[:4])}\n{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def convert(source: str, target: Path, *options: str) -> None:
    run(
        sys.executable,
        *("-m", "mlx_lfm2vl.convert", "--model", source, "--output", str(target)),
        *("--no-report", *options),
    )


def our_answer(
    folder: Path, image: str | None, count: int, adapter: Path | None = None
) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of our greedy answer."""
    from mlx_lfm2vl import Sampling, generate, load
    from mlx_lfm2vl.prompt.messages import user_message

    model, processor = load(folder, dtype="float32", adapter=adapter)
    messages = user_message(PROMPT, [image] if image else [])
    result = generate(model, processor, messages, max_tokens=count, sampling=Sampling())
    return processor(messages).input_ids, result.token_ids


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("checkpoint", help="checkpoint folder, or demo")
    add("--peer-python", required=True, help="a Python with mlx-vlm and mlx-lm")
    example = Path("mlx_lfm2vl/demo/example.png")
    add("--image", type=Path, default=example, help="default: %(default)s")
    add("--tokens", type=int, default=24, help="longest answer; default: 24")
    options = parser.parse_args()
    image, count = str(options.image), options.tokens
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        dense = work / "dense"
        convert(options.checkpoint, dense)
        kinds = {
            "4 bits": ["--bits", "4"],
            "4 bits, tower and connector 8": [
                *("--bits", "4", "--vision-bits", "8", "--projector-bits", "8")
            ],
            "mixed_4_6": ["--recipe", "mixed_4_6"],
            "mxfp4": ["--bits", "4", "--mode", "mxfp4"],
        }
        for kind, flags in kinds.items():
            target = work / kind.replace(" ", "-")
            convert(str(dense), target, *flags)
            _, ours = our_answer(target, image, count)
            peer = json.loads(
                run(options.peer_python, "-c", VLM, str(target), image, PROMPT, str(count))
            )
            rows.append((f"ours, {kind}", "mlx-vlm", ours, peer))
            if "--vision-bits" in flags:  # its decoder is the same as that of plain 4 bits
                continue
            text = work / f"{target.name}-text"
            convert(str(dense), text, "--text-only", *flags)
            prompt, ours = our_answer(target, None, count)
            given = json.dumps(prompt)
            peer = json.loads(run(options.peer_python, "-c", LM, str(text), given, str(len(ours))))
            rows.append((f"ours, {kind}, text only", "mlx-lm", ours, peer))
        theirs = work / "theirs"
        flags = ["--hf-path", str(dense), "--mlx-path", str(theirs), "-q", "--q-bits", "4"]
        run(options.peer_python, "-m", "mlx_vlm.convert", *flags)
        _, ours = our_answer(theirs, image, count)
        peer = json.loads(
            run(options.peer_python, "-c", VLM, str(theirs), image, PROMPT, str(count))
        )
        rows.append(("mlx-vlm's, 4 bits", "mlx-vlm", ours, peer))
    print("| files | other program | tokens compared | equal |\n|---|---|---|---|")
    failed = 0
    for files, program, ours, peer in rows:
        length = min(len(ours), len(peer))
        same = length > 0 and ours[:length] == peer[:length]
        failed += not same
        print(f"| {files} | {program} | {length} | {'yes' if same else f'**no** {ours} {peer}'} |")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
