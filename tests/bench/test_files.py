import os

import pytest
import torch

from qact.bench.errors import DamagedFileError
from qact.bench.store.files import load_tensors, save_tensors, write_atomically

TENSORS = {
    "float": torch.randn(3, 4).t(),  # not contiguous
    "half": torch.randn(5).bfloat16(),
    "flag": torch.tensor([True, False]),
    "scalar": torch.tensor(7),
    "empty": torch.zeros(0, 2),
}


def test_tensors_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {"note": "ü"})
    found, notes = load_tensors(path)
    assert notes == {"note": "ü"}
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_every_altered_byte_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {"note": "a"})
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        altered = bytearray(whole)
        altered[position] ^= 1
        path.write_bytes(altered)
        try:
            found, notes = load_tensors(path)
        except DamagedFileError:
            continue
        # Only a blank in the header's padding carries nothing.
        assert notes == {"note": "a"}
        assert all(torch.equal(found[k], v) for k, v in TENSORS.items())


@pytest.mark.parametrize("keep", [0, 1, 8, 100, -1])
def test_truncated_files_are_named_and_kept(tmp_path, keep):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:keep])
    size = path.stat().st_size
    with pytest.raises(DamagedFileError, match=r"x\.safetensors cannot be read"):
        load_tensors(path)
    assert path.stat().st_size == size


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, b"old")

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
