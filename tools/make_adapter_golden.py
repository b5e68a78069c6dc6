"""Write tests/golden/adapters: adapters of PEFT, and the answers of models that have them.

usage: python tools/make_adapter_golden.py [CASE ...]

Needs what make_golden.py needs, and peft 0.21 with accelerate and psutil (installed with
--no-deps). The bases are checkpoints in tests/golden. Each case is the folder that PEFT's
save_pretrained writes. Two files hold the results of all cases:

    expected.safetensors   logits and greedy tokens of every prompt
    expected.json          the base of every case, and how close the greedy choices were
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # for pictures.py

from golden.case_folder import SEEDS_TO_TRY, SMALLEST_GAP
from golden.cases import CASES
from golden.files import GOLDEN, read_json, save_tensors, size_of, version_of, write_json
from golden.processor import make_processor, prepare
from golden.reference import GREEDY_TOKENS
from golden.torchvision_operators import declare_torchvision_operators

FOLDER = GOLDEN / "adapters"
PROMPTS = ("small", "text_only")


@dataclass(frozen=True)
class AdapterCase:
    """One adapter: the settings of its LoraConfig, and the checkpoint that it is for."""

    name: str
    settings: dict[str, Any]
    base: str = "new_names"
    first_seed: int = field(default=0)


@dataclass(frozen=True)
class Answer:
    """What a model answers to a prompt, and the smallest gap between its two best tokens."""

    logits: torch.Tensor
    greedy: torch.Tensor
    gap: float


ADAPTERS = [
    AdapterCase("lora", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "in_proj", "w1"]}),
    AdapterCase(
        "rslora",
        {
            "r": 4,
            "lora_alpha": 3,
            "use_rslora": True,
            "target_modules": r".*language_model.*(w2|out_proj)",
        },
    ),
    AdapterCase(
        "dora",
        {"r": 2, "lora_alpha": 4, "use_dora": True, "target_modules": ["v_proj", "w3", "linear_1"]},
    ),
    AdapterCase("all_linear", {"r": 2, "lora_alpha": 3, "target_modules": "all-linear"}),
    AdapterCase(
        "patterns",
        {
            "r": 2,
            "lora_alpha": 4,
            "use_rslora": True,
            "target_modules": ["w1", "w2", "in_proj", "q_proj"],
            "rank_pattern": {"w1": 3, r"layers\.0\.conv\.in_proj": 5},
            "alpha_pattern": {"w[12]": 3, "conv.in_proj": 6},
            "layers_to_transform": [0, 1],
            "layers_pattern": "layers",
            "exclude_modules": r".*vision_tower.*",
        },
    ),
    AdapterCase(
        "biases", {"r": 2, "lora_alpha": 4, "target_modules": ["fc1", "linear_2"], "bias": "all"}
    ),
    AdapterCase(
        "adapted_biases",
        {"r": 2, "lora_alpha": 4, "target_modules": ["fc2", "linear_1"], "bias": "lora_only"},
    ),
    AdapterCase(
        "saved_connector",
        {
            "r": 2,
            "lora_alpha": 4,
            "target_modules": ["w2"],
            "modules_to_save": ["multi_modal_projector", "conv.conv"],
        },
    ),
    AdapterCase(
        "saved_embedding",
        {"r": 2, "target_modules": ["w2"], "modules_to_save": ["embed_tokens"]},
    ),
    AdapterCase("saved_head", {"r": 2, "target_modules": ["w2"], "modules_to_save": ["lm_head"]}),
    AdapterCase("adapted_head", {"r": 2, "target_modules": ["lm_head", "w3"]}),
    AdapterCase(
        "bf16_base", {"r": 2, "target_modules": ["k_proj", "w2", "lm_head"]}, "untied_sharded_bf16"
    ),
]


def main() -> None:
    import peft  # imports torchvision, whose operators must have been declared

    wanted = sys.argv[1:] or [case.name for case in ADAPTERS]
    torch.set_num_threads(1)  # the order of sums must not depend on the number of cores
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    FOLDER.mkdir(exist_ok=True)
    tensors = {}
    facts: dict[str, Any] = {}
    if (FOLDER / "expected.json").exists():
        tensors = load_file(FOLDER / "expected.safetensors")
        facts = read_json(FOLDER / "expected.json")["cases"]
    for case in ADAPTERS:
        if case.name in wanted:
            new, facts[case.name] = make_adapter(peft, case)
            tensors |= new
            print(case.name, facts[case.name], flush=True)
    save_tensors(FOLDER / "expected.safetensors", tensors)
    versions = {name: version_of(name) for name in ("torch", "transformers", "peft")}
    write_json(FOLDER / "expected.json", {"versions": versions, "cases": facts})
    print(f"{FOLDER.name}: {size_of(FOLDER)} bytes")


def make_adapter(peft: Any, case: AdapterCase) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Write one adapter; return the results of its prompts, and facts about them."""
    base = next(other for other in CASES if other.name == case.base)
    processor = make_processor(base)
    folder = FOLDER / case.name
    plain = answers(load_base(case), processor, base)
    for seed in range(case.first_seed, case.first_seed + SEEDS_TO_TRY):
        torch.manual_seed(seed)
        config = peft.LoraConfig(init_lora_weights=False, **case.settings)
        model = peft.get_peft_model(load_base(case), config)
        train(model)
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "README.md").unlink()
        (folder / "adapter_model.safetensors").chmod(0o644)
        edit_base(folder, f"tiny/{case.base}")
        # The results come from the files, as a user of the adapter would have them.
        model = peft.PeftModel.from_pretrained(load_base(case), folder).eval()
        results = answers(model.get_base_model(), processor, base)
        gap = min(answer.gap for answer in results.values())
        changed = any(
            results[name].greedy.tolist() != plain[name].greedy.tolist() for name in PROMPTS
        )
        if gap >= SMALLEST_GAP and changed:
            break
    else:
        raise RuntimeError(f"{case.name}: no seed gives usable weights")
    tensors = {
        f"{case.name}.{name}.{key}": getattr(results[name], key)
        for name in PROMPTS
        for key in ("logits", "greedy")
    }
    return tensors, {"base": case.base, "seed": seed, "smallest_gap": gap}


def load_base(case: AdapterCase) -> transformers.Lfm2VlForConditionalGeneration:
    return transformers.Lfm2VlForConditionalGeneration.from_pretrained(
        GOLDEN / case.base / "checkpoint", dtype=torch.float32
    ).eval()


@torch.no_grad()
def train(model: torch.nn.Module) -> None:
    """Change everything that training would change, so that each part affects the output."""
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        if "lora_magnitude" in name:
            weight.mul_(torch.empty_like(weight).uniform_(0.6, 1.5))
        elif "lora_" not in name:
            weight.add_(torch.randn_like(weight) * 0.2 * weight.std().nan_to_num(1.0))


def edit_base(folder: Path, base: str) -> None:
    """Name the base as a repository would be, not by its place on this machine."""
    path = folder / "adapter_config.json"
    config = {**json.loads(path.read_text()), "base_model_name_or_path": base}
    config = {key: sorted(v) if isinstance(v, list) else v for key, v in config.items()}
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


@torch.no_grad()
def answers(model: Any, processor: Any, base: Any) -> dict[str, Answer]:
    """Answer the prompts greedily."""
    found = {}
    for name in PROMPTS:
        _, inputs = prepare(processor, base.prompts[name])
        generated = model.generate(
            **inputs,
            max_new_tokens=GREEDY_TOKENS,
            do_sample=False,
            eos_token_id=None,
            output_scores=True,
            return_dict_in_generate=True,
        )
        tops = [scores[0].topk(2).values.tolist() for scores in generated.scores]
        found[name] = Answer(
            model(**inputs).logits[0, -1],
            generated.sequences[0, inputs["input_ids"].shape[1] :].int(),
            round(min(best - second for best, second in tops), 5),
        )
    return found


if __name__ == "__main__":
    library = declare_torchvision_operators()
    main()
    del library
