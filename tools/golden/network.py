"""A tiny network in which every weight affects the output."""

from __future__ import annotations

import torch
import transformers

from .cases import TEXT, VISION, Case


def make_model(
    case: Case, tokenizer: transformers.PreTrainedTokenizerFast, seed: int
) -> transformers.Lfm2VlForConditionalGeneration:
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id if case.has_end_id else None,
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
    """Draw weights so that every parameter affects the output.

    transformers initializes biases to 0 and norm weights to 1, and greedy decoding then repeats
    one token whatever the picture shows, so that whole stages could be wrong unnoticed.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.normal_(0.0, 0.3, generator=generator)
        elif "language_model" in name and "self_attn.out_proj" in name:
            # Averages over many tokens are small, but attention must still change the answer.
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
