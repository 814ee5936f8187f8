"""What cannot be monitored, or asked of a monitor, is one error that repeats it."""

import pytest
import torch
from torch import nn

from qact.monitor import Guard, Monitor, estimate, record, total
from qact.monitor.detectors import create, run_length

X, Y = torch.randn(40, 4), torch.arange(40) % 3


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def watched(net):
    with Monitor(net, record(net, [(X, Y)], draws=99), window=16) as monitor:
        net(X)
    return monitor


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": 0}, "positions=0 must be at least 1"),
        ({"positions": 1.5}, "positions=1.5 must be an integer"),
        ({"seed": "x"}, "seed='x' must be an integer"),
        ({"images": 0}, "images=0 must be at least 1"),
        ({"model": 5}, "model=5 must be a torch.nn.Module"),
        ({"loader": [(X, Y[:-1])]}, "a batch of 40 images has 39 labels; give one for each"),
        ({"loader": [(X, Y + 1)]}, "labels must be 0 to 2, one of the logits, got 3"),
        ({"loader": [(X, Y - 1)]}, "labels must be 0 to 2, one of the logits, got -1"),
    ],
)
def test_what_cannot_be_recorded(options, message, net):
    with pytest.raises((TypeError, ValueError), match=message):
        record(**{"model": net, "loader": X, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": 5}, "reference=5 must be what qact.monitor.record returns"),
        ({"positions": 0}, "positions=0 must be at least 1"),
        ({"seed": 1.5}, "seed=1.5 must be an integer"),
        ({"model": None}, "model=None must be a torch.nn.Module"),
    ],
)
def test_what_cannot_be_watched(options, message, net):
    with pytest.raises((TypeError, ValueError), match=message):
        Monitor(**{"model": net, **options})


def test_what_is_no_window_or_monitor(watched):
    window = watched.windows[0]
    with pytest.raises(TypeError, match="listener=5 must be a function"):
        watched.listen(5)
    with pytest.raises(TypeError, match="monitor=5 must be a"):
        Guard(5)
    with pytest.raises(TypeError, match=r"got .* and 5"):
        estimate(watched.reference, 5)
    for windows in (5, [window, 5]):
        with pytest.raises(TypeError, match="must be a list of windows, got 5"):
            total(windows)
    assert total(one for one in (window, window)).images == 2 * window.images


def test_what_cannot_be_asked_of_a_store(watched, tmp_path):
    pytest.importorskip("pyarrow")
    from qact.monitor import Store, StoreError

    store = Store(tmp_path / "s")
    store.append(watched.windows[0])
    for chosen, message in (
        ({"since": "a"}, "since='a' must be seconds since 1970, or a datetime"),
        ({"until": float("nan")}, "until=nan must be seconds"),
        ({"version": 5}, "version=5 must be a string"),
        ({"level": "year"}, "level='year' is unknown; choose one of .*'day'"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            store.read(**chosen)
    with pytest.raises(TypeError, match="window=5 must be a window"):
        store.append(5)
    with pytest.raises(TypeError, match="folder=None must be the path"):
        Store(None)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file is no store of windows, but a file"):
        Store(tmp_path / "file")


@pytest.mark.parametrize("rate", [1e-8, 1e-9, 1e-10, 1e-11])
def test_cusum_of_rare_alarms(rate):
    detector = create("cusum", rate)
    assert run_length(detector.threshold, detector.shift) == pytest.approx(1 / rate, rel=0.02)
