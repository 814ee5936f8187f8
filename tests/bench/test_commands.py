import subprocess
import sys

import pytest
from torch import nn
from typer.testing import CliRunner

from qact.bench import Rival
from qact.cli.commands import commands

invoke = CliRunner().invoke


@pytest.fixture
def small(monkeypatch, tiny):
    """Make the default recipe the tiny one, without processes."""
    monkeypatch.setattr("qact.bench.recipe.recipe.Recipe", lambda: tiny)
    return tiny


def test_bench_then_report(small, tmp_path):
    out = tmp_path / "deep" / "er"
    found = invoke(commands, ["bench", "--out", str(out), "--jobs", "1"])
    assert found.exit_code == 0, found.output
    assert "strongest control: relu" in found.output
    assert {path.name for path in out.iterdir()} >= {"results.json", "results.csv", "report.html"}
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    again = invoke(commands, ["report", str(out)])
    assert again.exit_code == 0
    assert (out / "report.html").read_text() == page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--activation", "swosh"], "unknown activation 'swosh'; did you mean "),
        (["--data", "nowhere"], "nowhere"),
        (["--loss", "hinge"], "unknown loss 'hinge'; "),
        (["--corruption", "haze"], "unknown corruption 'haze'"),
        (["--adaptation", "batch-x"], "got 'batch-x'"),
        (["--adaptation", "tents-64"], "unknown method 'tents'; did you mean 'tent'"),
        (["--adaptation", "tent:rate=1-64"], "'tent' has no option 'rate'; it has"),
        (["--augmentation", "mixup"], "training: unknown augmentation 'mixup'; "),
        (["--adaptation", "batch-999"], "batch-999 needs 999 test images"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--epochs", "0"], "training: epochs=0 must be at least 1"),
        (["--model", "vit"], "model: unknown model 'vit'; did you mean 'vit_tiny'?"),
        (["--width", "0"], "model: width_multiplier=0.0 must be a positive number"),
        (["--placement", "nowhere"], "unknown placement 'nowhere'; "),
        (["--preset", "best"], "unknown preset 'best'; "),
        (["--severity", "6"], "shift: severities=6 must be 0 (clean) to 5"),
        (["--stream", "backwards"], "unknown stream 'backwards'; "),
        (["--batch", "1"], "training: batch=1 must be at least 2"),
        (["--lr", "-1"], "training: lr=-1.0 must be a positive number"),
        (["--precision", "float16"], "unknown precision 'float16'; did you mean 'bfloat16'"),
        (["--limit", "0"], "limit"),
        (["--device", "gpu"], "device must be cpu, cuda or cuda:N, got 'gpu'"),
        (["--device", "cuda:99"], "device 'cuda:99' is not here"),
        (["--recipe", "no.toml"], "qact: no.toml: no such file or directory"),
        (["--epochs", "many"], "--epochs"),
        (["--jobs", "0"], "jobs must be at least 1, got 0"),
        (["--import", "no_such_module"], "No module named 'no_such_module'"),
    ],
)
def test_bad_values_are_one_clear_line(small, tmp_path, arguments, message):
    found = invoke(commands, ["bench", "--out", str(tmp_path / "x"), *arguments])
    assert found.exit_code == 2
    assert message in found.output
    assert "Traceback" not in found.output


def test_a_report_of_nothing_is_one_clear_line(tmp_path):
    found = invoke(commands, ["report", str(tmp_path)])
    assert found.exit_code == 2
    assert "results.json" in found.output


def test_list_names_what_can_be_asked_for():
    found = invoke(commands, ["list"])
    assert found.exit_code == 0
    for name in ("relu", "qact.paper", "gaussian_noise", "digits", "batch-N", "rotta", "gradual"):
        assert name in found.output


WITHOUT = """
import sys
sys.modules[sys.argv.pop(1)] = None  # as if it were not installed
from qact.cli import app
app()
"""


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(package):
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT, package, "list"], capture_output=True, text=True
    )
    assert process.returncode == 2
    assert 'pip install "qact[bench]"' in process.stderr
    assert "Traceback" not in process.stderr


def test_any_loss_can_be_asked_for(small, tmp_path):
    asked = ["bench", "--loss", "watershed", "--out", str(tmp_path), "--jobs", "1"]
    found = invoke(commands, asked)
    assert found.exit_code == 0, found.output
    assert ",watershed," in (tmp_path / "results.csv").read_text()
    listed = invoke(commands, ["list"]).output
    assert "triplet_watershed" in listed


@pytest.mark.parametrize("command", [["bench"], ["train", "--epochs", "1"]])
def test_a_file_where_results_belong_is_one_line(command, small, tmp_path):
    (tmp_path / "taken").write_text("mine")
    for out in (tmp_path / "taken", tmp_path / "taken" / "runs"):
        found = invoke(commands, [*command, "--out", str(out)])
        assert found.exit_code == 2
        assert f"qact: {out} cannot be made a folder: " in found.output
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_one_line(small, tmp_path):
    (tmp_path / ".lock").mkdir()  # root may write everywhere, but not here
    found = invoke(commands, ["bench", "--out", str(tmp_path)])
    assert found.exit_code == 2
    assert f"qact: {tmp_path} cannot be written: " in found.output


def test_the_report_of_a_file_is_one_line(tmp_path):
    (tmp_path / "taken").write_text("mine")
    found = invoke(commands, ["report", str(tmp_path / "taken")])
    assert found.exit_code == 2
    assert found.output.startswith("qact: ")


def test_when_every_network_fails_the_reason_is_said(small, tmp_path, register):
    class Broken(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError("no luck")

    register(Rival("broken", lambda channels: Broken(), "none"))
    arguments = ["bench", "--activation", "broken", "--jobs", "1", "--out", str(tmp_path)]
    found = invoke(commands, arguments)
    assert found.exit_code == 2
    assert "broken/0: ZeroDivisionError: no luck" in found.output
    assert "no measurements" not in found.output
