"""Several processes train as one, and end as one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import make_picture
from training_runs import log_of, losses_of, run, train_command, write_rows

from mlx_lfm2vl.training.batches import UpdateOrder


@pytest.mark.slow
@pytest.mark.parametrize("kind", [[], ["--drafter", "--answer-tokens", "6", "--anchors", "4"]])
def test_two_processes_equal_one_with_twice_the_batch(data, tmp_path, kind):
    launcher = Path(sys.executable).with_name("mlx.launch")
    if not launcher.exists():
        pytest.skip("mlx.launch is not installed")
    options = ["--steps", "4", "--learning-rate", "1e-3", *kind]
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(data, one, *options, "--batch-size", "4") == 0
    launch = [str(launcher), "-n", "2", "--backend", "ring", "--"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(
        [*launch, *train_command(data, two, *options, "--batch-size", "2")],
        check=True,
        capture_output=True,
        env=environment,
        timeout=120,
    )
    np.testing.assert_allclose(losses_of(one), losses_of(two), rtol=1e-4)
    # AdamW's updates hardly depend on the size of the gradients, so losses do not show it.
    one_norms, two_norms = ([entry["grad_norm"] for entry in log_of(o)] for o in (one, two))
    np.testing.assert_allclose(one_norms, two_norms, rtol=1e-3)
    assert len(one_norms) == 4


def run_two_processes(data: Path, folder: Path, *options: str) -> tuple[list[int], list[str]]:
    """Exit codes and errors of two processes, as on two machines: folder/out0 and folder/out1.

    "RANK" in an option is the process's number.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    hosts = [[f"127.0.0.1:{server.getsockname()[1]}"] for server in sockets]
    (folder / "hosts.json").write_text(json.dumps(hosts))
    for server in sockets:
        server.close()
    processes = [
        subprocess.Popen(
            train_command(
                data, folder / f"out{rank}", *[o.replace("RANK", str(rank)) for o in options]
            ),
            env={
                **os.environ,
                "MLX_RANK": str(rank),
                "MLX_HOSTFILE": str(folder / "hosts.json"),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors


@pytest.mark.slow
def test_processes_that_stopped_at_different_updates_do_not_go_on_together(data, tmp_path):
    options = ["--steps", "4", "--save-every", "2", "--resume"]
    assert run_two_processes(data, tmp_path, *options)[0] == [0, 0]
    # The second machine has no checkpoint.
    codes, errors = run_two_processes(data, tmp_path, *options)
    assert codes == [2, 2]
    assert "this one is at update 4, one is at 4" in errors[0]
    assert "this one is at update 0, one is at 4" in errors[1]


# Place in an update: one for each process.
@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1])
def test_a_damaged_image_of_one_process_ends_all_with_a_checkpoint(place, data, tmp_path):
    number = UpdateOrder([1] * 10, 2, seed=1)(3)[place]
    picture = data.parent / f"{number}.png"
    picture.write_bytes(picture.read_bytes()[:-40])
    codes, errors = run_two_processes(data, tmp_path, "--steps", "5")
    assert codes == [2, 2]
    other, met = sorted(errors)
    assert other == "error: another process could not use a conversation\n"
    assert met.startswith(f"error: conversation {number + 1}: ")
    saved = [path.name for path in (tmp_path / "out0" / "checkpoints").iterdir()]
    assert saved == ["step-0000003"]


@pytest.mark.slow
def test_a_validation_image_damaged_on_one_machine_ends_all_with_a_checkpoint(data, tmp_path):
    for rank in range(2):
        picture = data.parent / f"validation{rank}.png"
        make_picture(20, 20, 1).save(picture)
        row = {"image": picture.name, "prompt": "Which?", "answer": "no. 1"}
        write_rows(tmp_path / f"validation{rank}.jsonl", [row])
    picture.write_bytes(picture.read_bytes()[:-40])
    validation = ["--validation", str(tmp_path / "validationRANK.jsonl"), "--validate-every", "2"]
    codes, errors = run_two_processes(data, tmp_path, "--steps", "5", *validation)
    assert codes == [2, 2]
    assert errors[0].endswith("error: another process could not use a conversation\n")
    assert errors[1].startswith("error: validation conversation 1: ")
    saved = [path.name for path in (tmp_path / "out0" / "checkpoints").iterdir()]
    assert saved == ["step-0000002"]
