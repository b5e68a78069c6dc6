"""What a cache has read: token ids, and which image stands where.

Two prompts share a prefix as far as their ids are equal and their images are the same images. Image
tokens are all alike, so each image is identified by a hash of what the vision tower sees of it.
"""

import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import numpy as np

Span = tuple[int, int]  # begin and end of an image in a prompt, its markers included

# Fewer tokens than this after a cut are read with what follows: a pass of its own would read all
# weights for them, and reading them again costs a continued run hardly more.
SHORT = 32


@dataclass(frozen=True)
class Prefix:
    """A sequence of tokens with images.

    Attributes:
        ids: token ids.
        spans: where each image stands; the ids there are markers and image tokens.
        keys: `image_key` of each image.
    """

    ids: Sequence[int]
    spans: Sequence[Span] = ()
    keys: Sequence[bytes] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _array(self) -> np.ndarray:
        """The ids, converted once: a prompt is compared with every branch of a store."""
        return np.asarray(self.ids, np.int64)

    def common(self, other: "Prefix") -> int:
        """Return the number of positions, from the first on, that are equal in both."""
        length = min(len(self), len(other))
        different = np.flatnonzero(self._array[:length] != other._array[:length])
        length = int(different[0]) if different.size else length
        for span, mine, (_, its) in zip(
            self.spans, self.keys, zip(other.spans, other.keys, strict=True), strict=False
        ):
            if span[0] < length and mine != its:
                return span[0]
        return length

    def count(self, token: int | None, begin: int, end: int) -> int:
        """Return how often a token stands in [begin, end)."""
        return sum(found == token for found in self.ids[begin:end])

    def until(self, end: int) -> "Prefix":
        """Return the positions before `end`."""
        kept = len(list(takewhile(lambda span: span[0] < end, self.spans)))
        return Prefix(self.ids[:end], self.spans[:kept], self.keys[:kept])


def image_key(views: Sequence[np.ndarray], shapes: Sequence[tuple[int, int]]) -> bytes:
    """Return what identifies an image: a hash of the patches of its views, and of their grids.

    It covers the decoded pixels after EXIF turning and resizing, so that a file that was replaced,
    or other image options, give another key.
    """
    found = hashlib.blake2b(repr(list(shapes)).encode(), digest_size=32)
    for patches in views:
        found.update(np.ascontiguousarray(patches).data)
    return found.digest()


def segment_ends(ids: Sequence[int], spans: Sequence[Span], end_ids: Container[int]) -> list[int]:
    """Return where the reading of a prompt is cut: at `cuts`, and at its end.

    Args:
        ids: the prompt.
        spans: where its images stand.
        end_ids: ids that end a message.

    Returns:
        Ends of the segments in ascending order; the last is the prompt's length.
    """
    return sorted({len(ids), *cuts(ids, spans, end_ids)})


def cuts(ids: Sequence[int], spans: Sequence[Span], end_ids: Container[int]) -> list[int]:
    """Return the ends of images, and of messages that are not `SHORT`, in ascending order.

    Whether there is a cut depends only on what stands before it. A prompt is always cut at the same
    places, whatever is cached, and so are all prompts that begin in the same way. So a run that
    continues from a cut repeats the calls of one that began at 0.
    """
    images = {end for _, end in spans if end <= len(ids)}
    messages = {i for i, token in enumerate(ids, 1) if token in end_ids}
    found, last = list[int](), 0
    for end in sorted(images | messages):
        if end in images or end - last >= SHORT:
            found.append(last := end)
    return found
