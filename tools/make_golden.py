"""Write tests/golden: tiny random LFM2-VL checkpoints and what transformers computes from them.

usage: python tools/make_golden.py [CASE ...]

Needs torch 2.13.0, torchvision 0.28.0 (installed with --no-deps) and transformers 5.23.0; a CPU
is enough. Two runs on one machine write identical files. Nothing here is downloaded. Each case is
a folder:

    checkpoint/            as published on the Hub, in the layout that the case is about
    expected.safetensors   tokens, pixels, features, logits and greedy tokens of every prompt
    expected.json          the prompts, and how close the greedy choices were
    stages.safetensors     hidden states of the prompt `small` (some cases)
    gradients.safetensors  gradient of every parameter for a fixed target (one case)
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

# Its classes import torchvision when first used, so after declare_torchvision_operators().
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
sys.path.insert(0, str(ROOT / "tests"))

from pictures import make_picture  # noqa: E402  it lives beside the tests

GREEDY_TOKENS = 12
TARGET_TOKENS = 8  # of them, those that the gradients are taken for
SMALLEST_GAP = 5e-3  # below it another correct implementation may choose another token
FEWEST_DISTINCT = 4  # greedy tokens of one prompt
SEEDS_TO_TRY = 40

MARKERS = ["<|startoftext|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>"]
LABELS = [f"<|img_row_{row}_col_{col}|>" for row in range(1, 11) for col in range(1, 11)]
IMAGE_TOKENS = {
    "image_token": "<image>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail": "<|img_thumbnail|>",
}
SPECIAL = [*MARKERS, *IMAGE_TOKENS.values(), *LABELS]

TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {{- "<|im_start|>" + message["role"] + "\\n" -}}
  {%- if message["content"] is string -%}
    {{- message["content"] -}}
  {%- else -%}
    {%- for item in message["content"] -%}
      {{- "<image>" if item["type"] == "image" else item["text"] -}}
    {%- endfor -%}
  {%- endif -%}
  {{- "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""


@dataclass(frozen=True)
class Case:
    """One checkpoint and the prompts to run through it.

    `text`, `vision`, `model` and `image` are settings of Lfm2Config, Siglip2VisionConfig,
    Lfm2VlConfig and Lfm2VlImageProcessor; what is missing comes from the tables below.
    """

    name: str
    text: dict
    vision: dict
    model: dict
    image: dict
    prompts: dict[str, list[dict]]
    dtype: torch.dtype = torch.bfloat16  # of the files; everything is computed in float32
    specials_last: bool = False
    shard_size: str = "1GB"
    old_names: bool = False
    has_stages: bool = False
    has_gradients: bool = False
    has_pixel_values: bool = True  # else one mean per view
    first_seed: int = 0


@dataclass
class Results:
    """What the reference computes for one prompt."""

    text: str
    tensors: dict[str, torch.Tensor]
    gaps: list[float] = field(default_factory=list)


TEXT = {
    "model_type": "lfm2",
    "vocab_size": len(SPECIAL) + 256,
    "conv_L_cache": 3,
    "max_position_embeddings": 2048,
}
# Sides are multiples of 8 (patch 4, factor 2), tiles 6 x 6 patches, a view has 4 to 9 tokens, and
# an image tiles when its rounded area exceeds 2 * 9 * 64 = 1152.
IMAGE = {
    "encoder_patch_size": 4,
    "downsample_factor": 2,
    "tile_size": 24,
    "min_image_tokens": 4,
    "max_image_tokens": 9,
    "min_tiles": 2,
    "max_tiles": 6,
    "max_pixels_tolerance": 2.0,
    "use_thumbnail": True,
    "resample": 2,
}
VISION = {
    "model_type": "siglip2_vision_model",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 4,
    "vision_use_head": False,
}


def picture(height: int, width: int, seed: int) -> dict:
    return {"type": "image", "picture": [height, width, seed]}


def say(text: str) -> dict:
    return {"type": "text", "text": text}


def user(*content: dict) -> dict:
    return {"role": "user", "content": list(content)}


# The two conversations that more than one case has.
SYSTEM = [
    {"role": "system", "content": "Be brief."},
    user(picture(24, 17, 21), say("Colour?")),
]
CHAT = [
    user(picture(13, 21, 22), say("What is this?")),
    {"role": "assistant", "content": "A disc."},
    user(say("And this?"), picture(24, 40, 23)),
]

CASES = [
    Case(
        name="new_names",
        text={
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "intermediate_size": 40,  # int(2 * 40 / 3) = 26, rounded up: 32
            "block_auto_adjust_ff_dim": True,
            "block_multiple_of": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        vision={"hidden_size": 16, "intermediate_size": 24, "num_patches": 16},
        model={"projector_hidden_size": 20, "projector_use_layernorm": False},
        image={},
        prompts={
            "small": [user(picture(13, 21, 1), say("What?"))],
            "tiled": [user(picture(45, 44, 2), say("Describe."))],  # 2 x 2 and thumbnail
            "two_images": [
                user(picture(20, 30, 3), say("or"), picture(25, 70, 4), say("which one?"))
            ],
            "strip": [user(picture(3, 60, 5), say("How long?"))],  # one view of 2 x 16 patches
            "text_only": [user(say("Hello <there> & 'you'."))],
            "system": SYSTEM,
            "chat": CHAT,
        },
        dtype=torch.float32,
        has_stages=True,
        has_gradients=True,
    ),
    Case(
        name="old_names",
        text={
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "full_attention", "conv"],
            "intermediate_size": 36,
            "block_auto_adjust_ff_dim": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        vision={"hidden_size": 16, "intermediate_size": 36, "num_patches": 36},
        model={"projector_hidden_size": 20, "projector_use_layernorm": True},
        image={
            "tile_size": 32,
            "max_image_tokens": 16,
            "max_tiles": 4,
            "use_thumbnail": False,
            "resample": 3,  # the files will say 2, which the legacy processor never read
        },
        prompts={
            "small": [user(picture(20, 30, 1), say("What is this?"))],
            "tiled": [user(picture(60, 60, 2), say("Describe."))],  # 2 x 2
            "two_images": [user(picture(15, 26, 3), say(" and "), picture(40, 80, 4), say("?"))],
            "strip": [user(picture(240, 12, 5), say("How tall?"))],  # 4 x 1
            "text_only": [user(say("Hello there."))],
        },
        old_names=True,
    ),
    Case(
        name="head_72",
        text={
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "layer_types": ["conv", "conv", "full_attention"],
            "intermediate_size": 40,
            "block_auto_adjust_ff_dim": True,
            "block_multiple_of": 8,
            "vocab_size": TEXT["vocab_size"] + 11,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e7},
        },
        vision={
            "hidden_size": 144,
            "intermediate_size": 76,
            "num_hidden_layers": 1,
            "num_patches": 16,
        },
        model={"projector_hidden_size": 8, "projector_use_layernorm": False},
        # With one tile allowed the reference fails on a large image that lands on the 1 x 1 grid:
        # it counts the tokens of another size. No picture here does.
        image={"min_tiles": 1, "resample": 3},
        prompts={
            "small": [user(picture(21, 14, 1), say("What?"))],
            "tiled": [user(picture(30, 70, 2), say("Describe."))],  # 1 x 2 and thumbnail
            "two_images": [
                user(picture(16, 24, 3), say("then"), picture(50, 75, 4), say("more?"))
            ],  # the second 2 x 3 and thumbnail
            "strip": [user(picture(60, 3, 5), say("How tall?"))],  # one view of 16 x 2 patches
            "text_only": [user(say("Hello there."))],
        },
        specials_last=True,
        has_stages=True,
    ),
    Case(
        name="untied_sharded_bf16",
        text={
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "conv", "full_attention"],
            "intermediate_size": 32,
            "block_auto_adjust_ff_dim": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        vision={"hidden_size": 24, "intermediate_size": 28, "num_patches": 64},
        model={
            "projector_hidden_size": 20,
            "projector_use_layernorm": True,
            "tie_word_embeddings": False,
        },
        image={},
        prompts={
            "small": [user(picture(18, 18, 1), say("Qu'est-ce que c'est, 日本?"))],
            "tiled": [user(picture(70, 28, 2), say("Describe."))],  # 3 x 1 and thumbnail
            "two_images": [
                user(picture(13, 40, 3), say("or"), picture(28, 60, 4), say("which one?"))
            ],
            "strip": [user(picture(3, 60, 5), say("How long?"))],
            "text_only": [user(say("Hello there."))],
            "system": SYSTEM,
            "chat": CHAT,
        },
        shard_size="40KB",
    ),
    Case(
        name="real_geometry",
        text={
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "intermediate_size": 32,
            "block_auto_adjust_ff_dim": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        vision={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_patches": 256,
            "patch_size": 16,
        },
        model={"projector_hidden_size": 16, "projector_use_layernorm": False},
        image={
            "encoder_patch_size": 16,
            "tile_size": 512,
            "min_image_tokens": 64,
            "max_image_tokens": 256,
            "max_tiles": 10,
        },
        prompts={
            "single": [user(picture(480, 640, 1), say("What is this?"))],
            "tiled": [user(picture(600, 1100, 2), say("Describe."))],  # 1 x 2 and thumbnail
        },
        has_pixel_values=False,
    ),
]


def declare_torchvision_operators() -> torch.library.Library:
    """Let torchvision's Python half import on CPU-only torch.

    Its wheel for Linux is built for CUDA, so the compiled operators do not load here, and the
    import fails where it registers shapes for them. None of them is called: resizing is torch's.
    An empty declaration of every operator it names is enough.

    Returns:
        The declarations, which last as long as this object.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise RuntimeError("torchvision is not installed")
    source = Path(spec.origin).with_name("_meta_registrations.py").read_text()
    names = {"nms"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and str(node.value).startswith("torchvision::"):
            names.add(str(node.value).removeprefix("torchvision::"))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "register_meta":
            names.update(arg.value for arg in node.args if isinstance(arg, ast.Constant))
    library = torch.library.Library("torchvision", "DEF")
    for name in sorted(names):
        library.define(f"{name}(Tensor input) -> Tensor")
    return library


def make_tokenizer(specials_last: bool) -> transformers.PreTrainedTokenizerFast:
    """One token per byte and the special tokens; like the published ones it can add a BOS."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    order = letters + SPECIAL if specials_last else SPECIAL + letters
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(order)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bos = "<|startoftext|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, order.index(bos))]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        extra_special_tokens=IMAGE_TOKENS,
    )


def make_processor(case: Case) -> transformers.Lfm2VlProcessor:
    image_processor = transformers.Lfm2VlImageProcessor(**{**IMAGE, **case.image})
    tokenizer = make_tokenizer(case.specials_last)
    return transformers.Lfm2VlProcessor(image_processor, tokenizer, chat_template=TEMPLATE)


def make_model(
    case: Case, tokenizer: transformers.PreTrainedTokenizerFast, seed: int
) -> transformers.Lfm2VlForConditionalGeneration:
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.Lfm2VlConfig(
        text_config={**TEXT, **ids, **case.text},
        vision_config={**VISION, **case.vision},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **case.model,
    )
    model = transformers.Lfm2VlForConditionalGeneration(config).eval()
    model.generation_config = transformers.GenerationConfig(**ids)
    set_weights(model, seed)
    return model


@torch.no_grad()
def set_weights(model: transformers.Lfm2VlForConditionalGeneration, seed: int) -> None:
    """Make every parameter matter.

    With transformers' own initialisation biases are 0, norm weights 1, and greedy decoding
    repeats one token whatever the picture: whole stages could be wrong unseen.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.normal_(0.0, 0.3, generator=generator)
        elif "language_model" in name and "self_attn.out_proj" in name:
            # Averages over many tokens are small; what attention adds must change the answer.
            weight.normal_(0.0, 5.0 / weight.shape[-1] ** 0.5, generator=generator)
        elif name.endswith(("q_layernorm.weight", "k_layernorm.weight")):
            weight.normal_(1.4, 0.3, generator=generator)
        elif weight.ndim == 1:
            weight.normal_(1.0, 0.2, generator=generator)
        elif "position_embedding" in name:
            weight.normal_(0.0, 0.7, generator=generator)
        elif "embed_tokens" in name:
            weight.normal_(0.0, 0.4, generator=generator)
        else:
            weight.normal_(0.0, 1.5 / weight.shape[-1] ** 0.5, generator=generator)


def prepare(processor: transformers.Lfm2VlProcessor, messages: list[dict]) -> tuple[str, dict]:
    """Render messages; return the prompt's text and the model's inputs."""
    images, plain = [], []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            images += [make_picture(*item["picture"]) for item in content if "picture" in item]
            content = [{"type": "image"} if "picture" in item else item for item in content]
        plain.append({"role": message["role"], "content": content})
    text = processor.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[images] if images else None, text=[text], return_tensors="pt")
    return text, dict(inputs)


def to_bytes(pixel_values: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation, which must be exact."""
    pixels = (pixel_values * 127.5 + 127.5).round().to(torch.uint8)
    if not torch.equal((pixels.float() - 127.5) / 127.5, pixel_values):
        raise RuntimeError("the pixel values are not normalised bytes")
    return pixels


def image_tensors(inputs: dict, has_pixel_values: bool) -> dict[str, torch.Tensor]:
    """The processor's output without its padding."""
    pixel_values, shapes = inputs["pixel_values"], inputs["spatial_shapes"]
    mask = inputs["pixel_attention_mask"].bool()
    # A view with more patches than the processor's limit would come with a mask too short.
    if not torch.equal(mask.sum(dim=1), shapes.prod(dim=1)):
        raise RuntimeError(f"views of {shapes.tolist()} patches do not match their masks")
    views = [to_bytes(view[keep]) for view, keep in zip(pixel_values, mask, strict=True)]
    if has_pixel_values:
        pixels = {"pixel_values": torch.cat(views)}
    else:
        means = [pixel_values[i][mask[i]].double().mean() for i in range(len(views))]
        pixels = {"pixel_means": torch.stack(means).float()}
    return {**pixels, "spatial_shapes": shapes.int()}


def image_features(
    model: transformers.Lfm2VlForConditionalGeneration, inputs: dict
) -> list[torch.Tensor]:
    """The projected rows of each view, under a name that 5.23 and 5.24 have in common."""
    names = ("pixel_values", "spatial_shapes", "pixel_attention_mask")
    return model.model.get_image_features(**{name: inputs[name] for name in names}).pooler_output


@torch.no_grad()
def compute(
    model: transformers.Lfm2VlForConditionalGeneration,
    processor: transformers.Lfm2VlProcessor,
    messages: list[dict],
    has_pixel_values: bool,
) -> Results:
    text, inputs = prepare(processor, messages)
    input_ids = inputs["input_ids"]
    results = Results(text, {"input_ids": input_ids[0].int()})
    output = model(**inputs)
    if "pixel_values" in inputs:
        results.tensors |= image_tensors(inputs, has_pixel_values)
        results.tensors["image_features"] = torch.cat(image_features(model, inputs))
    results.tensors["logits"] = output.logits[0, -1]

    generated = model.generate(
        **inputs,
        max_new_tokens=GREEDY_TOKENS,
        do_sample=False,
        eos_token_id=None,
        output_scores=True,
        return_dict_in_generate=True,
    )
    results.tensors["greedy"] = generated.sequences[0, input_ids.shape[1] :].int()
    for scores in generated.scores:
        best, second = scores[0].topk(2).values.tolist()
        results.gaps.append(round(best - second, 5))
    return results


@torch.no_grad()
def check_one_pass(
    model: transformers.Lfm2VlForConditionalGeneration, inputs: dict, greedy: torch.Tensor
) -> None:
    """The reference's own cache must not matter: one pass chooses the same tokens."""
    if len(greedy) != GREEDY_TOKENS:
        raise RuntimeError(f"{len(greedy)} greedy tokens instead of {GREEDY_TOKENS}")
    logits = model(**append(inputs, greedy)).logits[0, -GREEDY_TOKENS - 1 : -1]
    if not torch.equal(logits.argmax(dim=-1), greedy.long()):
        raise RuntimeError("generation with and without a cache differ")


def append(inputs: dict, tokens: torch.Tensor) -> dict:
    """The same inputs with more tokens at the end."""
    input_ids = torch.cat([inputs["input_ids"], tokens.long()[None]], dim=1)
    return {**inputs, "input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def find_fault(
    results: dict[str, Results], repainted: dict[str, Results], image_token_id: int
) -> str | None:
    """Say why weights are no good for golden files, if they are not.

    Args:
        results: every prompt of the case.
        repainted: the prompts that have pictures, with other pictures of the same sizes.
        image_token_id: must not be generated; it would ask for a feature that is not there.
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
            return f"{name}: the greedy tokens of another prompt"
        seen.append(greedy)
    return None


def repaint(messages: list[dict]) -> list[dict]:
    """Change the picture of every image item to another one of the same size."""
    copy = json.loads(json.dumps(messages))
    for item in (item for message in copy for item in message["content"]):
        if "picture" in item:
            item["picture"][2] += 1000
    return copy


def compute_stages(
    model: transformers.Lfm2VlForConditionalGeneration, inputs: dict
) -> dict[str, torch.Tensor]:
    """Hidden states on the way through both towers, for a prompt with one view."""
    vision, language = model.model.vision_tower, model.model.language_model
    modules = {
        "vision.embeddings": vision.embeddings,
        **{f"vision.layers.{i}": layer for i, layer in enumerate(vision.encoder.layers)},
        "vision.post_layernorm": vision.post_layernorm,
        "projector": model.model.multi_modal_projector,
        **{f"language.layers.{i}": layer for i, layer in enumerate(language.layers)},
        "language.embedding_norm": language.embedding_norm,
    }
    # Both towers' rows without padding; 5.24 pads the projector's as well.
    patches = int(inputs["pixel_attention_mask"].sum())
    tokens = patches // model.config.downsample_factor**2
    stages = {}

    def keep(name: str, output: torch.Tensor) -> None:
        rows = {"vision": patches, "projector": tokens}.get(name.split(".")[0])
        stages[name] = output.reshape(-1, output.shape[-1])[:rows]

    handles = [
        module.register_forward_hook(lambda _module, _args, output, name=name: keep(name, output))
        for name, module in modules.items()
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return {name: stages[name].contiguous() for name in modules}


def compute_gradients(
    model: transformers.Lfm2VlForConditionalGeneration, inputs: dict, target: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Gradients of the mean cross entropy of `target` after the prompt, by parameter name."""
    logits = model(**append(inputs, target)).logits[0, -len(target) - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits, target.long())
    loss.backward()
    gradients = {}
    for name, weight in model.named_parameters():
        if weight.grad is None or not weight.grad.any():
            raise RuntimeError(f"no gradient for {name}")
        gradients[name] = weight.grad.contiguous()
    model.zero_grad(set_to_none=True)
    return {"loss": loss.detach(), **gradients}


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
        model = make_model(case, processor.tokenizer, seed).to(case.dtype)
        model.save_pretrained(checkpoint, max_shard_size=case.shard_size)
        # What is expected comes from the files, rounded as they are.
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
        raise RuntimeError("\n".join([f"{case.name}: no seed will do", *faults]))

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


def check_files(
    case: Case, checkpoint: Path, model: transformers.Lfm2VlForConditionalGeneration
) -> None:
    """The files must hold every parameter once, under its own name."""
    files = sorted(checkpoint.glob("*.safetensors"))
    names = [name for file in files for name in load_file(file)]
    if sorted(names) != sorted(name for name, _ in model.named_parameters()):
        raise RuntimeError(f"{case.name}: the saved names are not the parameters'")
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


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def rename_to_old(checkpoint: Path) -> None:
    """Rewrite a new checkpoint as the first published revisions spell it."""
    processor = read_json(checkpoint / "processor_config.json")["image_processor"]
    image = {name: processor[name] for name in IMAGE if name != "resample"}
    image |= {
        "do_image_splitting": True,
        "max_num_patches": (image["tile_size"] // image["encoder_patch_size"]) ** 2,
        "use_image_special_tokens": True,
    }
    rename_weights(checkpoint / "model.safetensors")
    rename_config(checkpoint / "config.json", image)
    rename_processor(checkpoint, image)
    rename_tokenizer(checkpoint)


def rename_weights(path: Path) -> None:
    old, new = "model.vision_tower.", "model.vision_tower.vision_model."
    tensors = {
        name.replace(old, new) if name.startswith(old) else name: tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def rename_config(path: Path, image: dict) -> None:
    config = read_json(path)
    text, vision = config["text_config"], config["vision_config"]
    layer_types = text.pop("layer_types")
    text["full_attn_idxs"] = [i for i, kind in enumerate(layer_types) if kind != "conv"]
    text["block_ff_dim"] = text.pop("intermediate_size")
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    text["block_dim"] = text["conv_dim"] = text["conv_dim_out"] = text["hidden_size"]
    text["num_heads"] = text["num_attention_heads"]
    text["block_norm_eps"] = text["norm_eps"]
    text["block_use_swiglu"] = text["use_pos_enc"] = True
    text["tie_embedding"] = text.pop("tie_word_embeddings")
    for part in (config, text, vision):
        part["torch_dtype"] = part.pop("dtype", "bfloat16")
    for gone in ("tie_word_embeddings", "projector_use_layernorm"):
        del config[gone]
    config |= image
    config["auto_map"] = {
        "AutoConfig": "modeling_lfm2_vl.Lfm2VlConfig",
        "AutoModelForImageTextToText": "modeling_lfm2_vl.Lfm2VlForConditionalGeneration",
    }
    config["image_token_index"] = config.pop("image_token_id")
    config["model_type"] = "lfm2-vl"
    config["vision_feature_layer"] = -1
    config["transformers_version"] = "4.55.0"
    write_json(path, dict(sorted(config.items())))


def rename_processor(checkpoint: Path, image: dict) -> None:
    common = {
        "auto_map": {"AutoProcessor": "processing_lfm2_vl.Lfm2VlProcessor"},
        "processor_class": "Lfm2VlProcessor",
    }
    write_json(checkpoint / "processor_config.json", {**common, **image})
    preprocessor = {
        **common,
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": False,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Siglip2ImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "input_data_format": "channels_last",
        "max_num_patches": image["max_num_patches"],
        "patch_size": image["encoder_patch_size"],
        "resample": 2,
        "rescale_factor": 1 / 255,
        "return_tensors": "pt",
    }
    write_json(checkpoint / "preprocessor_config.json", preprocessor)


def rename_tokenizer(checkpoint: Path) -> None:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    markers = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
    }
    special = {name: {"content": token, **plain} for name, token in markers.items()}
    write_json(checkpoint / "special_tokens_map.json", {**special, **IMAGE_TOKENS})
    added = {
        str(token["id"]): {"content": token["content"], **plain, "special": True}
        for token in read_json(checkpoint / "tokenizer.json")["added_tokens"]
    }
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": added,
        "auto_map": {"AutoProcessor": "processing_lfm2_vl.Lfm2VlProcessor"},
        **markers,
        "clean_up_tokenization_spaces": True,
        "extra_special_tokens": IMAGE_TOKENS,
        **IMAGE_TOKENS,
        "processor_class": "Lfm2VlProcessor",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    path = checkpoint / "tokenizer_config.json"
    write_json(path, config)
    compact_json(path)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def compact_json(path: Path) -> None:
    """Most of an indented list of special tokens is spaces."""
    text = json.dumps(read_json(path), ensure_ascii=False, separators=(",", ":"))
    path.write_text(text + "\n", encoding="utf-8")


def version_of(package: str) -> str:
    return importlib.metadata.version(package)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def make_resize_fingerprints() -> None:
    """Hash what torchvision's resize of uint8 pictures gives, for sizes the processor asks for."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    modes = {2: InterpolationMode.BILINEAR, 3: InterpolationMode.BICUBIC}
    pictures = [(480, 640, 1), (301, 477, 2), (1080, 1920, 3), (7, 5, 4)]
    sizes = [(416, 576), (512, 1536), (64, 96), (33, 640), (480, 288), (256, 256)]
    cases = []
    for picture in pictures:
        image = torch.from_numpy(np.array(make_picture(*picture))).permute(2, 0, 1)[None]
        for resample, mode in modes.items():
            for size in sizes:
                resized = functional.resize(image, list(size), interpolation=mode, antialias=True)
                data = resized[0].permute(1, 2, 0).contiguous().numpy().tobytes()
                digest = hashlib.sha256(data).hexdigest()
                case = {"picture": picture, "to": size, "resample": resample}
                cases.append({**case, "sha256": digest})
    versions = {name: version_of(name) for name in ("torch", "torchvision")}
    text = json.dumps({"versions": versions, "cases": cases}, indent=0)
    (GOLDEN / "resize.json").write_text(text + "\n")


def main() -> None:
    wanted = sys.argv[1:] or [case.name for case in CASES]
    unknown = set(wanted) - {case.name for case in CASES}
    if unknown:
        sys.exit(f"no such case: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)  # the order of sums must not depend on the machine's cores
    library = declare_torchvision_operators()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for case in CASES:
        if case.name in wanted:
            print(make_case(case), flush=True)
    make_resize_fingerprints()
    print(f"tests/golden: {size_of(GOLDEN)} bytes")
    del library


if __name__ == "__main__":
    main()
