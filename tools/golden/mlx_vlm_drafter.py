"""Draw a drafter for a target and record what mlx-vlm makes of it; see make_drafter_golden.py.

usage: PEER_PYTHON mlx_vlm_drafter.py TARGET OUT CASE

TARGET is a folder in float32, OUT the folder of the drafter, and CASE settings as JSON. The
tensors that are recorded are

    step.N.*   one draft after a prompt, with everything between, and the draft after the next round
    loop.N.*   greedy answers, which are the same with and without the drafter, and their rounds

This file does not import the package, whose environment is another one.
"""

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_vlm.generate.ar import generate_step
from mlx_vlm.speculative.drafters import load_drafter, validate_drafter_compatibility
from mlx_vlm.utils import load_model

INNER = 64  # of the feed-forward
RANK = 16
GROUP_SIZE = 64
KIND = "dflash"  # what mlx-vlm calls drafters of this family
TOKENS = 24  # of a greedy answer
STEP_LENGTHS, LOOP_LENGTHS = (1, 5, 40), (1, 40)  # tokens of the prompts
KEPT = 3  # rows of the round after a draft that the second draft has read
KNOWN = 8  # of ten pairs of tokens in the answers, so many stand in the Markov tables


@dataclass(frozen=True)
class Case:
    """Settings of a drafter."""

    layers: int
    block: int  # proposals
    heads: tuple[int, int, int]  # query heads, key heads, size of one
    bits: int = 0  # of the layers and fc; 0 does not quantize
    half_split: bool = False  # RoPE
    dtype: str = "float32"
    prefix: str = ""  # of the tensors' names


def config_of(case: Case, target: dict[str, Any]) -> dict[str, Any]:
    """Return the `config.json` of a drafter for the configuration of a target."""
    text = target.get("text_config", target)
    depth = text["num_hidden_layers"]
    rope = text.get("rope_parameters") or {}
    heads, key_heads, size = case.heads
    return {
        "architectures": ["Lfm2DSparkDraftModel"],
        "model_type": "qwen3",
        "dtype": case.dtype,
        "hidden_size": text["hidden_size"],
        "intermediate_size": INNER,
        "num_hidden_layers": case.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": size,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": 128000,
        "rope_theta": rope.get("rope_theta", text.get("rope_theta", 1e6)),
        "rope_is_neox_style": case.half_split,
        "layer_types": ["full_attention"] * case.layers,
        "block_size": case.block,
        "dflash_config": {
            "mask_token_id": text["vocab_size"] - 7,
            "target_layer_ids": sorted({1, depth // 2, depth - 2}),
            "num_target_layers": depth,
        },
        "markov_rank": RANK,
        "markov_head_type": "vanilla",
        "enable_confidence_head": True,
    }


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor of a drafter."""
    size, inner, vocabulary = (
        config[key] for key in ("hidden_size", "intermediate_size", "vocab_size")
    )
    head = config["head_dim"]
    queries, keys = (config[f"num_{kind}_heads"] * head for kind in ("attention", "key_value"))
    layer = {
        "input_layernorm": (size,),
        "post_attention_layernorm": (size,),
        "self_attn.q_proj": (queries, size),
        "self_attn.k_proj": (keys, size),
        "self_attn.v_proj": (keys, size),
        "self_attn.o_proj": (size, queries),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "mlp.gate_proj": (inner, size),
        "mlp.up_proj": (inner, size),
        "mlp.down_proj": (size, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (size, len(config["dflash_config"]["target_layer_ids"]) * size),
        "hidden_norm.weight": (size,),
        "norm.weight": (size,),
        "markov_head.markov_w1.weight": (vocabulary, RANK),
        "markov_head.markov_w2.weight": (vocabulary, RANK),
        "confidence_head.proj.weight": (1, size + RANK),
        "confidence_head.proj.bias": (1,),
    }
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def drawn(name: str, shape: tuple[int, ...]) -> mx.array:
    """Draw a tensor; what adds to the residual stream is loud, or drafts would repeat the mask."""
    noise = mx.random.normal(shape)
    if name.endswith("bias"):
        return 0.3 * noise
    if len(shape) == 1:
        return 1 + 0.1 * noise
    if "markov" in name:
        return noise * 0.3
    loudness = 6.0 if "o_proj" in name or "down_proj" in name else 1.2
    return noise * (loudness / shape[-1] ** 0.5)


def learn_pairs(weights: dict[str, mx.array], answers: list[list[int]]) -> None:
    """Make the Markov tables know most pairs of tokens, so that drafts of all lengths are right."""
    after = dict(pair for answer in answers for pair in itertools.pairwise(answer))
    known = [pair for i, pair in enumerate(sorted(after.items())) if 7 * i % 10 < KNOWN]
    codes = 3.0 * mx.random.normal((len(known), RANK))
    first, second = (mx.array(tokens) for tokens in zip(*known, strict=True))
    before, behind = (f"markov_head.markov_w{number}.weight" for number in (1, 2))
    weights[before][first] = codes
    weights[behind] = weights[behind].at[second].add(codes)


def write_drafter(
    folder: Path, case: Case, config: dict[str, Any], weights: dict[str, mx.array]
) -> None:
    """Write a drafter, and pack it as the conversions on the Hub are packed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder / "model.safetensors")

    def write_config() -> None:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    named = {case.prefix + name: value for name, value in weights.items()}
    mx.save_safetensors(path, named, metadata={"format": "pt"})
    write_config()
    if not case.bits:
        return

    def is_packed(name: str, module: nn.Module) -> bool:
        is_inner = name == "fc" or name.startswith("layers.")
        return is_inner and isinstance(module, nn.Linear) and not module.weight.shape[1] % 64

    drafter, _ = load_drafter(str(folder))
    nn.quantize(drafter, group_size=GROUP_SIZE, bits=case.bits, class_predicate=is_packed)
    scheme = {"group_size": GROUP_SIZE, "bits": case.bits, "mode": "affine"}
    config["quantization"] = config["quantization_config"] = scheme
    mx.save_safetensors(path, dict(tree_flatten(drafter.parameters())), metadata={"format": "mlx"})
    write_config()


def prompt_of(length: int, number: int, vocabulary: int) -> mx.array:
    """Return ids that are not special: (1, length)."""
    span = min(200, vocabulary)
    ids = [(37 * i * i + 11 * i + 101 * number + 5) % span + 40 for i in range(length)]
    return mx.array([ids], mx.int32)


def greedy(logits: mx.array) -> mx.array:
    return mx.argmax(logits, axis=-1)


def answer(model: nn.Module, prompt: mx.array, **options: Any) -> list[int]:
    """Return the tokens of mlx-vlm's greedy answer."""
    steps = generate_step(
        prompt,
        model,
        None,
        None,
        max_tokens=TOKENS,
        temperature=0,
        prefill_step_size=None,
        **options,
    )
    return [int(token.item()) if isinstance(token, mx.array) else int(token) for token, _ in steps]


def record_step(
    model: nn.Module, drafter: nn.Module, config: dict[str, Any], prompt: mx.array
) -> dict[str, mx.array]:
    """Record one draft after a prompt, and another after a round of which `KEPT` rows stay."""
    language, block = model.language_model, config["block_size"]
    taps, mask = (config["dflash_config"][key] for key in ("target_layer_ids", "mask_token_id"))
    cache, context = language.make_cache(), drafter.make_cache()
    read = language(prompt, cache=cache, capture_layer_ids=taps)
    hidden = mx.concatenate(read.hidden_states, axis=-1)
    anchor = greedy(read.logits[:, -1])
    ids = mx.concatenate([anchor[:, None], mx.full((1, block - 1), mask)], axis=1)
    found = {"prompt": prompt, "hidden": hidden, "anchor": anchor}
    found["features"] = drafter.hidden_norm(drafter.fc(hidden))
    found["states"] = states = drafter._hidden(ids, hidden, context)
    found["base_logits"] = logits = drafter._logits(states)
    draft = drafter.markov_head.sample_block(logits, first_prev_tokens=anchor, sampler=greedy)
    whole = drafter.draft_block(anchor, hidden, drafter.make_cache(), block + 1, greedy)
    assert draft.tolist() == whole.tolist()
    found["draft"], found["confidence"] = draft, drafter.confidence(states, anchor, draft)
    for number, layer in enumerate(context):
        found[f"keys.{number}"] = layer.keys[:, :, : layer.offset]
        found[f"values.{number}"] = layer.values[:, :, : layer.offset]
    rows = mx.concatenate([anchor[:, None], draft], axis=1)
    read = language(rows, cache=cache, capture_layer_ids=taps)
    found["next_hidden"] = mx.concatenate(read.hidden_states, axis=-1)[:, :KEPT]
    found["next_anchor"] = greedy(read.logits[:, KEPT - 1])
    found["next_draft"] = drafter.draft_block(
        found["next_anchor"], found["next_hidden"], context, block + 1, greedy
    )
    return found


def record_loop(
    model: nn.Module, drafter: nn.Module, block: int, prompt: mx.array, tokens: list[int]
) -> dict[str, mx.array]:
    """Record the rounds of an answer, each with a whole block; -1 fills the short last drafts."""
    anchors, rows, drafts = list[int](), list[int](), list[list[int]]()
    plain = drafter.draft_block

    def watched(anchor: Any, hidden: mx.array, *arguments: Any, **options: Any) -> mx.array:
        draft = plain(anchor, hidden, *arguments, **options)
        anchors.append(int(anchor))
        rows.append(hidden.shape[1])
        drafts.append(draft.reshape(-1).tolist())
        return draft

    drafter.draft_block, drafter.prefer_requested_block_size = watched, True
    said = answer(model, prompt, draft_model=drafter, draft_kind=KIND, draft_block_size=block + 1)
    drafter.draft_block = plain
    assert said == tokens
    width = max(map(len, drafts))
    return {
        "prompt": prompt,
        "tokens": mx.array(tokens),
        "anchors": mx.array(anchors),
        "context_rows": mx.array(rows),
        "drafts": mx.array([draft + [-1] * (width - len(draft)) for draft in drafts]),
    }


def stored(value: mx.array) -> mx.array:
    """Return an array in the type of the golden files."""
    return value.astype(mx.float32 if mx.issubdtype(value.dtype, mx.floating) else mx.int32)


def main() -> None:
    target, out, case = Path(sys.argv[1]), Path(sys.argv[2]), Case(**json.loads(sys.argv[3]))
    config = config_of(case, json.loads((target / "config.json").read_text()))
    vocabulary = config["vocab_size"]
    mx.random.seed(0)
    weights = {name: drawn(name, shape) for name, shape in sorted(shapes_of(config).items())}
    model = load_model(target)
    prompts = [prompt_of(length, i, vocabulary) for i, length in enumerate(LOOP_LENGTHS)]
    answers = [answer(model, prompt) for prompt in prompts]
    learn_pairs(weights, answers)
    dtype = getattr(mx, case.dtype)
    write_drafter(out, case, config, {name: value.astype(dtype) for name, value in weights.items()})

    drafter, kind = load_drafter(str(out))
    assert kind == KIND
    validate_drafter_compatibility(model, drafter, kind)
    drafter.bind(model)
    found = dict[str, mx.array]()
    for i, length in enumerate(STEP_LENGTHS):
        step = record_step(model, drafter, config, prompt_of(length, i, vocabulary))
        found |= {f"step.{i}.{name}": stored(value) for name, value in step.items()}
    for i, (prompt, tokens) in enumerate(zip(prompts, answers, strict=True)):
        loop = record_loop(model, drafter, case.block, prompt, tokens)
        found |= {f"loop.{i}.{name}": stored(value) for name, value in loop.items()}
        print(f"{out.name}, loop {i}: {loop['anchors'].size} rounds, {len(tokens)} tokens")
    mx.save_safetensors(f"{out}.expected.safetensors", found)


if __name__ == "__main__":
    main()
