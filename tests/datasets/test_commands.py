"""``qact corrupt`` and ``qact download`` from the command line."""

import numpy as np
from typer.testing import CliRunner

from qact.cli.commands import commands
from qact.corruptions.registry import CORRUPTIONS
from qact.datasets.registry import DATASETS


def run(*arguments):
    result = CliRunner().invoke(commands, [str(a) for a in arguments])
    return result.exit_code, result.output


def test_corrupt_writes_and_goes_on(tmp_path):
    request = ("corrupt", "--data", "digits", "--size", 12, "--limit", 7, "--out", tmp_path)
    code, said = run(*request, "--corruption", "fog")
    assert code == 0
    assert "1 corruptions of 7 images, 5 severities" in said
    assert np.load(tmp_path / "fog.npy").shape == (35, 12, 12, 1)
    before = (tmp_path / "fog.npy").stat().st_mtime_ns
    assert run(*request, "--corruption", "fog", "--corruption", "contrast")[0] == 0
    assert (tmp_path / "fog.npy").stat().st_mtime_ns == before
    assert (tmp_path / "contrast.npy").is_file()


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("QACT_DATA", raising=False)
    digits = ("corrupt", "--data", "digits", "--out", tmp_path)
    for request, said in (
        ((*digits, "--corruption", "foog"), "unknown corruption 'foog'; did you mean 'fog'"),
        ((*digits, "--size", 0), "size must be a positive integer"),
        ((*digits, "--limit", -5), "--limit"),
        ((*digits, "--device", "tpu7"), "device must be cpu, cuda or cuda:N, and here; got 'tpu7'"),
        (("corrupt", "--data", "cifar10", "--out", tmp_path), "QACT_DATA"),
        (("download", "cifar", tmp_path), "unknown data set 'cifar'; did you mean 'cifar10"),
    ):
        code, output = run(*request)
        assert code == 2
        assert said in output
        assert "Traceback" not in output


def test_corrupt_takes_what_a_module_registers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_dark_room.py").write_text(
        "import numpy as np\n"
        "from qact import corruptions, datasets\n"
        "@corruptions.register('dim', paper='mine', constants=[0.9, 0.8, 0.7, 0.6, 0.5])\n"
        "def dim(x, factor, draws):\n"
        "    return x * factor\n"
        "@datasets.register('white', paper='mine', sized=True)\n"
        "def white(root, size, limit):\n"
        "    images = np.full((40, size, size), 255, np.uint8)\n"
        "    return datasets.from_arrays((images, np.arange(40) % 2), name='white')\n"
    )
    request = ("corrupt", "--data", "white", "--size", 4, "--out", tmp_path / "out")
    try:
        code, said = run(*request, "--corruption", "own", "--import", "my_dark_room")
        assert code == 0, said
        assert np.load(tmp_path / "out" / "dim.npy")[-1].ravel().tolist() == [128] * 16
    finally:
        CORRUPTIONS.remove("dim")
        DATASETS.remove("white")


def test_corrupt_knows_the_groups_of_the_bench(tmp_path):
    request = ("corrupt", "--data", "digits", "--size", 4, "--limit", 2, "--out", tmp_path)
    assert run(*request, "--corruption", "holdout")[0] == 0
    written = {path.stem for path in tmp_path.glob("*.npy")}
    assert written == {"labels", "speckle_noise", "gaussian_blur", "spatter", "saturate"}
