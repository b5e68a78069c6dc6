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

    embeds, cache = ready.taken(), ready.branch.cache
    passes = ready.passes(options.on_prefill)
    if options.constraint and not options.lookup and drafting is None:
        from .constrained import constrained_step

        # The tokens without choice are all that is known beforehand.
        return constrained_step(model, embeds, cache, make(Sampler), make_guide, passes)
    sampler = make(VerifyingSampler)
    drafter = make_drafter(drafting, model, sampler, ready, options)
    if options.constraint:
        from .constrained_drafts import drafted_constrained_step

        return drafted_constrained_step(
            model, embeds, cache, sampler, make_guide, drafter, drafts, passes
        )
    from .drafted import drafted_step

    most = options.max_tokens
    return drafted_step(model, embeds, cache, sampler, most, drafter, drafts, passes)
