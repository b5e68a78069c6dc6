"""Answering one conversation piece by piece."""

from collections.abc import Sequence

import mlx.core as mx

from ..device_thread import Steps
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions
from ..prompt.messages import Message
from ..prompt.processor import Processor
from .answer import Answer, Clock, Piece, Timings, make_result
from .lookup import Lookup
from .loop import Drafts, generate_step
from .prefix_store import PrefixStore
from .prepare import embed_prompt, read_prompt
from .sampling import Sampler


def stream_answer(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    options: AnswerOptions,
    store: PrefixStore | None = None,
    keys: list[bytes] | None = None,
) -> Steps[Piece]:
    """Answer a conversation; see `Engine.stream`.

    Args:
        model: the network.
        processor: of the same checkpoint.
        messages: the conversation.
        options: of the answer.
        store: what was read before; what this answer reads is added.
        keys: of the first images, if they are known; completed in place if there is a store.
    """
    clock = Clock()
    sampling, seed = options.sampling_over(model.config.sampling), options.drawn_seed()
    prompt = read_prompt(model, processor, messages, options)
    answer = Answer(processor.tokenizer, model.config.eos_token_ids, options, prompt.start)
    mx.reset_peak_memory()
    reading = clock.lap()
    ready = embed_prompt(model, prompt, store, options.on_encode, keys or (), options.kv_bits)
    if keys is not None:
        keys[:] = ready.prefix.keys
    cached = ready.cached
    drafts = Drafts()
    tokens = generate_step(
        model,
        ready.taken(),
        ready.branch.cache,
        Sampler(
            sampling,
            [prompt.input_ids],
            [seed],
            processors=options.logits_processors,
            logprobs=options.logprobs,
        ),
        options.max_tokens,
        drafter=Lookup(prompt.input_ids, options.lookup) if options.lookup else None,
        drafts=drafts,
        on_prefill=options.on_prefill,
        ends=ready.ends,
        reached=ready.reached,
    )
    first, decoding, pending, text = 0.0, 0.0, 0, ""
    said: list[int] = []
    try:
        for token in tokens:
            first = first or clock.lap()
            said.append(token.id)
            text = answer.add(token.id, token.logprob)
            if answer.finish_reason:
                break
            if text:
                yield answer.piece(text, pending)
                pending = len(answer.token_ids)
    except GeneratorExit:  # the answer is stopped between two tokens: what was read is sound
        if store:
            store.keep(ready.read(said))
        raise
    except KeyboardInterrupt:  # what waits for its end, such as a tool call, would be lost
        if rest := answer.rest():
            yield answer.piece(rest, pending)
        raise
    decoding = clock.lap()
    # After any other exception, such as Ctrl-C within a step, the cache may be half written.
    if store:
        store.keep(ready.read(said))
    timings = Timings(reading + ready.decoding, first - ready.decoding, decoding)
    result = make_result(answer, prompt, sampling, seed, timings, drafts, cached)
    yield answer.piece(text, pending, result)
