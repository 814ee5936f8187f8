"""Folders of images, arrays, and Tiny ImageNet as it is published."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from qact.datasets.registry import DATASETS
from qact.datasets.sets.tiny_imagenet import TinyImageNet
from qact.shift import from_arrays, from_folder, from_npz, load

RNG = np.random.default_rng(0)


def save(path, size=(8, 8), value=None):
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (*size[::-1], 3), np.uint8) if value is None else value
    image.fromarray(pixels).save(path)
    return pixels


# --- folders -------------------------------------------------------------------------------------


def test_a_folder_with_parts(tmp_path):
    for part, n in (("train", 20), ("test", 4)):
        for label in ("cat", "dog"):
            for i in range(n):
                last = save(tmp_path / part / label / f"{i:02}.png")
    found = from_folder(tmp_path)
    assert [len(y) for _, y in (found.train, found.val, found.test)] == [36, 4, 8]
    assert found.class_names == ("cat", "dog")
    assert torch.equal(found.test[0][-1], torch.from_numpy(last).permute(2, 0, 1))
    assert found.test[1].tolist() == [0] * 4 + [1] * 4
    same = load(f"{tmp_path}/")
    assert torch.equal(same.train[0], found.train[0])
    assert len(from_folder(tmp_path, limit=10).train[1]) == 9


def test_a_folder_of_classes_is_cut(tmp_path):
    for label in "ab":
        for i in range(25):
            save(tmp_path / label / "deep" / f"{i}.png")
    found = from_folder(tmp_path)
    assert [y.bincount().tolist() for _, y in (found.train, found.val, found.test)] == [
        [18, 18],
        [2, 2],
        [5, 5],
    ]


def test_sizes_are_made_alike(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    save(tmp_path / "a" / "0.png", value=wide)
    for i in range(1, 20):
        save(tmp_path / "a" / f"{i}.png", (10, 14))
    with pytest.raises(ValueError, match=r"10x14 pixels, .*0\.png 30x10; give a size"):
        from_folder(tmp_path)
    arrays = from_folder(tmp_path, size=10)
    images = torch.cat([arrays.train[0], arrays.val[0], arrays.test[0]])
    assert images.shape == (20, 3, 10, 10)
    assert (images == 200).flatten(1).all(1).sum() == 1  # the middle of the wide one


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        from_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no folders"):
        from_folder(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no images \(\.jpg"):
        from_folder(tmp_path)
    (tmp_path / "a" / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"x\.png cannot be read as an image"):
        from_folder(tmp_path)
    save(tmp_path / "p" / "train" / "a" / "0.png")
    save(tmp_path / "p" / "test" / "b" / "0.png")
    with pytest.raises(ValueError, match=r"test/b is none of the 1 classes"):
        from_folder(tmp_path / "p")


# --- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(50, 8, 9), (50, 8, 9, 1), (50, 1, 8, 9)])
def test_any_layout_of_arrays(shape):
    x = RNG.integers(0, 256, shape, np.uint8)
    whole = from_arrays((x, np.arange(50) % 5), (x[:3], [0, 1, 2]))
    assert whole.test[0].shape == (3, 1, 8, 9)
    assert np.array_equal(whole.test[0][:, 0].numpy(), x[:3].reshape(3, 8, 9))
    assert whole.class_names == ("0", "1", "2", "3", "4")


def test_tensors_and_floats():
    x = torch.rand(20, 3, 4, 4)
    y = torch.arange(20) % 2
    found = from_arrays((x, y), (x, y), (x[:1], y[:1]), class_names=("a", "b"))
    assert torch.equal(found.train[0], (x * 255).round().byte())
    assert len(found.val[1]) == 1


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((5, 8)), np.zeros(5, int), r"shape .* got \(5, 8\)"),
        (np.zeros((5, 8, 8, 2), np.uint8), np.zeros(5, int), r"got \(5, 8, 8, 2\)"),
        (np.full((5, 8, 8), 2.0), np.zeros(5, int), r"\[0, 1\], got 2 "),
        (np.full((5, 8, 8), np.nan), np.zeros(5, int), r"\[0, 1\], got nan"),
        (np.zeros((5, 8, 8), np.int64), np.zeros(5, int), "bytes or floats .* got int64"),
        (
            np.zeros((5, 8, 8), np.uint8),
            np.zeros(4, int),
            r"shape \(5,\), one per image, got \(4,\)",
        ),
        (np.zeros((5, 8, 8), np.uint8), np.full(5, -1), "not be negative, got -1"),
        (np.zeros((5, 8, 8), np.uint8), np.zeros(5), "integers, got float64"),
        (np.zeros((0, 8, 8), np.uint8), np.zeros(0, int), "no images for the train part"),
    ],
)
def test_arrays_that_do_not_fit(images, labels, message):
    with pytest.raises((ValueError, TypeError), match=message):
        from_arrays((images, labels), (np.zeros((1, 8, 8), np.uint8), [0]))


def test_parts_that_do_not_fit():
    x, y = np.zeros((30, 8, 8), np.uint8), np.arange(30) % 3
    with pytest.raises(
        ValueError, match=r"test images are \(1, 7, 8\) and train images \(1, 8, 8\)"
    ):
        from_arrays((x, y), (x[:, 1:], y))
    with pytest.raises(ValueError, match="labels of 'arrays' reach 2, there are 2 classes"):
        from_arrays((x, y), class_names=("a", "b"))


def test_npz_files(tmp_path):
    x, y = RNG.integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 4
    path = tmp_path / "mine.npz"
    np.savez(path, train_images=x, train_labels=y, class_names=np.array(list("abcd")))
    found = load(str(path))
    assert found.class_names == tuple("abcd")
    assert [len(p[1]) for p in (found.train, found.val, found.test)] == [29, 3, 8]
    np.savez(path, train_images=x, train_labels=y, test_images=x)
    with pytest.raises(ValueError, match=r"mine\.npz lacks test_labels; it has train_images"):
        from_npz(path)
    np.savez(path, train_images=np.array([{}]), train_labels=y)
    with pytest.raises(ValueError, match=r"as arrays: .*Python objects \(pickles\) are never"):
        from_npz(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="cannot be read as arrays"):
        from_npz(path)
    with pytest.raises(FileNotFoundError, match=r"gone\.npz"):
        from_npz(tmp_path / "gone.npz")


# --- Tiny ImageNet -------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    root = tmp_path / "tiny-imagenet-200"
    for wnid in ("n02", "n01"):
        for i in range(10):
            save(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", (64, 64))
    table = []
    for i, wnid in enumerate(("n02", "n01", "n02")):
        save(root / "val" / "images" / f"val_{i}.JPEG", (64, 64))
        table.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t9\t9\n")
    (root / "val" / "val_annotations.txt").write_text("".join(table))
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tcat\nn03\tx\n")
    small = replace(DATASETS["tiny_imagenet"], make=TinyImageNet(sizes=(20, 3)))
    monkeypatch.setitem(DATASETS._entries, "tiny_imagenet", small)
    return tmp_path


def test_tiny_imagenet(tiny):
    found = load("tiny_imagenet", root=tiny)
    assert found.class_names == ("goldfish", "cat")
    assert found.train[0].shape == (18, 3, 64, 64)
    assert found.test[1].tolist() == [1, 0, 1]
    assert len(load("tiny_imagenet", root=tiny, limit=2).test[1]) == 2


def test_an_incomplete_tiny_imagenet(tiny):
    root = tiny / "tiny-imagenet-200"
    (root / "train" / "n01" / "images" / "n01_3.JPEG").unlink()
    with pytest.raises(ValueError, match=r"has 19 train images, expected 20 .*md5 90528d7c.*http"):
        load("tiny_imagenet", root=tiny)
    (root / "wnids.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"wnids\.txt is missing.*md5 90528d7c.*http"):
        load("tiny_imagenet", root=tiny)


def test_a_stray_label_is_refused_before_its_classes_are_named():
    labels = np.arange(40) % 4
    labels[7] = 2**62
    with pytest.raises(ValueError, match="only 5 of these 4611686018427387905 classes have images"):
        from_arrays((np.zeros((40, 8, 8), np.uint8), labels))


# --- what would have been read wrong without a word ----------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_values_of_16_bits_are_their_high_bytes(tmp_path, suffix):
    image = pytest.importorskip("PIL.Image")
    wide = RNG.integers(0, 2**16, (20, 8, 8)).astype(np.uint16)  # convert("RGB") leaves 255
    for k, pixels in enumerate(wide):
        (tmp_path / "ab"[k % 2]).mkdir(exist_ok=True)
        image.fromarray(pixels).save(tmp_path / "ab"[k % 2] / f"{k:02}.{suffix}")
    found = from_folder(tmp_path)
    read = torch.cat([images for images, _ in (found.train, found.val, found.test)])
    want = {(pixels >> 8).astype(np.uint8).tobytes() for pixels in wide}
    assert {pixels[0].numpy().tobytes() for pixels in read} == want
    assert torch.equal(read[:, 0], read[:, 2])


def test_pixels_of_32_bits_are_refused(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in "ab":
        (tmp_path / name).mkdir()
        image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / name / "0.tif")
    with pytest.raises(ValueError, match=r"a/0\.tif cannot .*: its pixels have 32 bits"):
        from_folder(tmp_path)


def test_hidden_files_are_no_images_and_empty_folders_no_classes(tmp_path):
    for k in range(20):
        save(tmp_path / "ab"[k % 2] / f"{k}.png")
    (tmp_path / "a" / "._0.png").write_bytes(b"\0\5\x16\7")  # of macOS
    save(
        tmp_path / "a" / ".ipynb_checkpoints" / "0-checkpoint.png"
    )  # a copy: it would be in two parts
    (tmp_path / "a" / "frames.png").mkdir()
    found = from_folder(tmp_path)
    assert sum(len(labels) for _, labels in (found.train, found.val, found.test)) == 20
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "0.gif").write_bytes(b"")
    with pytest.raises(ValueError, match=r"c holds no images \(\.jpg, .*a class of none"):
        from_folder(tmp_path)


def test_a_limit_holds_for_arrays_and_a_size_does_not(tmp_path):
    images, labels = RNG.integers(0, 256, (60, 8, 8), np.uint8), np.repeat(np.arange(3), 20)
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=labels)
    few = load(f"{tmp_path}/x.npz", limit=6)
    assert few.train[1].bincount().tolist() == [2, 2, 2]
    assert [len(y) for _, y in (few.train, few.val, few.test)] == [6, 5, 6]
    with pytest.raises(ValueError, match="size is for 'digits' and folders only, got size=16"):
        load(f"{tmp_path}/x.npz", size=16)


def test_names_and_labels_that_mean_nothing(tmp_path):
    images, labels = np.zeros((60, 4, 4), np.uint8), np.arange(60) % 3
    with pytest.raises(ValueError, match=r"no test image .*: labels 3 to 5 there, 0 to 2 in the"):
        from_arrays((images, labels), (images, labels + 3))
    with pytest.raises(ValueError, match=r"class_names=.* must be distinct"):
        from_arrays((images, labels), class_names=["a", "a", "b"])
    wide = np.where(np.arange(60) == 5, np.uint64(2**64 - 1), labels.astype(np.uint64))
    with pytest.raises(ValueError, match="must be below 2\\^63, got 18446744073709551615"):
        from_arrays((images, wide))  # -1, as int64
    np.save(tmp_path / "x.npy", images)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"it is one array \(\.npy\)"):
        from_npz(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="name='' must be a data set"):
        load("")


def test_a_test_part_of_another_size(tmp_path):
    for k in range(20):
        save(tmp_path / "train" / "ab"[k % 2] / f"{k}.png")
        save(tmp_path / "test" / "ab"[k % 2] / f"{k}.png", (5, 5))
    with pytest.raises(ValueError, match=r"test images are \(3, 5, 5\) and train images \(3, 8, 8"):
        from_folder(tmp_path)
