"""Check that mlx-vlm and mlx-lm can use our adapters, and that we can use theirs.

usage: python benchmarks/interop_adapters.py CHECKPOINT --peer-python PYTHON [--lm-python PYTHON]

CHECKPOINT is a checkpoint that is not quantized, or `demo` for the one in the package. PYTHON
belongs to an environment with mlx-vlm; mlx-lm may be in another one, by default this one. Compares
greedy answers, prints a Markdown table, and exits with 1 if two programs give different answers, or
if an adapter changes nothing.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from interop import PROMPT, convert, our_answer, run

# mlx-vlm's own adapters, with random factors instead of training.
VLM_ADAPTER = """
import sys
import mlx.core as mx
from mlx_vlm import load
from mlx_vlm.trainer.peft.utils import get_peft_model, save_adapter
folder, target, kind = sys.argv[1:4]
model, _ = load(folder)
options = {'legacy': kind == 'legacy', 'use_dora': kind == 'dora', 'verbose': False}
model = get_peft_model(model, rank=4, alpha=8, dropout=0.0, **options)
mx.random.seed(0)
for path, module in model.named_modules():
    for leaf in ('lora_b', 'B'):
        if leaf in module:
            module[leaf] = mx.random.normal(module[leaf].shape) * 0.3
    if 'lora_b' in module and 'm' in module:
        module['m'] = module['m'] * mx.random.uniform(0.8, 1.2, module['m'].shape)
save_adapter(model, f'{target}/adapters.safetensors')
"""
VLM = """
import json, sys
from mlx_vlm import load, stream_generate
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import load_config
import mlx.core as mx
folder, adapter, image, prompt, count = sys.argv[1:6]
model, processor = load(folder, adapter_path=adapter)
model.set_dtype(mx.float32)
text = apply_chat_template(processor, load_config(folder), prompt, num_images=1)
options = {'image': [image], 'max_tokens': int(count), 'temperature': 0.0}
parts = stream_generate(model, processor, text, **options)
print(json.dumps([int(part.token) for part in parts if part.token is not None]))
"""
LM = """
import json, sys
import mlx.core as mx
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from pathlib import Path
folder, adapter, ids, count = sys.argv[1:5]
model, _ = load_model(Path(folder))
model = load_adapters(model, adapter)
model.eval()
model.set_dtype(mx.float32)
ids = json.loads(ids)
for _ in range(int(count)):
    ids.append(int(mx.argmax(model(mx.array(ids)[None])[0, -1]).item()))
print(json.dumps(ids[-int(count):]))
"""
ANSWERS = ("A red bicycle leans on a wall.", "Two cats sleep in the sun.", "Nothing but snow.")


def write_data(folder: Path, image: Path) -> tuple[Path, Path]:
    """Write rows to train on, for us and for mlx-lm."""
    ours, theirs = folder / "rows.jsonl", folder / "texts"
    theirs.mkdir()
    rows = [{"image": str(image.resolve()), "prompt": PROMPT, "answer": a} for a in ANSWERS]
    ours.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = "".join(json.dumps({"text": answer}) + "\n" for answer in ANSWERS)
    for name in ("train", "valid"):
        (theirs / f"{name}.jsonl").write_text(texts)
    return ours, theirs


def train_ours(model: Path, data: Path, output: Path, *options: str) -> None:
    run(
        sys.executable,
        *("-m", "mlx_lfm2vl.train", "--model", str(model), "--data", str(data)),
        *("--output", str(output), "--steps", "3", "--warmup-steps", "1", "--rank", "4"),
        *options,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("checkpoint", help="checkpoint folder, or demo")
    add("--peer-python", required=True, help="a Python with mlx-vlm")
    add("--lm-python", default=sys.executable, help="a Python with mlx-lm; default: this one")
    example = Path("mlx_lfm2vl/demo/example.png")
    add("--image", type=Path, default=example, help="default: %(default)s")
    add("--tokens", type=int, default=24, help="longest answer; default: 24")
    options = parser.parse_args()
    image, count = str(options.image), str(options.tokens)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        full, text = work / "full", work / "text"
        convert(options.checkpoint, full)
        convert(str(full), text, "--text-only")
        data, texts = write_data(work, options.image)
        bases = {
            "mlx-vlm": our_answer(full, image, options.tokens)[1],
            "mlx-lm": our_answer(full, None, options.tokens)[1],
        }

        def compare(what: str, program: str, adapter: Path) -> None:
            picture = image if program == "mlx-vlm" else None
            prompt, ours = our_answer(full, picture, options.tokens, adapter)
            if program == "mlx-vlm":
                given = [str(full), str(adapter), image, PROMPT, count]
                peer = run(options.peer_python, "-c", VLM, *given)
            else:
                given = [str(text), str(adapter), json.dumps(prompt), str(len(ours))]
                peer = run(options.lm_python, "-c", LM, *given)
            rows.append((what, program, ours, json.loads(peer), ours != bases[program]))
            print(what, file=sys.stderr, flush=True)

        for method in ("lora", "dora", "full"):
            rate = ["--learning-rate", "5e-3" if method == "full" else "3e-2"]
            adapter = work / f"ours-{method}"
            if method != "full":  # mlx-vlm wants every parameter of a model trained in full
                train_ours(full, data, adapter, "--method", method, *rate)
                compare(f"ours, {method}", "mlx-vlm", adapter)
            plain = work / f"ours-{method}-text"
            flags = ["--method", method, "--parts", "language", "--text-only"]
            train_ours(full, data, plain, *flags, *rate)
            compare(f"ours, {method}, text only", "mlx-lm", plain)
        for kind in ("lora", "dora", "legacy"):
            adapter = work / f"theirs-{kind}"
            run(options.peer_python, "-c", VLM_ADAPTER, str(full), str(adapter), kind)
            compare(f"mlx-vlm's, {kind}", "mlx-vlm", adapter)
        for kind in ("lora", "dora", "full"):
            adapter = work / f"lm-{kind}"
            settings = ["--num-layers", "4", "--iters", "4", "--batch-size", "1", "--seed", "1"]
            settings += ["--learning-rate", "2e-3", "--fine-tune-type", kind]
            places = ["--model", str(text), "--data", str(texts), "--adapter-path", str(adapter)]
            run(options.lm_python, "-m", "mlx_lm", "lora", "--train", *places, *settings)
            compare(f"mlx-lm's, {kind}", "mlx-lm", adapter)
    print("| adapter | other program | tokens compared | changed by it | equal |")
    print("|---|---|---|---|---|")
    failed = 0
    for what, program, ours, peer, changed in rows:
        length = min(len(ours), len(peer))
        same = length > 0 and ours[:length] == peer[:length]
        failed += not (same and changed)
        answer = "yes" if same else f"**no** {ours} {peer}"
        print(f"| {what} | {program} | {length} | {'yes' if changed else '**no**'} | {answer} |")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
