"""What goes wrong at the keyboard is one line that says what is right; never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from qact.bench import Data, Shift
from qact.bench.data import load_inputs
from qact.bench.errors import RecipeError
from qact.bench.store.files import save_tensors
from qact.cli.commands import commands

RANDOM = np.random.default_rng(0)


def qact(*arguments):
    found = CliRunner().invoke(commands, [str(argument) for argument in arguments])
    assert "Traceback" not in found.output
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, found.output


@pytest.fixture
def npz(tmp_path):
    """Write an .npz file of 60 images; return its path."""

    def write(labels, dtype=np.uint8, **more):
        images = RANDOM.integers(0, 256, (len(labels), 8, 8)).astype(dtype)
        path = tmp_path / "mine.npz"
        np.savez(path, train_images=images, train_labels=labels, **more)
        return path

    return write


CLASSES = np.arange(60) % 3


@pytest.mark.parametrize("command", ["bench", "train", "corrupt"])
@pytest.mark.parametrize(
    ("labels", "dtype", "said"),
    [
        (np.array(["cat", "dog"] * 30), np.uint8, "must be integers, got <U3, as 'cat'; number"),
        (CLASSES.astype(float), np.uint8, "must be integers, got float64, as 0.0; number"),
        (CLASSES.astype(bool), np.uint8, "must be integers, got bool, as False; number"),
        (CLASSES.astype(complex), np.uint8, "must be integers, got complex128"),
        (CLASSES, np.int64, "got int64; they lie in 0 to 255: images.astype(np.uint8)"),
        (CLASSES, np.int16, "got int16; they lie in 0 to 255: images.astype(np.uint8)"),
        (CLASSES.astype(object), np.uint8, "Python objects (pickles) are never loaded"),
        (np.where(np.arange(60) == 7, 200_000, CLASSES), np.uint8, "reach 200000, but only 4 of"),
        (np.where(np.arange(60) == 7, 40, CLASSES), np.uint8, "but only 4 of these 41 classes"),
        (CLASSES - 1, np.uint8, "must not be negative, got -1"),
    ],
)
def test_arrays_that_are_no_data_set(npz, tmp_path, command, labels, dtype, said):
    path = npz(labels, dtype)
    code, output = qact(command, "--data", path, "--out", tmp_path / "out")
    assert code == 2
    assert said in output
    assert "allow_pickle" not in output


@pytest.mark.parametrize("content", [b"", b"no arrays", b"PK\x03\x04 cut", b"\x80\x04N."])
def test_a_file_that_is_no_npz_gets_no_advice_to_unpickle(tmp_path, content):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    code, output = qact("bench", "--data", path, "--out", tmp_path / "out")
    assert code == 2
    assert f"{path} cannot be read as arrays: " in output
    assert "pickled" not in output
    assert "allow_pickle" not in output


def test_one_class_is_no_task_and_gaps_among_classes_are_allowed(npz):
    with pytest.raises(RecipeError, match="all training images are of one class, '0'"):
        load_inputs(Data(str(npz(np.zeros(60, int)))))
    load_inputs.cache_clear()
    with pytest.raises(RecipeError, match="all training images are of one class, 'cat'"):
        load_inputs(Data(str(npz(np.ones(60, int), class_names=np.array(["dog", "cat"])))))
    load_inputs.cache_clear()
    assert load_inputs(Data(str(npz(2 * CLASSES)))).num_classes == 5  # three of five
    load_inputs.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "--width", "1e9"], "width_multiplier=1000000000.0 makes a network too large"),
        (["train", "--width", "1e5"], "GB of memory, this machine has"),
        (["corrupt", "--data", "digits", "--size", "100000"], "size=100000 for 1797 images needs"),
        (["corrupt", "--data", "no/where"], "no folder no/where"),
        (["corrupt", "--data", "nowhere"], "unknown data set 'nowhere'; "),
        (["evaluate", "no.safetensors"], "no checkpoint no.safetensors"),
        (["bench", "--recipe", "no.toml"], "qact: no.toml: no such file or directory"),
        (["report", "no"], "qact: no/results.json: no such file or directory"),
    ],
)
def test_sizes_and_names_that_cannot_be(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = qact(*arguments, *(["--out", "x"] if arguments[0] != "report" else []))
    assert code == 2
    assert said in output
    assert "Errno" not in output


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    there = tmp_path / "file" / "x"
    for arguments in (
        ["corrupt", "--data", "digits", "--size", 4, "--out", there],
        ["download", "cifar10", there],
        ["bench", "--faults", "--out", there],
    ):
        code, output = qact(*arguments)
        assert code == 2
        assert "not a directory" in output.lower()
        assert "Errno" not in output


def test_pictures_in_a_folder_beside(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    for k in range(40):
        folder = tmp_path / "mine" / f"class{k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image.fromarray(RANDOM.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(
            folder / f"{k}.png"
        )
    monkeypatch.chdir(tmp_path)
    assert load_inputs(Data("mine")).sizes() == {"train": 29, "val": 3, "test": 8}
    asked = ["bench", "--data", "mine", "--activation", "relu", "--seeds", 1, "--epochs", 1]
    asked += ["--batch", 10, "--width", 0.25, "--severity", 0, "--jobs", 1]
    code, output = qact(*asked)
    assert code == 0, output
    assert "8 test images: adaptations frozen, batch-8 instead of frozen, batch-200, bat" in output
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    code, output = qact(*asked, "--adaptation", "batch-200")  # what is asked for is not changed
    assert code == 2
    assert "batch-200 needs 200 test images, there are 8" in output
    load_inputs.cache_clear()


def test_default_batches_fit_the_test_set():
    assert Shift().fitted(500) == Shift()
    assert Shift().fitted(24).adaptations == ("frozen", "batch-24", "batch-16")
    assert Shift().fitted(7).adaptations == ("frozen", "batch-7")
    tuned = Shift(adaptations=("tent:lr=1e-3-64",))
    assert tuned.fitted(10).adaptations == ("tent:lr=1e-3-10",)


def test_a_training_batch_fits_three_pictures(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    for k, name in enumerate("aab"):
        (tmp_path / "three" / name).mkdir(parents=True, exist_ok=True)
        pixels = RANDOM.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        image.fromarray(pixels).save(tmp_path / "three" / name / f"{k}.png")
    monkeypatch.chdir(tmp_path)
    small = ["--data", "three", "--epochs", 1, "--width", 0.25]
    bench = ["bench", *small, "--activation", "relu", "--seeds", 1, "--severity", 0, "--jobs", 1]
    for asked in (["train", *small], bench, [*bench, "--preset", "paper", "--out", "p"]):
        code, output = qact(*asked)
        assert code == 0, output
        usual = 128 if "paper" in asked else 50
        assert f"2 training images: batches of 2 instead of {usual}\n" in output
        blind = "no validation images: the last epoch instead of training.select='best'\n"
        assert (blind in output) == ("paper" in asked)
    code, output = qact(*bench, "--batch", 60, "--out", "b")  # what is asked for is not changed
    assert code == 2
    assert "batch 60 is larger than 2 training images" in output
    load_inputs.cache_clear()


def test_a_report_names_the_path_that_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npz").write_text("mine")
    code, output = qact("report", "text.npz")
    assert code == 2
    assert output == "qact: text.npz is a file; a bench is a folder with results.json\n"


COMMANDS = ["bench", "train", "evaluate", "report", "list", "corrupt", "download"]


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_at_80_columns_leaves_command_lines_whole(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = qact(*[command] * (command is not None), "--help")[1].splitlines()
    assert not [line for line in lines if len(line) > 80 or line.count("`") % 2]
    if command is None:  # a line for each, not cut
        said = [line for line in lines if line.startswith(tuple(f"  {name} " for name in COMMANDS))]
        assert len(said) == len(COMMANDS)
        assert not [line for line in said if line.endswith("...")]
    if command == "train":
        assert "    torchrun --nproc-per-node 2 -m qact.cli train recipe.toml" in lines


@pytest.mark.parametrize("command", ["bench", "train", "corrupt"])
def test_help_names_folders_and_arrays(command):
    output = " ".join(qact(command, "--help")[1].split())
    assert "folder" in output
    assert ".npz" in output


def test_advice_is_given_where_it_helps(tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"damaged")
    code, output = qact("evaluate", tmp_path)
    assert code == 2
    assert f"{weights} cannot be read" in output
    assert "same command" not in output
    (tmp_path / "results.json").write_text("damaged")
    code, output = qact("report", tmp_path)
    assert code == 2
    assert "is damaged" in output
    assert "same command" not in output
    code, output = qact("bench", "--out", tmp_path)
    assert code == 2
    assert "the trained weights beside it are kept" in output.replace("\n", " ")


def test_weights_of_something_else(tmp_path):
    import torch

    save_tensors(tmp_path / "weights.safetensors", {"x": torch.ones(1)}, {"cell": json.dumps(3)})
    code, output = qact("evaluate", tmp_path)
    assert code == 2
    assert "is no checkpoint of qact train" in output


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["numpy"] = None  # an import of them would raise
from qact.cli import app
app()
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, "qact "),
        (["--help"], 0, "download"),
        (["bench", "--help"], 0, "--adaptation"),
        (["bench", "--widht", "2"], 2, "--width"),
        (["bench", "--epochs", "many"], 2, "'--epochs': 'many' must be a whole number"),
        (["bench", "--severity", "1", "--severity", "1.5"], 2, "'1.5' must be a whole number"),
        (["train", "--lr", "1e"], 2, "'1e' must be a number"),
        (["corrupt", "--limit", "x", "--out", "o"], 2, "'x' must be a whole number"),
        (["monitor", "watch", "--every", "soon", "x"], 2, "'soon' must be a number"),
        (
            ["bench", "--data", "", "--epochs", "1"],
            2,
            "qact: nothing follows --data; is a variable",
        ),
        (["bench", "--out="], 2, "qact: nothing follows --out=; is a variable"),
        (["train", "--import", ".mine"], 2, "--import takes the dotted name of a module"),
        (["benhc"], 2, "No such command 'benhc'"),
        (["corrupt"], 2, "--out"),
    ],
)
def test_help_and_mistyped_options_need_no_torch(arguments, code, said):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["bench", "--help"]])
def test_a_full_disk_and_a_pipe_that_is_closed_leave_no_traceback(arguments):
    ours = [sys.executable, "-c", "from qact.cli import app; app()", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(ours, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode in (1, 2)
    assert done.stderr == "qact: no space left on device\n"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(ours, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_numbers_that_no_machine_takes(npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["train", "--data", npz(CLASSES), "--model", "mlp", "--epochs", 1]
    for option, value, said in (
        ("--threads", 100_000, "--threads must be 1 to "),  # torch ends the process there
        ("--seed", 2**63, f"seeds={2**63} must be below 2^63"),
        ("--import", "mine.py", "got the file 'mine.py'; write 'mine'"),
    ):
        (tmp_path / "mine.py").write_text("")
        code, output = qact(*asked, option, value)
        assert code == 2
        assert said in output
    code, output = qact("corrupt", "--data", "digits", "--out", "x", "--on", "processes:0")
    assert code == 2
    assert "qact: processes:N takes a number from 1, got '0'" in output


def test_images_that_are_no_squares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = RANDOM.integers(0, 256, (60, 8, 5)).astype(np.uint8)
    np.savez("flat.npz", train_images=images, train_labels=CLASSES)
    asked = ["train", "--data", "flat.npz", "--epochs", 1, "--activation", "relu", "--width", 0.25]
    code, output = qact(*asked, "--model", "mlp")
    assert code == 2
    assert "model 'mlp': image_size=(8, 5): 'mlp' takes square images alone" in output
    assert qact(*asked, "--model", "resnet_small")[0] == 0
    load_inputs.cache_clear()


BENCH = ["bench", "--model", "mlp", "--epochs", 1, "--seeds", 1, "--width", 0.25, "--jobs", 1]
BENCH += ["--corruption", "contrast", "--severity", 1, "--adaptation", "frozen", "--out", "b"]


def test_numbers_of_other_images_stand_in_no_table(npz, tmp_path, monkeypatch):
    """The same path, and an array that was made anew, with other labels or other images."""
    monkeypatch.chdir(tmp_path)

    def at_work(*arguments):
        load_inputs.cache_clear()
        return qact(*arguments)

    state = RANDOM.bit_generator.state
    data = ["--data", npz(CLASSES)]
    assert at_work(*BENCH, *data, "--activation", "relu")[0] == 0
    assert at_work("train", *data, "--model", "mlp", "--epochs", 1, "--out", "t")[0] == 0
    for labels, anew in (((CLASSES + 1) % 3, False), (CLASSES, True)):
        if not anew:
            RANDOM.bit_generator.state = state  # the same images
        npz(labels)
        code, output = at_work(*BENCH, *data, "--activation", "elu")
        assert code == 2
        assert "has other images or labels than when b was measured" in output
        for command in (["train", *data, "--model", "mlp", "--epochs", 1, "--out", "t"],):
            code, output = at_work(*command)
            assert code == 2
            assert "was trained on other images or labels than" in output
        assert at_work("evaluate", "t", "--severity", 1)[0] == 2
    RANDOM.bit_generator.state = state
    npz(CLASSES)
    assert at_work(*BENCH, *data, "--activation", "elu")[0] == 0
    before = (tmp_path / "b" / "results.json").read_bytes()
    code, output = at_work("evaluate", "t", "--severity", 1, "--adaptation", "frozen", "--out", "b")
    assert code == 2  # a bench's measurements would be lost
    assert "b holds 2 other measurements" in output
    assert (tmp_path / "b" / "results.json").read_bytes() == before
    assert not list((tmp_path / "b").glob(".lock"))
    load_inputs.cache_clear()
