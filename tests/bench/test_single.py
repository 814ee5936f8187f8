import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from qact.bench.store.files import load_tensors, save_tensors
from qact.cli.commands import commands

invoke = CliRunner().invoke

RECIPE = """
activations = ["relu"]
seeds = [0]
[data]
size = 8
[model]
width_multiplier = 0.5
[training]
epochs = 3
batch = 100
ema = 0.9
"""
SHORT = ["--corruption", "contrast", "--severity", "0", "--severity", "5"]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return str(path)


def weights(folder):
    return load_tensors(folder / "weights.safetensors")[0]


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_train_then_evaluate(recipe, tmp_path):
    out = tmp_path / "out"
    found = invoke(commands, ["train", recipe, "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert "epoch 3/3  loss" in found.output
    again = invoke(commands, ["train", recipe, "--out", str(out)])
    assert again.exit_code == 0
    assert "epoch 3/3  loss" not in again.output  # it is there
    assert "was finished by an earlier run: 3 epochs" in again.output
    assert "goes on after" not in again.output
    measured = tmp_path / "measured"
    found = invoke(commands, ["evaluate", str(out), "--out", str(measured), *SHORT])
    assert found.exit_code == 0, found.output
    assert "relu" in found.output
    assert "batch-200" in found.output
    assert len((measured / "results.csv").read_text().splitlines()) == 1 + 2 * 3
    assert "report.html" in {path.name for path in measured.iterdir()}


def test_methods_and_streams_of_one_network(recipe, tmp_path):
    out = tmp_path / "net"
    assert invoke(commands, ["train", str(recipe), "--out", str(out)]).exit_code == 0
    asked = ["--adaptation", "frozen", "--adaptation", "tent-50", "--corruption", "contrast"]
    asked += ["--stream", "iid", "--stream", "mixed", "--severity", "5"]
    found = invoke(commands, ["evaluate", str(out), *asked])
    assert found.exit_code == 0, found.output
    assert "points against the network as trained" in found.output
    assert "mixed" in found.output


def test_the_bench_trains_the_same_network(recipe, tmp_path):
    invoke(commands, ["train", recipe, "--out", str(tmp_path / "one")])
    asked = ["bench", "--recipe", recipe, "--out", str(tmp_path / "two"), "--jobs", "1", *SHORT]
    found = invoke(commands, [*asked, "--adaptation", "frozen"])
    assert found.exit_code == 0, found.output
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two" / "cells" / "relu-0"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--activation", "swosh"], "unknown activation 'swosh'"),
        (["--epochs", "0"], "training: epochs=0 must be at least 1"),
        (["--threads", "0"], "--threads must be 1 to "),
        (["--device", "tpu"], "device must be cpu, cuda or cuda:N"),
        (["--data", "nowhere"], "nowhere"),
        (["--batch", "5000"], "batch 5000 is larger than 1000 training images"),
    ],
)
def test_bad_values_are_one_clear_line(recipe, tmp_path, arguments, message):
    found = invoke(commands, ["train", recipe, "--out", str(tmp_path / "x"), *arguments])
    assert found.exit_code == 2, found.output
    assert message in found.output
    assert "Traceback" not in found.output


def test_more_than_one_network_is_refused(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text('activations = ["relu", "qact"]')
    found = invoke(commands, ["train", str(path), "--out", str(tmp_path / "x")])
    assert found.exit_code == 2
    assert "trains one network, the recipe has 2" in found.output


def test_what_is_no_checkpoint_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    assert "no checkpoint" in invoke(commands, ["evaluate", str(path)]).output
    path.write_bytes(b"nothing of the kind")
    assert "cannot be read" in invoke(commands, ["evaluate", str(path)]).output
    save_tensors(path, {"a": torch.zeros(1)}, {"cell": json.dumps({"data": {}})})
    assert "is no checkpoint of qact train" in invoke(commands, ["evaluate", str(path)]).output


def test_tensorboard_is_asked_for_when_it_is_missing(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    found = invoke(commands, ["train", recipe, "--out", str(tmp_path / "x"), "--tensorboard"])
    assert found.exit_code == 2
    assert 'pip install "qact[tensorboard]", or in a clone' in found.output


def test_tensorboard_files_are_written(recipe, tmp_path):
    pytest.importorskip("tensorboard")
    found = invoke(commands, ["train", recipe, "--out", str(tmp_path / "x"), "--tensorboard"])
    assert found.exit_code == 0, found.output
    assert list((tmp_path / "x" / "tensorboard").glob("events.out.tfevents.*"))


def command(recipe, out):
    return [sys.executable, "-m", "qact.cli", "train", recipe, "--out", str(out), "--threads", "1"]


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace("epochs = 3", "epochs = 40"))
    subprocess.run(command(str(path), tmp_path / "whole"), check=True, capture_output=True)
    cut, kills = tmp_path / "cut", 0
    for pause in (0.05, 0.4, 0.13, 0.7):  # from the first checkpoint of each life
        process = subprocess.Popen(command(str(path), cut), stdout=subprocess.DEVNULL)
        before = (
            set(cut.glob("checkpoint.safetensors"))
            and (cut / "checkpoint.safetensors").stat().st_mtime_ns
        )
        while process.poll() is None:
            begun = cut / "checkpoint.safetensors"
            if begun.exists() and begun.stat().st_mtime_ns != before:
                break
            time.sleep(0.01)
        time.sleep(pause)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    subprocess.run(command(str(path), cut), check=True, capture_output=True)
    assert same(weights(tmp_path / "whole"), weights(cut))
    assert {p.name for p in cut.iterdir()} == {"weights.safetensors"}


@pytest.mark.slow
def test_a_file_system_that_refuses_a_checkpoint_costs_one_epoch(recipe, tmp_path):
    invoke(commands, ["train", recipe, "--out", str(tmp_path / "whole"), "--threads", "1"])

    def limited():  # as a full disk does: every write beyond 20 kB fails
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    out = tmp_path / "full"
    process = subprocess.run(
        command(recipe, out),
        preexec_fn=limited,
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
    )
    assert process.returncode == 2, process.stderr
    assert "checkpoint.safetensors cannot be written: File too large" in process.stderr
    assert "Traceback" not in process.stderr
    assert not list(out.iterdir())
    found = invoke(commands, ["train", recipe, "--out", str(out), "--threads", "1"])
    assert found.exit_code == 0, found.output
    assert same(weights(tmp_path / "whole"), weights(out))
