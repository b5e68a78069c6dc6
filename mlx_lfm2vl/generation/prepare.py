"""Preparing a conversation: its prompt's token ids, then their embeddings with encoded images."""

import time
from collections.abc import Callable, Sequence

import mlx.core as mx

from ..errors import InputError
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions
from ..prompt.messages import Message
from ..prompt.processor import Inputs, Processor


def read_prompt(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    options: AnswerOptions,
) -> Inputs:
    """Turn a conversation into token ids that leave room for the answer, before decoding images.

    Args:
        model: for the length of its context.
        processor: of the same checkpoint.
        messages: see `Processor`; a string is one user message.
        options: of the answer.

    Raises:
        InputError: messages or images are bad, or the prompt and `max_tokens` exceed the context.
        NetworkError: an image URL cannot be fetched.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    context = model.config.text.max_position_embeddings
    if options.max_tokens >= context:
        raise InputError(
            f"max_tokens is {options.max_tokens}, but the model holds {context} tokens, prompt and "
            "answer together; lower it"
        )
    return processor(
        messages,
        options=options.image_options,
        tools=options.tools,
        max_length=context - options.max_tokens,
        special_tokens=options.special_tokens,
    )


def embed_prompt(
    model: Lfm2VL, prompt: Inputs, report: Callable[[int, int], object] | None = None
) -> tuple[mx.array, float]:
    """Embed a prompt. The device encodes each image while the host decodes the next one.

    Args:
        model: the network.
        prompt: from `read_prompt`; its images are decoded here.
        report: called with the image tokens encoded so far and all of them. With it, the host waits
            for the encoder.

    Returns:
        (1, L, C) embeddings, and the seconds spent on decoding images.

    Raises:
        InputError: an image is damaged.
    """
    features: list[mx.array] = []
    seconds, start = 0.0, time.perf_counter()
    for plan, pixel_values in zip(prompt.images, prompt.views, strict=True):
        seconds += time.perf_counter() - start
        features += model.encode_batches(pixel_values, plan.spatial_shapes)
        start = time.perf_counter()
    if report:
        done = 0
        for rows in features:
            mx.eval(rows)
            done += rows.shape[0]
            report(done, prompt.image_tokens)
    joined = mx.concatenate(features) if len(features) > 1 else next(iter(features), None)
    return model.embed(prompt.input_ids, joined), seconds
