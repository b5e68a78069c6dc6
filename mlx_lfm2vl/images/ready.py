"""Images that are decoded before their turn."""

from dataclasses import dataclass

import numpy as np

from ..checkpoint.image_config import ImageConfig
from .geometry import ImagePlan


@dataclass(frozen=True, eq=False)
class ReadyImage:
    """An image that is decoded and cut already, from `Processor.ready`.

    Attributes:
        plan: how it is shown to the model.
        views: (N, patch_size * patch_size * 3) uint8 patches of each view.
        config: the image settings, which must be those of the conversation.
    """

    plan: ImagePlan
    views: list[np.ndarray]
    config: ImageConfig
