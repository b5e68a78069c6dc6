"""Whether this machine's GPU computes what its CPU computes, and how much it is asked to do.

Both are found on drawn pictures and a text.

The tests hold the CPU path to the reference, so an agreement here reaches the GPU. The CPU path
runs in a process of its own, in which MLX has no GPU: a module chooses its path when it is
imported.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from .arrays import dtype_name
from .errors import Lfm2VLError
from .generation.engine import Engine
from .generation.loop import generate_step
from .generation.sampling import draw_greedily
from .loading import load
from .options import DType, Sampling
from .prompt.template import Message
from .quantize.drawn_samples import sample_conversations
from .speed.host_syncs import HostSyncs
from .speed.launches import decode_step, image_embeddings

PICTURES = 3  # of the drawn ones; the text comes last
POSITIONS = 32  # of each prompt whose logits are compared
GREEDY_TOKENS = 16  # of each answer
# Largest relative differences, and smallest share of equal best tokens, of a path that is right.
EXPECTED = {"float32": (1e-3, 0.98), "float16": (0.05, 0.9), "bfloat16": (0.2, 0.8)}
ON_THE_CPU = """\
import sys
import mlx.core as mx
mx.metal.is_available = lambda: False
mx.set_default_device(mx.cpu)
import numpy as np
from mlx_lfm2vl.device_check import observe
np.savez(sys.argv[2], **observe(sys.argv[1], "float32"))
"""

Observed = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Work:
    """How often a model starts kernels on the GPU, and how often the host waits for a result.

    Attributes:
        dtype: name of the number type in use.
        views: of the picture.
        token_kernels: kernels of one more token of an answer.
        token_chain: how many of them must run one after the other.
        image_kernels: the same for encoding the picture.
        image_chain: the same for encoding the picture.
        token_reads: times the host waits, for each token.
        image_reads: times the host waits, for the picture.
    """

    dtype: str
    views: int
    token_kernels: int
    token_chain: int
    image_kernels: int
    image_chain: int
    token_reads: float
    image_reads: int


@dataclass(frozen=True)
class Agreement:
    """How far two runs of one model differ.

    Attributes:
        features: largest difference of image features, relative to the largest feature.
        logits: the same of logits.
        best: share of positions with the same most likely token.
        greedy: number of greedy tokens before the first different one, over all answers.
        tokens: number of greedy tokens.
    """

    features: float
    logits: float
    best: float
    greedy: int
    tokens: int

    def is_expected(self, dtype: str) -> bool:
        """Whether the differences are those of rounding in a number type."""
        largest, smallest = EXPECTED[dtype]
        return max(self.features, self.logits) <= largest and self.best >= smallest


def has_gpu() -> bool:
    """Whether MLX computes on a GPU here."""
    return mx.default_device().type == mx.DeviceType.gpu


def observe(model: str, dtype: DType | None) -> dict[str, np.ndarray]:
    """Run a model over the pictures and the text.

    Args:
        model: a folder, a repo id or "demo".
        dtype: as for `load`.

    Returns:
        "features0", "logits0" (float32) and "tokens0" of the first picture, and so on.
    """
    network, processor = load(model, dtype=dtype)
    conversations = sample_conversations()
    found = {}
    for number, messages in enumerate([*conversations[:PICTURES], conversations[-1]]):
        inputs = processor(messages)
        features = None
        if inputs.pixel_values:
            features = network.encode_images(inputs.pixel_values, inputs.spatial_shapes)
            found[f"features{number}"] = np.array(features.astype(mx.float32))
        embeds = network.embed(inputs.input_ids, features)
        hidden = network.language_model(embeds)[0]
        where = np.linspace(0, len(hidden) - 1, min(POSITIONS, len(hidden))).astype(np.int32)
        logits = network.head(hidden[mx.array(where)])
        found[f"logits{number}"] = np.array(logits.astype(mx.float32))
        steps = generate_step(network, embeds, network.make_cache(), draw_greedily, GREEDY_TOKENS)
        found[f"tokens{number}"] = np.array([token.id for token in steps])
    return found


def observe_on_cpu(model: str) -> dict[str, np.ndarray]:
    """Run `observe` in float32 on the CPU path, in a process of its own.

    Raises:
        Lfm2VLError: the process failed.
    """
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "observed.npz"
        run = subprocess.run(
            [sys.executable, "-c", ON_THE_CPU, model, str(target)],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
        )
        if run.returncode:
            last = (run.stderr.strip() or "it said nothing").splitlines()[-1]
            raise Lfm2VLError(f"the CPU path failed: {last}")
        with np.load(target) as values:
            return dict(values)


def count_work(model: str) -> Work:
    """Count kernels and waits, on any machine; without a GPU, the kernels that Metal would have."""
    network, processor = load(model)
    picture, *_, text = sample_conversations()
    inputs = processor(picture)
    token = decode_step(network, Sampling())
    image = image_embeddings(network, inputs.spatial_shapes)
    engine = Engine(network, processor)
    of_image, _ = _waits(engine, picture, 1)
    of_text, _ = _waits(engine, text, 1)
    of_more, tokens = _waits(engine, text, GREEDY_TOKENS)
    return Work(
        dtype=dtype_name(network.vision_tower.post_layernorm.weight.dtype),
        views=len(inputs.spatial_shapes),
        token_kernels=token.kernels.total(),
        token_chain=token.chain,
        image_kernels=image.kernels.total(),
        image_chain=image.chain,
        token_reads=(of_more - of_text) / (tokens - 1) if tokens > 1 else of_text,
        image_reads=of_image - of_text,
    )


def _waits(engine: Engine, messages: list[Message], most: int) -> tuple[int, int]:
    """Return how often the host waits during a greedy answer, and the tokens it waits for."""
    with HostSyncs() as syncs:
        result = engine.generate(messages, max_tokens=most, sampling=Sampling())
    return syncs.total, len(result.token_ids) + (result.finish_reason == "stop")


def compare(ours: Observed, reference: Observed) -> Agreement:
    """Measure the difference between two runs of `observe`."""
    logits = [name for name in reference if name.startswith("logits")]
    tokens = [name for name in reference if name.startswith("tokens")]
    equal = [np.argmax(ours[name], -1) == np.argmax(reference[name], -1) for name in logits]
    return Agreement(
        features=max(_difference(ours, reference, "features")),
        logits=max(_difference(ours, reference, "logits")),
        best=float(np.mean(np.concatenate(equal))),
        greedy=sum(_equal_tokens(ours[name], reference[name]) for name in tokens),
        tokens=sum(len(reference[name]) for name in tokens),
    )


def _difference(ours: Observed, reference: Observed, kind: str) -> list[float]:
    """Return the relative differences of a kind; a number that is none differs infinitely."""
    found = []
    for name in reference:
        if name.startswith(kind):
            error = np.abs(ours[name] - reference[name]).max() / np.abs(reference[name]).max()
            found.append(float(error) if np.isfinite(error) else float("inf"))
    return found


def _equal_tokens(ours: np.ndarray, reference: np.ndarray) -> int:
    shared = min(len(ours), len(reference))
    different = np.flatnonzero(ours[:shared] != reference[:shared])
    return int(different[0]) if len(different) else shared
