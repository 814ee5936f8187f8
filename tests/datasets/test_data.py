"""Data sets: splits that stay as they are, and files that are held against their checksums."""

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import sys
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from qact.datasets.formats import checked_bytes, parse_idx, unpickle
from qact.datasets.registry import DATASETS, names
from qact.datasets.splits import stratified_order
from qact.shift import Splits, corrupt, from_arrays, load

RNG = np.random.default_rng(0)


def md5(content):
    return hashlib.md5(content).hexdigest()


def use(monkeypatch, name, **facts):
    """Let the reader of a data set expect other files."""
    found = DATASETS[name]
    changed = replace(found, make=replace(found.make, **facts))
    monkeypatch.setitem(DATASETS._entries, name, changed)


def idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A small MNIST on disk in torchvision's layout, half of it compressed."""
    folder, files = tmp_path / "MNIST" / "raw", {}
    folder.mkdir(parents=True)
    for split, prefix, n in (("train", "train", 50), ("test", "t10k", 20)):
        images, labels = RNG.integers(0, 256, (n, 28, 28)), np.arange(n) % 10
        pairs = []
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            name, content = f"{prefix}-{kind}-ubyte", idx(array)
            if split == "train":
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
            pairs.append((name, md5(content)))
        files[split] = tuple(pairs)
    use(monkeypatch, "mnist", files=files)
    return tmp_path


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A small CIFAR-10 on disk in torchvision's layout."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content, protocol=3))
        return name, md5((folder / name).read_bytes())

    def batch(n):
        return {
            "data": RNG.integers(0, 256, (n, 3072), np.uint8),
            "labels": [k % 10 for k in range(n)],
        }

    files = {
        "train": tuple(write(f"data_batch_{k}", batch(40)) for k in range(1, 6)),
        "test": (write("test_batch", batch(30)),),
    }
    names = list("abcdefghij")
    meta = (*write("batches.meta", {"label_names": names}), "label_names")
    use(monkeypatch, "cifar10", files=files, meta=meta)
    return tmp_path


READER = """
import os
import numpy as np
HERE = os.path.dirname(os.path.abspath(__file__))
def load(name, split, n=None, cache=None):
    with np.load(os.path.join(HERE, f"{name}-{split}-0.npz"), allow_pickle=False) as z:
        return z["images"][:n], z["labels"][:n]
"""


@pytest.fixture
def coded(tmp_path):
    """A folder of sets with its own reader and SHA-256 sums."""
    (tmp_path / "load.py").write_text(READER)
    sums = {}
    for split, n in (("train", 100), ("test", 40)):
        images = RNG.integers(0, 256, (n, 32, 32, 3), np.uint8)
        labels = np.arange(n, dtype=np.int64) % 10
        np.savez(tmp_path / f"cifar10-{split}-0.npz", images=images, labels=labels)
        digests = (hashlib.sha256(a.tobytes()).hexdigest() for a in (images, labels))
        sums[f"cifar10/{split}"] = dict(zip(("images", "labels"), digests, strict=True))
    (tmp_path / "checksums.json").write_text(json.dumps(sums))
    (tmp_path / "classes.json").write_text(json.dumps({"cifar10": list("abcdefghij")}))
    return tmp_path


def check(splits, sizes, channels, side):
    assert isinstance(splits, Splits)
    assert splits.num_classes == 10
    assert len(splits.class_names) == 10
    for (images, labels), n in zip((splits.train, splits.val, splits.test), sizes, strict=True):
        assert images.shape == (n, channels, side, side)
        assert images.dtype == torch.uint8
        assert labels.shape == (n,)
        assert labels.dtype == torch.int64


# --- digits ------------------------------------------------------------------------------------


def test_digits():
    digits = load("digits")
    check(digits, (1000, 297, 500), 1, 32)
    assert digits.class_names == tuple("0123456789")
    for _, labels in (digits.train, digits.val, digits.test):
        share = labels.bincount() / len(labels)
        assert (share - 0.1).abs().max() < 0.01
    with pytest.raises(FrozenInstanceError):
        digits.name = "else"


def test_digits_keep_their_pixels_and_their_split():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = load("digits", size=8)
    ours = torch.cat([small.train[0], small.val[0], small.test[0]]).flatten(1)
    theirs = torch.from_numpy(bunch.images.reshape(-1, 64) * 255 / 16).round().to(torch.uint8)
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, theirs.tolist()))
    again = load("digits", size=8)
    assert torch.equal(small.val[0], again.val[0])
    # Pinned: a moved split would make old results incomparable.
    assert small.test[1][:12].tolist() == PINNED


PINNED = [0, 3, 1, 3, 4, 5, 6, 8, 5, 5, 0, 4]


def test_digits_limit_and_corrupt():
    digits = load("digits", size=28, limit=10)
    check(digits, (10, 297, 10), 1, 28)
    clear = digits.test[0] / 255
    foggy = corrupt(clear, "fog", 5)
    assert foggy.shape == clear.shape
    assert not torch.equal(foggy, clear)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        ImportError,
        match=r'pip install "qact\[sklearn\]", or in a clone',
    ):
        load("digits")


# --- torchvision's layouts -----------------------------------------------------------------------


def test_mnist(mnist):
    splits = load("mnist", root=mnist)
    check(splits, (45, 5, 20), 1, 28)
    raw = parse_idx((mnist / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes())
    assert np.array_equal(splits.test[0][:, 0].numpy(), raw)
    check(load("mnist", root=str(mnist / "MNIST"), limit=10), (9, 1, 10), 1, 28)


def test_cifar(cifar, monkeypatch):
    monkeypatch.setenv("QACT_DATA", str(cifar))
    splits = load("cifar10")
    check(splits, (180, 20, 30), 3, 32)
    assert splits.class_names == tuple("abcdefghij")
    assert splits.val[1].bincount().tolist() == [2] * 10
    batch = unpickle((cifar / "cifar-10-batches-py/test_batch").read_bytes())
    assert np.array_equal(splits.test[0].flatten(1).numpy(), batch["data"])


def test_validation_is_cut_from_training_only(cifar):
    splits = load("cifar10", root=cifar)
    train, val = (set(map(bytes, p[0].flatten(1).numpy())) for p in (splits.train, splits.val))
    assert not train & val
    assert len(train | val) == 200
    assert torch.equal(splits.val[0], load("cifar10", root=cifar).val[0])


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"])
def test_damaged_mnist(mnist, damage, file):
    path = mnist / "MNIST" / "raw" / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if damage == "truncated" else content[:-9] + b"\x01" * 9)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load("mnist", root=mnist)
    message, source = str(caught.value), DATASETS["mnist"].make
    assert file.removesuffix(".gz") in message
    assert source.origin in message
    assert any(sum_ in message for pairs in source.files.values() for _, sum_ in pairs)


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_damaged_cifar(cifar, file):
    path = cifar / "cifar-10-batches-py" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=f"{file} is truncated or altered: md5 is .*expected.*http"
    ):
        load("cifar10", root=cifar)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is missing.*expected md5.*http"):
        load("cifar10", root=cifar)


def test_pickles_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(pickle.UnpicklingError, match="mkdir"):
            unpickle(pickle.dumps(Evil(), protocol=protocol))
    assert not (tmp_path / "owned").exists()
    for name in ("builtins eval", "os system", "numpy load", "numpy.core.multiarray dot"):
        module, attribute = name.split()
        with pytest.raises(pickle.UnpicklingError, match=attribute):
            unpickle(f"c{module}\n{attribute}\n.".encode())


def test_unpickle_reads_what_python_2_wrote():
    # {'data': numpy.array([1, 200], uint8), 'labels': [3]} as Python 2 wrote it, protocol 0.
    old = (
        b"(dp0\nS'labels'\np1\n(lp2\nI3\nasS'data'\np3\ncnumpy.core.multiarray\n_reconstruct\n"
        b"p4\n(cnumpy\nndarray\np5\n(I0\ntp6\nS'b'\np7\ntp8\nRp9\n(I1\n(I2\ntp10\ncnumpy\ndtype\n"
        b"p11\n(S'u1'\np12\nI0\nI1\ntp13\nRp14\n(I3\nS'|'\np15\nNNNI-1\nI-1\nI0\ntp16\nbI00\n"
        b"S'\\x01\\xc8'\np17\ntp18\nbs."
    )
    read = unpickle(old)
    assert read["labels"] == [3]
    assert read["data"].tolist() == [1, 200]
    assert read["data"].dtype == np.uint8


def test_parse_idx_errors():
    assert parse_idx(idx(np.arange(6).reshape(2, 3))).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="not an idx file"):
        parse_idx(b"\x89PNG....")
    with pytest.raises(ValueError, match=r"shape \(2, 3\) with 5 bytes"):
        parse_idx(idx(np.zeros((2, 3)))[:-1])


def test_checked_bytes_of_something_that_is_not_gzip(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=r"x\.gz is damaged.*expected md5 abc.*http://there"):
        checked_bytes(path, "abc", "http://there")


# --- a coded folder --------------------------------------------------------------------------


def test_coded_folder(coded, monkeypatch):
    monkeypatch.setenv("QACT_DATA", str(coded))
    splits = load("cifar10")
    check(splits, (90, 10, 40), 3, 32)
    check(load("cifar10", limit=20), (18, 2, 20), 3, 32)
    with np.load(coded / "cifar10-test-0.npz") as z:
        assert np.array_equal(splits.test[0].permute(0, 2, 3, 1).numpy(), z["images"])


def test_coded_folder_missing_truncated_altered(coded):
    path = coded / "cifar10-test-0.npz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cifar10-test-\*\.npz.*damaged.*sha256.*http"):
        load("cifar10", root=coded)
    file = io.BytesIO()
    np.savez(file, images=np.zeros((40, 32, 32, 3), np.uint8), labels=np.zeros(40, np.int64))
    path.write_bytes(file.getvalue())
    with pytest.raises(ValueError, match=r"sha256 of the decoded images is .*expected.*http"):
        load("cifar10", root=coded)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar10-test-\*\.npz is missing.*sha256.*http"):
        load("cifar10", root=coded)


@pytest.mark.parametrize("file", ["checksums.json", "classes.json"])
def test_coded_folder_with_a_damaged_list(coded, file):
    for content in ("{", "{}", "[]"):
        (coded / file).write_text(content)
        with pytest.raises(ValueError, match=rf"{file} is damaged or has no .*http"):
            load("cifar10", root=coded)


def test_coded_folder_without_its_classes(coded):
    (coded / "classes.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.json is missing; origin: http"):
        load("cifar10", root=coded)


# --- requests that cannot be met -------------------------------------------------------------


@pytest.mark.parametrize("name", [None, 5, ("digits",)])
def test_a_name_is_text_or_a_path(name):
    with pytest.raises(TypeError, match="must be the name of a data set or a path"):
        load(name)


def test_bad_requests(tmp_path, monkeypatch):
    monkeypatch.delenv("QACT_DATA", raising=False)
    with pytest.raises(ValueError, match=r"unknown data set 'cifar'; did you mean 'cifar10"):
        load("cifar")
    with pytest.raises(ValueError, match=r"'cifar10'\? pass root=.*QACT_DATA.*http"):
        load("cifar10")
    with pytest.raises(FileNotFoundError, match=r"nowhere.*http"):
        load("mnist", root=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"batches.meta is missing.*expected md5 5ff9c5"):
        load("cifar10", root=tmp_path)
    with pytest.raises(ValueError, match=r"size is for 'digits' and folders only.*size=28"):
        load("mnist", 28, root=tmp_path)
    for size in (0, -3, 2.5, "32"):
        with pytest.raises(ValueError, match="size must be a positive integer"):
            load("digits", size=size)
    with pytest.raises(ValueError, match="limit must be a positive integer or None, got 0"):
        load("digits", limit=0)


def test_stratified_order():
    labels = np.repeat(np.arange(5), [100, 50, 25, 20, 5])
    order = stratified_order(labels, 0)
    assert sorted(order) == list(range(200))
    for n in (20, 40, 100):
        counts = np.bincount(labels[order[:n]], minlength=5)
        assert np.abs(counts - np.bincount(labels) * n / 200).max() <= 1
    assert not np.array_equal(order, stratified_order(labels, 1))


def test_names_of_sets_to_train_on():
    expected = ["cifar10", "cifar100", "digits", "fashion_mnist", "mnist", "tiny_imagenet"]
    assert names(shifted=False) == expected


MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # of each digit


@pytest.mark.skipif("QACT_DATA" not in os.environ, reason="QACT_DATA is not set")
@pytest.mark.slow
def test_real_files():
    splits = load("mnist")
    check(splits, (54000, 6000, 10000), 1, 28)
    assert splits.test[1].bincount().tolist() == MNIST_TEST


def test_arrays_come_in_pairs():
    images = np.zeros((21, 8, 8), np.uint8)
    with pytest.raises(TypeError, match=r"train=ndarray of shape \(21, 8, 8\) must be a pair"):
        from_arrays(images)
    with pytest.raises(TypeError, match=r"test=5 must be a pair \(images, labels\)"):
        from_arrays((images, np.zeros(21, np.int64)), test=5)
