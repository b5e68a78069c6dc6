"""Tests of the demo model import the modules in tools/demo that make it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "demo"))
