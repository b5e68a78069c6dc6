"""Compute features, logits, tokens, stages and gradients of a prompt with transformers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import transformers

from .processor import prepare

GREEDY_TOKENS = 12


@dataclass
class Results:
    """What the reference computes for one prompt."""

    text: str
    tensors: dict[str, torch.Tensor]
    gaps: list[float] = field(default_factory=list)


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
        image = processor.image_processor
        results.tensors |= image_tensors(inputs, image, has_pixel_values)
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


def image_features(
    model: transformers.Lfm2VlForConditionalGeneration, inputs: dict
) -> list[torch.Tensor]:
    """The projected rows of each view, by a method that transformers 5.23 and 5.24 both have."""
    names = ("pixel_values", "spatial_shapes", "pixel_attention_mask")
    return model.model.get_image_features(**{name: inputs[name] for name in names}).pooler_output


def image_tensors(
    inputs: dict, image: transformers.Lfm2VlImageProcessor, has_pixel_values: bool
) -> dict[str, torch.Tensor]:
    """The processor's output without its padding."""
    pixel_values, shapes = inputs["pixel_values"], inputs["spatial_shapes"]
    mask = inputs["pixel_attention_mask"].bool()
    # The mask of a view with more patches than the processor's limit would be too short.
    if not torch.equal(mask.sum(dim=1), shapes.prod(dim=1)):
        raise RuntimeError(f"views of {shapes.tolist()} patches do not match their masks")
    views = [to_bytes(view[keep], image) for view, keep in zip(pixel_values, mask, strict=True)]
    if has_pixel_values:
        pixels = {"pixel_values": torch.cat(views)}
    else:
        means = [pixel_values[i][mask[i]].double().mean() for i in range(len(views))]
        pixels = {"pixel_means": torch.stack(means).float()}
    return {**pixels, "spatial_shapes": shapes.int()}


def to_bytes(pixel_values: torch.Tensor, image: transformers.Lfm2VlImageProcessor) -> torch.Tensor:
    """Undo the normalization, and check that this is exact."""
    repeats = pixel_values.shape[-1] // 3  # (row, column, channel) order: RGB repeats
    mean, std = (
        torch.tensor(values).repeat(repeats) * (1.0 / image.rescale_factor)  # as the reference
        for values in (image.image_mean, image.image_std)
    )
    pixels = (pixel_values * std + mean).round().to(torch.uint8)
    if not torch.equal((pixels.float() - mean) / std, pixel_values):
        raise RuntimeError("the pixel values are not normalized bytes")
    return pixels


@torch.no_grad()
def check_one_pass(
    model: transformers.Lfm2VlForConditionalGeneration, inputs: dict, greedy: torch.Tensor
) -> None:
    """Check that the reference chooses the same tokens in one pass, without its cache."""
    if len(greedy) != GREEDY_TOKENS:
        raise RuntimeError(f"{len(greedy)} greedy tokens instead of {GREEDY_TOKENS}")
    logits = model(**append(inputs, greedy)).logits[0, -GREEDY_TOKENS - 1 : -1]
    if not torch.equal(logits.argmax(dim=-1), greedy.long()):
        raise RuntimeError("generation with and without a cache differ")


def append(inputs: dict, tokens: torch.Tensor) -> dict:
    """The inputs with tokens appended."""
    input_ids = torch.cat([inputs["input_ids"], tokens.long()[None]], dim=1)
    return {**inputs, "input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def compute_stages(
    model: transformers.Lfm2VlForConditionalGeneration, inputs: dict
) -> dict[str, torch.Tensor]:
    """Hidden states of the vision tower, projector and decoder for a prompt with one view."""
    vision, language = model.model.vision_tower, model.model.language_model
    modules = {
        "vision.embeddings": vision.embeddings,
        **{f"vision.layers.{i}": layer for i, layer in enumerate(vision.encoder.layers)},
        "vision.post_layernorm": vision.post_layernorm,
        "projector": model.model.multi_modal_projector,
        **{f"language.layers.{i}": layer for i, layer in enumerate(language.layers)},
        "language.embedding_norm": language.embedding_norm,
    }
    # Drop padded rows; transformers 5.24 also pads the projector's.
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
