"""Damaged adapters are applied or refused by a documented error, quickly."""

import functools
import json
import random
import shutil
from pathlib import Path

from adapter_cases import ADAPTERS, CASES
from conftest import golden
from mutations import damage_bytes, damage_json, seeds
from training_runs import TINY, run

from mlx_lfm2vl.checkpoint.config import read_model_config
from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.loading import load_model
from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.training.adapters import load_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
PEFT_WEIGHTS = "adapter_model.safetensors"


@functools.cache
def settings_of(folder: Path) -> tuple:
    """What a model is built from beside its weights; it is the same for every damage."""
    return read_model_config(folder), Processor.from_folder(folder)


@seeds(60, 5_000)
def test_damaged_adapters_are_applied_or_refused(data, tmp_path, bounds, cases):
    whole = tmp_path / "whole"
    assert run(data, whole, "--steps", "1", "--parts", "connector") == 0
    damaged, refused = tmp_path / "damaged", 0
    damaged.mkdir()
    for case in range(cases):
        draw = random.Random(case)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(whole / name, damaged / name)
        name = draw.choice((CONFIG, CONFIG, WEIGHTS))
        content = (whole / name).read_bytes()
        if name == CONFIG and draw.random() < 0.8:
            values = json.loads(content)
            damage_json(values, draw)
            (damaged / name).write_text(json.dumps(values))
        else:
            at = 600 if name == WEIGHTS else len(content)  # the header matters
            (damaged / name).write_bytes(damage_bytes(content[:at], draw) + content[at:])
        model = load_model(TINY, *settings_of(TINY))
        with bounds.case(f"{case}: {name}"):
            try:
                load_adapter(model, damaged)
            except (CheckpointError, InputError):
                refused += 1
    assert refused > cases // 3


@seeds(60, 2_000)
def test_damaged_adapters_of_peft_are_applied_or_refused(tmp_path, bounds, cases):
    """The same for the files of PEFT, one kind of adapter after the other."""
    names, refused = sorted(CASES), 0
    for case in range(cases):
        draw = random.Random(case)
        whole = ADAPTERS / names[case % len(names)]
        damaged = shutil.copytree(whole, tmp_path / "damaged", dirs_exist_ok=True)
        name = draw.choice((CONFIG, CONFIG, PEFT_WEIGHTS))
        content = (whole / name).read_bytes()
        if name == CONFIG and draw.random() < 0.8:
            values = json.loads(content)
            damage_json(values, draw)
            (damaged / name).write_text(json.dumps(values))
        else:
            at = 600 if name == PEFT_WEIGHTS else len(content)
            (damaged / name).write_bytes(damage_bytes(content[:at], draw) + content[at:])
        base = golden(CASES[whole.name]["base"]).folder
        model = load_model(base, *settings_of(base))
        with bounds.case(f"{case}: {name} of {whole.name}"):
            try:
                load_adapter(model, damaged)
            except (CheckpointError, InputError):
                refused += 1
    assert refused > cases // 4
