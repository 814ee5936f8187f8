"""Corrupted sets written and read, and the published test sets in their layouts."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

import qact
from qact.corruptions.registry import corruptions
from qact.datasets import writer as writer_module
from qact.datasets.registry import DATASETS, ShiftedSet, names, register
from qact.datasets.sets import cifar10_c, cifar100_c
from qact.datasets.splits import from_arrays
from qact.shift import corrupt, load, load_shifted, write_corrupted

IMAGES = torch.randint(0, 256, (6, 3, 8, 9), dtype=torch.uint8, generator=torch.Generator())
LABELS = torch.arange(6) % 3
NAMES = ("fog", "contrast")


@pytest.fixture
def written(tmp_path):
    return write_corrupted(IMAGES, LABELS, tmp_path / "CIFAR-10-C", NAMES, seed=7)


def test_the_layout_is_that_of_cifar10_c(written):
    fog = np.load(written / "fog.npy", allow_pickle=False)
    assert fog.shape == (30, 8, 9, 3)
    assert fog.dtype == np.uint8
    assert np.load(written / "labels.npy").tolist() == LABELS.tolist() * 5
    for severity in range(1, 6):
        ours = corrupt(IMAGES.float() / 255, "fog", severity, seed=7).mul(255).round().byte()
        block = torch.from_numpy(fog[6 * (severity - 1) : 6 * severity])
        assert torch.equal(block, ours.permute(0, 2, 3, 1))
    assert sorted(p.name for p in written.iterdir()) == [
        "contrast.npy",
        "fog.npy",
        "labels.npy",
        "manifest.json",
    ]


def test_what_is_written_is_read_back(written):
    found = load_shifted("cifar10-c", "fog", 3, root=written.parent)
    ours = corrupt(IMAGES.float() / 255, "fog", 3, seed=7).mul(255).round().byte()
    assert torch.equal(found.images, ours)
    assert torch.equal(found.labels, LABELS)
    some = load_shifted("cifar10-c", "fog", 3, root=written, limit=2)
    assert torch.equal(some.images, ours[[0, 3]])


def test_an_interrupted_writer_goes_on(tmp_path, monkeypatch):
    calls = []

    def stop(name, done, whole):
        calls.append(name)
        if name == "contrast":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_corrupted(IMAGES, LABELS, tmp_path, NAMES, tell=stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fog.npy", "labels.npy", "manifest.json"]
    before = (tmp_path / "fog.npy").stat().st_mtime_ns
    calls.clear()
    write_corrupted(IMAGES, LABELS, tmp_path, NAMES, tell=lambda name, *_: calls.append(name))
    assert set(calls) == {"contrast"}
    assert (tmp_path / "fog.npy").stat().st_mtime_ns == before
    (tmp_path / "fog.npy").unlink()
    write_corrupted(IMAGES, LABELS, tmp_path, NAMES)
    assert (tmp_path / "fog.npy").is_file()


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    write_corrupted(IMAGES, LABELS, tmp_path, ())
    full = writer_module.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda path: full)
    with pytest.raises(OSError, match=r"no room for .*fog\.npy: it needs 6480 bytes"):
        write_corrupted(IMAGES, LABELS, tmp_path, ("fog",))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.npy", "manifest.json"]


def test_a_folder_of_something_else_is_refused(written, tmp_path):
    with pytest.raises(ValueError, match="written with seed = 7, not 8"):
        write_corrupted(IMAGES, LABELS, written, NAMES, seed=8)
    with pytest.raises(ValueError, match="written with sha256"):
        write_corrupted(IMAGES + 1, LABELS, written, NAMES, seed=7)
    np.save(tmp_path / "fog.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"holds fog\.npy and no manifest\.json"):
        write_corrupted(IMAGES, LABELS, tmp_path, NAMES)
    with pytest.raises(ValueError, match="unknown corruption 'foog'"):
        write_corrupted(IMAGES, LABELS, tmp_path / "new", ("foog",))
    with pytest.raises(ValueError, match="images must be uint8"):
        write_corrupted(IMAGES.float(), LABELS, tmp_path / "new")
    with pytest.raises(ValueError, match=r"labels must have shape \(6,\), got \(5,\)"):
        write_corrupted(IMAGES, LABELS[:5], tmp_path / "new")


@pytest.mark.parametrize("file", ["fog.npy", "labels.npy"])
def test_altered_truncated_and_missing_files(written, file):
    path = written / file
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\xff")
    with pytest.raises(
        ValueError, match=rf"{file} is truncated or altered: sha256.*expected.*zenodo"
    ):
        load_shifted("cifar10-c", "fog", 1, root=written)
    path.unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=r"fog.*(missing|unknown)|missing"):
        load_shifted("cifar10-c", "fog", 1, root=written)


def test_originals_are_held_against_their_md5(tmp_path, monkeypatch):
    """Files without a manifest must be those that were published."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "fog.npy", np.zeros((10, 4, 4, 3), np.uint8))
    np.save(folder / "labels.npy", np.arange(10, dtype=np.uint8) % 2)
    with pytest.raises(ValueError, match=r"fog\.npy.*md5 is .* expected 7b397314.*zenodo"):
        load_shifted("cifar10-c", "fog", 2, root=tmp_path)
    sums = {p.stem: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    monkeypatch.setattr(DATASETS["cifar10-c"].make, "md5", sums)
    assert load_shifted("cifar10-c", "fog", 2, root=tmp_path).images.shape == (2, 3, 4, 4)
    monkeypatch.setattr(DATASETS["cifar10-c"].make, "md5", {"snow": "bb238de8", **sums})
    with pytest.raises(FileNotFoundError, match=r"snow\.npy is missing.*expected md5 bb238de8"):
        load_shifted("cifar10-c", "snow", 2, root=tmp_path)


def test_arrays_of_objects_are_not_unpickled(tmp_path, monkeypatch):
    np.save(tmp_path / "fog.npy", np.array([{}] * 5, object), allow_pickle=True)
    np.save(tmp_path / "labels.npy", np.zeros(5, int))
    sums = {p.stem: hashlib.md5(p.read_bytes()).hexdigest() for p in tmp_path.iterdir()}
    monkeypatch.setattr(DATASETS["cifar10-c"].make, "md5", sums)
    with pytest.raises(ValueError, match=r"fog\.npy is damaged.*objects"):
        load_shifted("cifar10-c", "fog", 1, root=tmp_path)


def test_checksums_of_all_published_files_are_known():
    for table in (cifar10_c.MD5, cifar100_c.MD5):
        assert set(table) == {*corruptions("all"), "labels"}
        assert len(set(table.values())) == 20


def test_mnist_c(tmp_path):
    folder = tmp_path / "mnist_c" / "zigzag"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28, 1), np.uint8)
    np.save(folder / "test_images.npy", images)
    np.save(folder / "test_labels.npy", np.arange(7))
    found = load_shifted("mnist-c", "zigzag", root=tmp_path)
    assert np.array_equal(found.images[:, 0].numpy(), images[..., 0])
    with pytest.raises(ValueError, match="unknown corruption 'zigzig'; did you mean 'zigzag'"):
        load_shifted("mnist-c", "zigzig", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"test_images\.npy is missing.*zenodo"):
        load_shifted("mnist-c", "zigzag", root=folder)


def test_cifar10_1(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    items = []
    for item, array in zip(
        DATASETS["cifar10.1"].downloads, (images, np.arange(9, dtype=np.int32)), strict=True
    ):
        path = tmp_path / item.file
        path.parent.mkdir(exist_ok=True)
        np.save(path, array)
        items.append(replace(item, checksum=hashlib.sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(ValueError, match=r"sha256 is .*expected 2997188e.*CIFAR-10.1"):
        load_shifted("cifar10.1", root=tmp_path)
    changed = replace(DATASETS["cifar10.1"], downloads=tuple(items))
    monkeypatch.setitem(DATASETS._entries, "cifar10.1", changed)
    found = load_shifted("cifar10.1", root=tmp_path)
    assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), images)
    assert found.labels.tolist() == list(range(9))


@pytest.mark.parametrize(
    "where", ["Tiny-ImageNet-C/fog/2", "imagenet-c/weather/fog/2", "imagenet-a"]
)
def test_folders_of_images(tmp_path, where):
    image = pytest.importorskip("PIL.Image")
    for k, wnid in enumerate(("n01", "n07")):
        (tmp_path / where / wnid).mkdir(parents=True)
        for i in range(3):
            pixels = np.full((70, 90, 3), 100 * k + i, np.uint8)
            image.fromarray(pixels).save(tmp_path / where / wnid / f"{i}.png")
    name = {"T": "tiny_imagenet-c", "i": "imagenet-c"}[where[0]]
    name = "imagenet-a" if where == "imagenet-a" else name
    request = () if name == "imagenet-a" else ("fog", 2)
    found = load_shifted(name, *request, root=tmp_path, limit=4)
    side = 64 if where[0] == "T" else 224
    assert found.images.shape == (4, 3, side, side)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.class_names == ("n01", "n07")
    among = load_shifted(name, *request, root=tmp_path, limit=4, class_names=("n00", "n01", "n07"))
    assert among.labels.tolist() == [1, 1, 2, 2]
    with pytest.raises(ValueError, match=r"holds 6 images, expected \d+ images.*origin: http"):
        load_shifted(name, *request, root=tmp_path)


def test_bad_requests(tmp_path):
    with pytest.raises(ValueError, match="unknown test set 'cifar10c'; did you mean 'cifar10-c'"):
        load_shifted("cifar10c", root=tmp_path)
    with pytest.raises(ValueError, match="'cifar10-c' needs a corruption"):
        load_shifted("cifar10-c", severity=3, root=tmp_path)
    with pytest.raises(ValueError, match="'imagenet-a' has no corruptions, got corruption='fog'"):
        load_shifted("imagenet-a", "fog", root=tmp_path)
    for severity in (0, 6, None, True, 2.5):
        with pytest.raises(ValueError, match=f"severity must be 1, 2, 3, 4 or 5, got {severity!r}"):
            load_shifted("cifar10-c", "fog", severity, root=tmp_path)
    with pytest.raises(ValueError, match="no severities, got severity=2"):
        load_shifted("mnist-c", "fog", 2, root=tmp_path)
    with pytest.raises(ValueError, match="limit must be a positive integer"):
        load_shifted("mnist-c", "fog", limit=0, root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no folders.*expected 30000 images.*a613"):
        load_shifted("imagenet-r", root=tmp_path)


def test_data_sets_of_ones_own(tmp_path):
    """A set to train on and one under shift, each registered by its function."""

    @register("stripes", paper="a ruler", sized=True)
    def stripes(root, size, limit):
        images = np.zeros((40, size or 6, 8), np.uint8)
        return from_arrays((images[:limit], (np.arange(40) % 2)[:limit]), name="stripes")

    @register("stripes-c", paper="a ruler", shifted=True, conditions=("corruption",))
    def stripes_c(root, request):
        return ShiftedSet("stripes-c", IMAGES[: request.limit], LABELS[: request.limit])

    try:
        assert load("stripes", size=5).train[0].shape[2] == 5
        assert len(load("stripes", limit=20).test[1]) == 4
        assert "stripes-c" in qact.shift.TEST_SETS
        assert len(load_shifted("stripes-c", "fog", limit=3).labels) == 3
        with pytest.raises(ValueError, match="'stripes-c' needs a corruption"):
            load_shifted("stripes-c")
        with pytest.raises(ValueError, match="unknown data set 'strips'; did you mean 'stripes'"):
            load("strips")
        with pytest.raises(ValueError, match="unknown test set 'stripes-d'; did you mean"):
            load_shifted("stripes-d", "fog")
        with pytest.raises(ValueError, match="'stripes' is registered already"):
            register("stripes", paper="again")(stripes)
        with pytest.raises(ValueError, match="'mnist' is registered already"):
            register("mnist", paper="again")(stripes)
    finally:
        DATASETS.remove("stripes")
        DATASETS.remove("stripes-c")


def test_every_entry_names_its_paper_and_origin():
    for name in DATASETS:
        found = DATASETS[name]
        assert found.paper
        assert found.origin.startswith("http") or name == "digits"
        assert name == "imagenet-sketch" or bool(found.downloads) == bool(found.origin)
    assert "mnist" in names(shifted=False)
    assert "mnist" not in names(shifted=True)
