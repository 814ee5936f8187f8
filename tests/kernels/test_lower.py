"""Lowering in several processes: what they made is put together, whole or not at all."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from qact.kernels.cpu import ahead, gauss, lanes, lower, row_rank, simplex


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_without_torch_a_process_lowers_its_share_to_the_same_bytes(tmp_path):
    names = ["row_rank.ranks", "simplex.backward", "block.forward_kernel"]  # the last: another's
    command = [sys.executable, "-m", "qact.kernels.cpu.lower", str(tmp_path / "there")]
    share = ["--share", str(len(lower.SHARES)), "--names", *names]
    subprocess.run([*command, *share], check=True)
    lower.write(tmp_path / "here", [row_rank._ranks, simplex._backward], lanes.KIND)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert len(contents(tmp_path / "here")) == 3


def test_tables_that_are_made_without_torch_are_those_of_torch():
    places = torch.arange(5 * gauss.STEP, dtype=torch.float64) / gauss.STEP
    assert abs(torch.special.ndtr(places).numpy() - gauss.PHI).max() < 2**-52
    places = torch.from_numpy(gauss._places.astype(np.float64))
    assert (torch.special.ndtri(places).float().numpy() == gauss.SCORE).all()


def lowered(folder, **texts):
    """A folder as a process leaves it."""
    folder.mkdir(parents=True)
    kernels = {name.replace("_", "."): f"enter {name}" for name in texts}
    for name, text in texts.items():
        path = folder / f"{name.replace('_', '.')}.ll.xz"
        path.write_bytes(lzma.compress(text.encode()))
    lower._tell(folder, kernels)
    return folder


@pytest.mark.skipif(list(lanes.KINDS) != ["avx2", "avx512"], reason="of x86-64 alone")
def test_kernels_of_vectors_are_lowered_per_kind_and_kept_where_kinds_differ(tmp_path, monkeypatch):
    asked = []

    def processes(place, kind, names):
        asked.append((kind, names))
        if kind == "avx2":
            first = lowered(place / "1", plain="p", same_avx2="s", other_avx2="o")
            return [first, lowered(place / "2", more="m")]
        return [lowered(place / "3", same_avx512="s", other_avx512="wider")]

    monkeypatch.setattr(lower, "_by_processes", processes)
    found = lower.lower(tmp_path / "lowered", ["avx2", "avx512"])
    assert asked == [("avx2", []), ("avx512", ["other", "same"])]
    assert found == ["more", "other.avx2", "other.avx512", "plain", "same.avx2"]
    told = json.loads((tmp_path / "lowered" / "contents.json").read_text())
    assert told["kernels"]["other.avx512"] == "enter other_avx512"
    assert told["sources"] == ahead.sources()
    assert {*contents(tmp_path / "lowered")} == {f"{one}.ll.xz" for one in found} | {
        "contents.json"
    }
    assert [path.name for path in tmp_path.iterdir()] == ["lowered"]


@pytest.mark.parametrize("how", [KeyboardInterrupt, subprocess.CalledProcessError(1, "share")])
def test_what_was_there_stays_where_lowering_is_interrupted(tmp_path, monkeypatch, how):
    def processes(place, kind, names):
        lowered(place / "1", plain="half of it")
        raise how

    monkeypatch.setattr(lower, "_by_processes", processes)
    lowered(tmp_path / "lowered", plain="before")
    before = contents(tmp_path / "lowered")
    with pytest.raises(how if isinstance(how, type) else type(how)):
        lower.lower(tmp_path / "lowered", [lanes.KIND])
    assert contents(tmp_path / "lowered") == before
    assert [path.name for path in tmp_path.iterdir()] == ["lowered"]


def test_a_share_that_fails_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(lower.sys, "executable", "/bin/false" if lower.os.name == "posix" else "no")
    with pytest.raises((subprocess.CalledProcessError, OSError)):
        lower.lower(tmp_path / "lowered", [None])
    assert [*tmp_path.iterdir()] == []
