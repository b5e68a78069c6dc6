"""A conversation, read and embedded: the ids that fit, the images encoded."""

import time
from collections.abc import Sequence

import mlx.core as mx

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
    """The ids of a conversation that leaves room for the answer; its images are not decoded yet.

    Args:
        model: says how long a context may be.
        processor: of the same checkpoint.
        messages: see `Processor`; a string is one user message.
        options: of the answer.

    Raises:
        InputError: bad messages or images, or a prompt that does not fit the context.
        NetworkError: an image URL cannot be fetched.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    limit = max(0, model.config.text.max_position_embeddings - options.max_tokens)
    return processor(messages, options=options.image_options, tools=options.tools, max_length=limit)


def embed_prompt(model: Lfm2VL, prompt: Inputs) -> tuple[mx.array, float]:
    """Embed a prompt; the device encodes an image while the host decodes the next.

    Returns:
        (1, L, C), and the seconds spent on decoding.

    Raises:
        InputError: an image is damaged.
    """
    features: list[mx.array] = []
    seconds, start = 0.0, time.perf_counter()
    for plan, pixel_values in zip(prompt.images, prompt.views, strict=True):
        seconds += time.perf_counter() - start
        features.append(model.encode_images(pixel_values, plan.spatial_shapes))
        start = time.perf_counter()
    joined = mx.concatenate(features) if len(features) > 1 else next(iter(features), None)
    return model.embed(prompt.input_ids, joined), seconds
