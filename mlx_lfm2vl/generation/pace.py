"""How long a draft should be, and whether to draft at all: by what rounds cost and what they bring.

- The time of a round grows about linearly with the number of tokens it verifies. How steeply is
  measured: on a GPU in half precision hardly at all, on a CPU or with packed weights steeply.
- How likely each proposal is accepted is measured by its place in the draft. A drafter that tells
  its confidence is corrected by how often it was right when it said so.
- The length that gives the most tokens per second is chosen. If plain decoding gives more, drafting
  rests, each time four times as long, until it pays again.
- None of this changes a token of the answer.
"""

from collections.abc import Sequence

WARM_UP = 2  # rounds that are not timed: kernels are compiled and buffers grow
PLAIN = 3  # tokens decoded plainly before the first draft, to learn what one costs
TRIAL = 2  # rounds after a rest
PATIENCE = 8  # rounds that may lose before a rest
REST, LONGEST_REST = 32, 512  # tokens
GROWTH = 4  # of a rest after a trial that does not pay, which costs some plain tokens
MEMORY = 1 / 16  # weight of the newest measurement
PRIOR = 4.0  # observations that the first guess of an acceptance counts as


class Pace:
    """Chooses the length of drafts. One object may serve many answers, and learns from all."""

    def __init__(self, proposals: int) -> None:
        """
        Args:
            proposals: most tokens of a draft.
        """
        self._most = proposals
        self._plain: float | None = None  # seconds per token without drafts
        self._rounds: dict[int, float] = {}  # seconds per round, by tokens of the draft
        # Of each place: times it was reached, times it was accepted, and the sum of confidences.
        guess = [0.8 * 0.95**place for place in range(proposals)]
        self._reached = [PRIOR] * proposals
        self._right = [PRIOR * chance for chance in guess]
        self._promised = [PRIOR * chance for chance in guess]
        self._guess = guess
        self._warm = WARM_UP
        self._losses = 0
        self._pause, self._resting = REST, PLAIN

    @property
    def rests(self) -> bool:
        """Whether drafting rests for now."""
        return self._resting > 0

    def plain(self, seconds: float | None) -> None:
        """Learn of a token that was decoded without a draft; None if its time is not known."""
        self._resting -= 1
        if seconds is not None:
            self._plain = _mean(self._plain, seconds)

    def round(
        self, length: int, accepted: int, confidence: Sequence[float], seconds: float | None
    ) -> None:
        """Learn of a round.

        Args:
            length: tokens of its draft.
            accepted: how many of these were accepted.
            confidence: of each, as the drafter told it; empty if it tells none.
            seconds: its duration; None if that is not known.
        """
        self.judged(length, accepted, confidence)
        self.took(length, accepted + 1, seconds)

    def judged(self, length: int, accepted: int, confidence: Sequence[float]) -> None:
        """Learn how much of a draft was accepted; see `round`."""
        for place in range(min(length, accepted + 1)):
            self._reached[place] += 1
            self._right[place] += place < accepted
            self._promised[place] += confidence[place] if confidence else self._guess[place]
            if self._reached[place] > 1 / MEMORY:  # older observations fade
                for sums in (self._reached, self._right, self._promised):
                    sums[place] *= 1 - MEMORY

    def took(self, length: int, tokens: float, seconds: float | None) -> None:
        """Learn how long a round took.

        Args:
            length: tokens of its draft; in a batch those of the longest.
            tokens: that it gave; in a batch the mean of the rows.
            seconds: its duration; None if that is not known.
        """
        if self._warm:
            self._warm -= 1
        elif seconds is not None:
            self._rounds[length] = _mean(self._rounds.get(length), seconds)
            self._judge(tokens, seconds)

    def _judge(self, tokens: float, seconds: float) -> None:
        """Rest if plain decoding would have been faster for too long."""
        if self._plain is None:
            return
        if tokens * self._plain >= seconds:
            self._losses, self._pause = max(0, self._losses - 2), REST
            return
        self._losses += 1
        if self._losses >= PATIENCE:
            self._resting, self._pause = self._pause, min(GROWTH * self._pause, LONGEST_REST)
            self._losses = PATIENCE - TRIAL

    def length(self, confidence: Sequence[float], most: int) -> int:
        """Return how many tokens of a draft to verify.

        Args:
            confidence: of each token, given that those before it are accepted; empty if unknown.
            most: that can be used.
        """
        most = min(most, self._most)
        times = self._round_times()
        if times is None:  # both ends are tried, to learn how the time grows
            return most if self._warm or not self._rounds else min(most, max(1, self._most // 2))
        base, slope = times
        best, best_rate, survival, expected = 0, 0.0, 1.0, 1.0
        for length in range(most + 1):
            if length:
                survival *= self._chance(length - 1, confidence)
                expected += survival
            rate = expected / (base + slope * length)
            if rate > best_rate:
                best, best_rate = length, rate
        return best

    def _chance(self, place: int, confidence: Sequence[float]) -> float:
        """Return how likely a token is accepted if those before it are."""
        if not confidence:
            return self._right[place] / self._reached[place]
        return min(1.0, confidence[place] * self._right[place] / self._promised[place])

    def _round_times(self) -> tuple[float, float] | None:
        """Return the seconds of a round without a draft, and those of each token of one."""
        if len(self._rounds) < 2:
            return None
        lengths, seconds = list(self._rounds), list(self._rounds.values())
        middle, mean = sum(lengths) / len(lengths), sum(seconds) / len(seconds)
        spread = sum((length - middle) ** 2 for length in lengths)
        pairs = zip(lengths, seconds, strict=True)
        slope = sum((length - middle) * (time - mean) for length, time in pairs) / spread
        slope = max(0.0, slope)
        return max(mean - slope * middle, 0.1 * mean), slope


def _mean(old: float | None, new: float) -> float:
    """Return a mean that follows what is new; one slow measurement does not move it far."""
    if old is None:
        return new
    return old + (min(new, 2 * old) - old) * max(MEMORY, 0.1)
