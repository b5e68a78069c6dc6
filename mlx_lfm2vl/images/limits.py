"""Limits on images from untrusted sources."""

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class ImageLimits:
    """Limits on images from untrusted sources.

    Decoding takes at most about 8 bytes for each pixel of `max_pixels`: 1.6 GB by default. A Mac
    with 8 GB bears that beside the system and a small model.
    """

    max_pixels: int = 200_000_000  # of the decoded image; checked before decoding
    max_bytes: int = 256 * 2**20  # of the file
    max_images: int = 32  # per prompt
    allow_url: bool = False  # fetch http and https URLs

    def check_count(self, count: int) -> None:
        """Refuse a prompt of too many images, before any of them is read.

        Raises:
            InputError: there are more than `max_images`.
        """
        if count > self.max_images:
            raise InputError(f"the prompt has {count} images, at most {self.max_images} are read")
