"""Two processes on a CPU (gloo) train one network: its weights, its files, and its interruption."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from qact.bench.errors import RecipeError
from qact.bench.store.files import load_tensors
from qact.bench.train.distributed import Ranks

# With contexts and norms synchronised two processes are one, up to rounding.
RECIPE = """
activations = ["qact"]
seeds = [0]
[data]
size = 28
limit = 200
[model]
name = "lenet"
width_multiplier = 0.25
[training]
epochs = EPOCHS
batch = 100
optimizer = "sgd"
lr = 0.02
"""


# What torch calls the threads of gloo that may ask for the interpreter's lock.
LEAVES = """
import os, sys
import torch
from qact.bench.train.distributed import joined

def train(ranks):
    module = ranks.wrapped(torch.nn.Linear(2, 2))
    module(torch.ones(3, 2)).sum().backward()

def threads():
    names = (open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task"))
    return sum("gloo_runloop" in name for name in names)

with joined("cpu") as (ranks, _):
    train(ranks)
    before = threads()
print(before, threads())
"""


def start(folder, out, size, epochs=2):
    """Start a training in the processes that torchrun would start."""
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.toml"
    path.write_text(RECIPE.replace("EPOCHS", str(epochs)))
    return launch(size, "-m", "qact.cli", "train", str(path), "--out", str(out), "--threads", "1")


def launch(size, *arguments):
    """Start Python as often as torchrun would, and as it would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(processes):
    said = [process.communicate(timeout=900) for process in processes]
    assert all(process.returncode == 0 for process in processes), said
    return said


def weights(folder):
    return load_tensors(folder / "weights.safetensors")[0]


@pytest.mark.slow
def test_two_processes_are_one_with_the_joined_batch(tmp_path):
    finish(start(tmp_path, tmp_path / "one", 1))
    said = finish(start(tmp_path, tmp_path / "two", 2))
    assert "epoch 2/2" in said[0][0]
    assert said[1][0] == ""  # the first one speaks for all
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        if name.endswith("context.mass"):  # rounding may move a grid by a bin, but no value is lost
            assert torch.equal(value.sum(1), two[name].sum(1)), name
        elif not name.endswith(("context.offset", "context.moment")):
            assert torch.allclose(value.double(), two[name].double(), atol=5e-3), name


@pytest.mark.slow
def test_two_killed_processes_end_with_the_same_bits(tmp_path):
    finish(start(tmp_path, tmp_path / "whole", 2, epochs=6))
    processes = start(tmp_path, tmp_path / "cut", 2, epochs=6)
    for line in processes[0].stdout:
        if "epoch 2/6" in line:
            break
    for process in processes:
        process.kill()
        process.communicate()
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    finish(start(tmp_path, tmp_path / "cut", 2, epochs=6))
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of threads from /proc")
def test_no_thread_of_the_group_outlives_it():
    # One that does may abort the process at its end, with everything done (pytorch#190489).
    for said, _ in finish(launch(2, "-c", LEAVES)):
        before, after = map(int, said.split())
        assert before > 0
        assert after == 0


def test_a_batch_is_shared_out_completely_and_only_evenly():
    batch = torch.arange(6)
    shares = [Ranks(rank, 3).share(batch).tolist() for rank in range(3)]
    assert [index for share in shares for index in share] == list(range(6))
    with pytest.raises(RecipeError, match=r"training\.batch 6 does not divide among 4 processes"):
        Ranks(0, 4).share(batch)


def test_one_process_alone_changes_nothing(tmp_path):
    ranks, module = Ranks(), torch.nn.Linear(1, 1)
    assert ranks.wrapped(module) is module
    assert ranks.mean([1.0, 2.0]) == [1.0, 2.0]
    with ranks.read(tmp_path / "none") as path:
        assert path is None
