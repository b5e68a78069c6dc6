"""Commands that measure, compare or draw, with so little to do that a test need not wait."""

from typing import Any

from mlx_lfm2vl.prompt.template import Message
from mlx_lfm2vl.quantize.drawn_samples import sample_conversations


def lighten(monkeypatch: Any) -> None:
    """Shrink what `benchmark`, `convert` and `train` compute beside their work."""
    stages = "mlx_lfm2vl.speed.stages."
    monkeypatch.setattr(stages + "VECTOR_SIZE", 256)
    monkeypatch.setattr(stages + "MATRIX_BYTES", 2**19)
    monkeypatch.setattr(stages + "SQUARE_ON_CPU", 32)
    monkeypatch.setattr(stages + "SQUARE_ON_GPU", 32)
    monkeypatch.setattr(stages + "CHAIN_SECONDS", 0.001)
    monkeypatch.setattr("mlx_lfm2vl.quantize.loss_report.ANSWER_TOKENS", 6)
    monkeypatch.setattr("mlx_lfm2vl.quantize.study.sample_conversations", _two_conversations)
    monkeypatch.setattr("mlx_lfm2vl.drawing.FINER", 1)


def _two_conversations() -> list[list[Message]]:
    """One about an image, and one without."""
    scene, *_, text = sample_conversations()
    return [scene, text]
