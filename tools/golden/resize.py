"""Fingerprints of torchvision's resize, which the images package must match byte for byte."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
from pictures import make_picture

from .files import GOLDEN, version_of


def make_resize_fingerprints() -> None:
    """Hash torchvision's resized uint8 pictures, for sizes that the image processor asks for."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    modes = {2: InterpolationMode.BILINEAR, 3: InterpolationMode.BICUBIC}
    pictures = [(480, 640, 1), (301, 477, 2), (1080, 1920, 3), (7, 5, 4)]
    sizes = [(416, 576), (512, 1536), (64, 96), (33, 640), (480, 288), (256, 256)]
    cases = []
    for picture in pictures:
        image = torch.from_numpy(np.array(make_picture(*picture))).permute(2, 0, 1)[None]
        for resample, mode in modes.items():
            for size in sizes:
                resized = functional.resize(image, list(size), interpolation=mode, antialias=True)
                data = resized[0].permute(1, 2, 0).contiguous().numpy().tobytes()
                digest = hashlib.sha256(data).hexdigest()
                case = {"picture": picture, "to": size, "resample": resample}
                cases.append({**case, "sha256": digest})
    versions = {name: version_of(name) for name in ("torch", "torchvision")}
    text = json.dumps({"versions": versions, "cases": cases}, indent=0)
    (GOLDEN / "resize.json").write_text(text + "\n")
