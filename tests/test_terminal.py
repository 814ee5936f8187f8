"""The commands print on terminals that are narrow, not of Unicode, or half closed."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console
from rich.table import Table

from qact.cli import standard
from qact.terminal import print_whole


def printed(columns, words):
    table = Table(box=None, pad_edge=False)
    for head in ("relu", "shifted", "step"):
        table.add_column(head, no_wrap=True)
    table.add_column("paper")
    table.add_row("  * relu", "13.25±0.4", "0.15", words)
    console = Console(width=columns, file=io.StringIO())
    print_whole(table, console)
    return console.file.getvalue()


@pytest.mark.parametrize("columns", [1, 10, 20, 33, 80])
def test_no_cell_is_cut(columns):
    text = printed(columns, "Nair and Hinton")
    for cell in ("  * relu", "13.25±0.4", "0.15", "Nair", "and", "Hinton", "shifted"):
        assert cell in text
    assert "…" not in text


def test_a_table_that_fits_is_not_stretched():
    assert max(map(len, printed(80, "Nair and Hinton").splitlines())) <= 80
    assert printed(80, "of " * 40).count("of") == 40


def test_letters_that_an_encoding_lacks_are_others(monkeypatch):
    ascii_stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_stream)
    standard.take_any_terminal()
    print("◆ relu 97.3±0.4 – −1 ▁▇█ é")
    ascii_stream.flush()
    assert ascii_stream.buffer.getvalue() == b"* relu 97.3+-0.4 - -1 178 ?\n"


@pytest.mark.parametrize(("said", "kept"), [("0", None), ("1", None), ("40", "40"), ("", "")])
def test_a_width_of_nothing_is_none(monkeypatch, said, kept):
    monkeypatch.setenv("COLUMNS", said)
    standard.take_any_terminal()
    assert os.environ.get("COLUMNS") == kept


@pytest.mark.skipif(sys.platform == "win32", reason="numbers of files are POSIX")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_error(closed):
    command = f'"{sys.executable}" -m qact.cli --version {closed}'
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("qact ") or " >&-" in f" {closed}"
