"""Write the folder of one case: suitable weights, the expected results, and checks on both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

from .cases import Case
from .files import (
    GOLDEN,
    compact_json,
    read_json,
    save_tensors,
    size_of,
    version_of,
    write_json,
)
from .network import make_model
from .old_names import rename_to_old
from .processor import make_processor, prepare
from .reference import (
    Results,
    check_one_pass,
    compute,
    compute_gradients,
    compute_stages,
)

TARGET_TOKENS = 8  # greedy tokens that the gradients are computed for
SMALLEST_GAP = 5e-3  # below this another correct implementation may choose another token
FEWEST_DISTINCT = 4  # distinct greedy tokens of one prompt
SEEDS_TO_TRY = 40


def make_case(case: Case) -> str:
    """Write one case's folder; return a line about it."""
    folder = GOLDEN / case.name
    checkpoint = folder / "checkpoint"
    if folder.exists():
        shutil.rmtree(folder)
    processor = make_processor(case)

    faults = []
    for seed in range(case.first_seed, case.first_seed + SEEDS_TO_TRY):
        shutil.rmtree(checkpoint, ignore_errors=True)
        model = make_model(case, processor.tokenizer, seed).to(getattr(torch, case.dtype))
        model.save_pretrained(checkpoint, max_shard_size=case.shard_size)
        if case.says_tied:
            say_tied(checkpoint / "config.json")
        # The expected results come from the files, whose weights are rounded to the case's type.
        model = transformers.Lfm2VlForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32
        ).eval()
        results = {
            name: compute(model, processor, messages, case.has_pixel_values)
            for name, messages in case.prompts.items()
        }
        repainted = {
            name: compute(model, processor, repaint(messages), case.has_pixel_values)
            for name, messages in case.prompts.items()
            if "image_features" in results[name].tensors
        }
        fault = find_fault(results, repainted, model.config.image_token_id)
        if fault is None:
            break
        faults.append(f"seed {seed}: {fault}")
    else:
        raise RuntimeError("\n".join([f"{case.name}: no seed gives usable weights", *faults]))

    for name, messages in case.prompts.items():
        _, inputs = prepare(processor, messages)
        check_one_pass(model, inputs, results[name].tensors["greedy"])
    processor.save_pretrained(checkpoint)
    compact_json(checkpoint / "tokenizer.json")
    check_files(case, checkpoint, model)
    save_expected(case, folder, seed, results)
    first_name, first = next(iter(case.prompts.items()))
    _, inputs = prepare(processor, first)
    if case.has_stages:
        save_tensors(folder / "stages.safetensors", compute_stages(model, inputs))
    if case.has_gradients:
        target = results[first_name].tensors["greedy"][:TARGET_TOKENS]
        save_tensors(folder / "gradients.safetensors", compute_gradients(model, inputs, target))
    if case.old_names:
        rename_to_old(checkpoint)
    views = sum(len(r.tensors.get("spatial_shapes", ())) for r in results.values())
    gap = min(gap for result in results.values() for gap in result.gaps)
    return f"{case.name}: seed {seed}, {views} views, smallest gap {gap}, {size_of(folder)} bytes"


def say_tied(path: Path) -> None:
    """Say in a config that the output head is the embedding, as some fine-tuning tools leave it."""
    config = read_json(path)
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    write_json(path, config)


def find_fault(
    results: dict[str, Results], repainted: dict[str, Results], image_token_id: int
) -> str | None:
    """Find a reason why weights are unsuitable for golden files, or None.

    Args:
        results: the results of every prompt of the case.
        repainted: the results of the prompts with pictures, for other pictures of the same sizes.
        image_token_id: must not be generated, because it would ask for a feature that is not there.
    """
    seen = []
    for name, result in results.items():
        greedy = result.tensors["greedy"].tolist()
        if min(result.gaps) < SMALLEST_GAP:
            return f"{name}: smallest gap {min(result.gaps)}"
        if len(set(greedy)) < FEWEST_DISTINCT:
            return f"{name}: monotonous greedy tokens {greedy}"
        if image_token_id in greedy:
            return f"{name}: an image token among the greedy tokens"
        if name in repainted and repainted[name].tensors["greedy"].tolist() == greedy:
            return f"{name}: the greedy tokens do not depend on the pictures"
        if greedy in seen:
            return f"{name}: the same greedy tokens as another prompt"
        seen.append(greedy)
    return None


def repaint(messages: list[dict]) -> list[dict]:
    """Replace the picture of every image item by another one of the same size."""
    copy = json.loads(json.dumps(messages))
    for item in (item for message in copy for item in message["content"]):
        if "picture" in item:
            item["picture"][2] += 1000
    return copy


def check_files(
    case: Case, checkpoint: Path, model: transformers.Lfm2VlForConditionalGeneration
) -> None:
    """Check that the files hold every parameter once, under its own name."""
    files = sorted(checkpoint.glob("*.safetensors"))
    names = [name for file in files for name in load_file(file)]
    if sorted(names) != sorted(name for name, _ in model.named_parameters()):
        raise RuntimeError(f"{case.name}: the saved names differ from the parameters'")
    if (len(files) > 1) != (case.shard_size != "1GB"):
        raise RuntimeError(f"{case.name}: {len(files)} files of weights")


def save_expected(case: Case, folder: Path, seed: int, results: dict[str, Results]) -> None:
    tensors = {
        f"{name}.{key}": tensor
        for name, result in results.items()
        for key, tensor in result.tensors.items()
    }
    save_tensors(folder / "expected.safetensors", tensors)
    versions = {name: version_of(name) for name in ("torch", "transformers", "torchvision")}
    prompts = {
        name: {"messages": case.prompts[name], "text": result.text, "gaps": result.gaps}
        for name, result in results.items()
    }
    write_json(folder / "expected.json", {"versions": versions, "seed": seed, "prompts": prompts})
