"""Cores of the tiny model, and their turns."""

import pytest
from core_clients import Turns

from mlx_lfm2vl import Engine
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.serving.core import Core, Limits
from mlx_lfm2vl.serving.served import Served
from mlx_lfm2vl.serving.under_way import UnderWay


@pytest.fixture
def turns(monkeypatch):
    """Holds back every turn of every core, until the test allows some or frees all."""
    turns, turn = Turns(), UnderWay.turn
    monkeypatch.setattr(UnderWay, "turn", lambda work: (turns.take(), turn(work))[1])
    yield turns
    turns.free()


@pytest.fixture
def make_core(tiny):
    """Makes cores that serve the tiny model under two names, and stops them."""

    def make(**limits):
        def engine():
            opened.append(Engine(*tiny, store=PrefixStore()))
            return opened[-1]

        models = [Served(name, engine, lambda: None) for name in ("tiny", "other")]
        cores.append(Core(models, Limits(**limits)))
        return cores[-1]

    cores, opened = [], []
    yield make
    for core in cores:
        core.stop(0)
