"""Choosing the loop of an answer that has a constraint, a drafter or both."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions, Sampling
from .drafting import Drafting, make_drafter
from .guide import Guide
from .loop import Drafts, Token
from .prepare import Ready
from .sampling import Sampler
from .verifying import VerifyingSampler

Sampled = TypeVar("Sampled", bound=Sampler)


def assisted_step(
    model: Lfm2VL,
    ready: Ready,
    sampling: Sampling,
    seed: int,
    options: AnswerOptions,
    drafts: Drafts,
    drafting: Drafting | None,
    make_guide: Callable[[], Guide],
) -> Iterator[Token]:
    """Return the loop that decodes such an answer.

    Args:
        model: the network.
        ready: the prompt.
        sampling: of the answer.
        seed: of its random states.
        options: of the answer, with a constraint, lookup, or a draft model beside them.
        drafts: counts drafted tokens; updated in place.
        drafting: the draft model, if it is used.
        make_guide: makes the guide of the constraint.
    """

    def make(kind: type[Sampled]) -> Sampled:
        processors, logprobs = options.logits_processors, options.logprobs
        return kind(sampling, [ready.prefix.ids], [seed], processors=processors, logprobs=logprobs)

    cache, ends, reached = ready.branch.cache, ready.ends, ready.reached
    is_drafted = bool(options.lookup) or drafting is not None
    if options.constraint and is_drafted:
        from .constrained_drafts import drafted_constrained_step

        sampler = make(VerifyingSampler)
        return drafted_constrained_step(
            model,
            ready.taken(),
            cache,
            sampler,
            make_guide,
            make_drafter(drafting, model, sampler, ready, options),
            drafts,
            on_prefill=options.on_prefill,
            ends=ends,
            reached=reached,
        )
    if options.constraint:  # the tokens without choice are all that is known beforehand
        from .constrained import constrained_step

        return constrained_step(
            model,
            ready.taken(),
            cache,
            make(Sampler),
            make_guide,
            on_prefill=options.on_prefill,
            ends=ends,
            reached=reached,
        )
    from .drafted import drafted_step

    sampler = make(VerifyingSampler)
    return drafted_step(
        model,
        ready.taken(),
        cache,
        sampler,
        options.max_tokens,
        make_drafter(drafting, model, sampler, ready, options),
        drafts,
        on_prefill=options.on_prefill,
        ends=ends,
        reached=reached,
    )
