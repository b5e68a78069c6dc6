"""What a fresh Python process does, seen from a test."""

import subprocess
import sys

HEAVY = ["torch", "transformers", "mlx_lm", "huggingface_hub"]


def modules_after(code: str) -> set[str]:
    """Which of the modules worth watching are loaded after running code in a fresh process."""
    watched = [*HEAVY, "mlx", "numpy", "PIL", "tokenizers", "jinja2"]
    report = f"\nimport sys; print('LOADED', *[m for m in {watched} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.strip().splitlines()[-1].split()[1:])
