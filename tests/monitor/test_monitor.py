"""The monitor: what it counts, in any number of threads, and what it says about drift."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import signal
import threading
from datetime import timedelta

import pytest
import torch
from torch import nn

import qact
from qact.monitor import Monitor, Reference, record, total
from qact.monitor.window import CHUNK


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(6 * 36, 8), qact.QAct(8), nn.Linear(8, 3)),
    )


def images(n: int, seed: int = 0) -> torch.Tensor:
    """Images that differ in brightness: a good part of the variance lies between them."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 8, 8, generator=draw) + torch.randn(n, 1, 1, 1, generator=draw)


@pytest.fixture(scope="module")
def model():
    net = network()
    for seed in range(5):
        net(images(64, seed))
    return net.eval()


@pytest.fixture(scope="module")
def reference(model):
    labels = torch.zeros(256, dtype=torch.long)
    return record(
        model, [(images(256, 10 + k), labels) for k in range(2)], where=["1", "5"], draws=500
    )


def served(model, monitor, batches):
    with monitor, torch.no_grad():
        for x in batches:
            model(x)
    return monitor


def test_it_counts_what_the_layers_see(model):
    x = images(40)
    seen = {}
    with torch.no_grad():
        hook = model[1].register_forward_hook(lambda m, a, out: seen.update(layer=out))
        logits = model(x)
        hook.remove()
    monitor = served(model, Monitor(model, where="1", window=40, positions=None), [x[:25], x[25:]])
    (window,) = monitor.windows
    assert window.signals == {"input": 1, "1": 6, "logits": 3, "confidence": 1}
    assert (window.images, window.seen, window.broken) == (40, 40, 0)
    for name, z in {"input": x, "1": seen["layer"], "logits": logits}.items():
        context, exact = window.context(name), qact.Context(z.shape[1], 4096).add(z)
        assert torch.equal(context.count, exact.count)
        at = exact.quantile(torch.tensor([0.1, 0.5, 0.9])).T
        plain = {"grounded": False, "smooth": False}
        assert (
            context.rank(at, **plain) - exact.rank(at, **plain)
        ).abs().max() < 0.026  # one of 40
    confidence = window.context("confidence")
    assert confidence.mean.item() == pytest.approx(
        logits.softmax(1).amax(1).mean().item(), abs=1e-4
    )
    assert not model._forward_hooks
    assert not model[1]._forward_hooks


def test_windows_divide_a_stream_without_loss(model):
    x = images(300)
    whole = served(model, Monitor(model, where="1", window=300, positions=None), [x])
    parts = served(model, Monitor(model, where="1", window=70, positions=None), x.split(32))
    assert [w.images for w in parts.windows] == [70, 70, 70, 70, 20]
    assert sum(w.seen for w in parts.windows) == 300
    assert int(total(list(parts.windows)).context("1").count[0]) == 300 * 36
    assert int(whole.windows[0].context("1").count[0]) == 300 * 36


def test_with_a_frame_the_division_leaves_no_trace(model):
    everywhere = record(model, images(64, 3), where="1", positions=None, draws=19)
    x = images(300)
    totals = [
        total(
            list(served(model, Monitor(model, everywhere, window=n, keep=64), x.split(k)).windows)
        )
        for n, k in ((300, 300), (70, 32), (7, 45))
    ]
    for other in totals[1:]:
        for name in other.histograms:
            state = other.context(name).state_dict()
            for key, value in totals[0].context(name).state_dict().items():
                assert key == "batches" or torch.equal(value, state[key])


def test_threads_lose_nothing(model, reference):
    monitor = Monitor(model, reference, window=50)
    x = images(240)

    def work() -> None:
        with torch.no_grad():
            for part in x.split(24):
                model(part)

    with monitor:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [w.images for w in monitor.windows] == [50] * 9 + [30]
    assert int(total(list(monitor.windows)).context("5").count[0]) == 480


def test_a_call_that_raises_is_not_counted(model, reference):
    monitor = Monitor(model, reference, window=10)
    with monitor, torch.no_grad():
        with pytest.raises(RuntimeError):
            model(torch.randn(4, 1, 9, 9))  # the linear layer refuses it, after two signals
        model(images(10))
    assert [w.seen for w in monitor.windows] == [10]


def test_training_and_other_functions_are_left_alone(model, reference):
    model = copy.deepcopy(model)  # training changes its statistics
    monitor = Monitor(model, reference, window=4)

    @monitor
    def predict(x):
        return model(x)

    with torch.no_grad():
        predict(images(6))
        model(images(6))  # outside
    monitor.close()
    assert [w.images for w in monitor.windows] == [4, 2]
    with monitor:
        model.train()
        model(images(4))
        model.eval()
    assert len(monitor.windows) == 2


def test_coroutines_are_watched_and_generators_refused(model, reference):
    monitor = Monitor(model, reference, window=4)

    @monitor
    async def predict(x):
        await asyncio.sleep(0)
        return model(x)

    with torch.no_grad():
        asyncio.run(predict(images(6)))
    assert monitor.count == 1
    assert not model._forward_hooks

    def stream():
        yield model(images(2))

    with pytest.raises(TypeError, match="stream is a generator: watch inside it"):
        monitor(stream)


def test_a_store_or_listener_that_fails_stops_no_call(model, reference):
    class Full:
        def append(self, window, verdict=None):
            raise OSError(28, "No space left on device")

    told = []
    monitor = Monitor(model, reference, window=5, store=Full(), keep=2)
    monitor.listen(lambda window, verdict: 1 / 0)
    monitor.listen(lambda *what: told.append(what))
    with pytest.warns(RuntimeWarning) as warned:
        served(model, monitor, images(15).split(5))
    assert ["No space left" in str(w.message) for w in warned] == [True, False] * 3
    assert "ZeroDivisionError" in str(warned[1].message)
    assert len(told) == monitor.count == 3
    assert len(monitor.windows) == 2


def test_sampling_looks_at_its_share(model, reference):
    monitor = served(
        model, Monitor(model, reference, window=16, sample=0.125), images(1024).split(32)
    )
    assert [w.images for w in monitor.windows] == [16] * 8
    assert sum(w.seen for w in monitor.windows) == 1024
    with pytest.raises(ValueError, match=r"sample=0 must be a share"):
        Monitor(model, sample=0)


def test_memory_is_bounded(model, reference):
    monitor = Monitor(model, reference, window=timedelta(days=1))
    waiting = []
    with monitor, torch.no_grad():
        for k in range(12):
            model(images(100, k))
            pending = monitor._open.pending
            waiting.append(sum(z.numel() for rows in pending for z in rows.values()))
    values = sum(s.values * s.frame.channels for s in reference.signals.values())
    assert 0 < max(waiting) <= CHUNK * values
    assert monitor.windows[0].images == 1200


def test_time_windows_and_a_clock_that_steps_back(model, reference, monkeypatch):
    monitor = Monitor(model, reference, window=timedelta(seconds=60))
    clock = {"time": 1e9, "monotonic": 5.0}
    for name in clock:
        monkeypatch.setattr(f"qact.monitor.monitor.time.{name}", lambda name=name: clock[name])
    with monitor, torch.no_grad():
        model(images(5))
        clock["time"] -= 7200  # summer time, or a server of time
        clock["monotonic"] += 61
        model(images(5))
        model(images(5))
    first, second = monitor.windows
    assert (first.start, first.end, first.images) == (1e9, 1e9 + 61, 10)
    assert second.start == 1e9 - 7200
    assert second.end >= second.start


def test_no_call_waits_for_a_calibration(model, reference, monkeypatch):
    monitor = Monitor(model, reference, window=timedelta(microseconds=1))
    alarm, told = monitor.alarm(rate=0.01), []
    monitor.listen(lambda window, verdict: (monitor.close(), told.append(window.images)))
    calibrated, null = threading.Event(), Reference.null

    def slow(self, images):
        assert calibrated.wait(900)
        return null(self, images)

    monkeypatch.setattr(Reference, "null", slow)
    with monitor, torch.no_grad():
        for n in (5, 9, 13):
            model(images(n) + 3)
        assert (monitor.count, alarm.standing, told) == (0, False, [])
        calibrated.set()
    assert (monitor.count, alarm.standing, told) == (3, True, [5, 9, 13])
    assert list(monitor.verdicts) == [reference.test(window) for window in monitor.windows]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_process_judges_by_a_thread_of_its_own(model, reference):
    monitor = Monitor(model, reference, window=timedelta(microseconds=1))
    with monitor, torch.no_grad():
        model(images(5))
    assert monitor.count == 1  # the thread of this process has begun
    child = os.fork()
    if child == 0:
        signal.alarm(900)  # it hung
        with contextlib.suppress(BaseException), monitor, torch.no_grad():
            torch.set_num_threads(1)  # those of this process are gone
            model(images(5))
        os._exit(monitor.count)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


def test_images_that_are_not_finite_are_left_out(model, reference):
    x = images(20)
    x[3, 0, 0, 0], x[7] = torch.nan, torch.inf
    monitor = served(model, Monitor(model, reference, window=20), [x])
    (window,) = monitor.windows
    assert (window.images, window.broken) == (18, 2)
    assert monitor.verdicts[0].broken == 0.1
    assert torch.isfinite(window.context("5").mean).all()
    monitor = Monitor(model, reference, window=4)
    alarm = monitor.alarm(rate=0.01)
    served(model, monitor, [x[7:8].expand(4, -1, -1, -1)])
    assert alarm.standing
    assert monitor.verdicts[0].images == 0


@pytest.mark.own_seed  # for which the input is the first to show it
def test_an_alarm_fires_on_drift_and_seldom_else(model, reference):
    monitor = Monitor(model, reference, window=64, keep=64)
    alarm, run = monitor.alarm(rate=0.05), monitor.alarm(rate=0.05, detector="cusum")
    served(model, monitor, images(64 * 30, 77).split(64))
    fired = sum(verdict.p <= 0.05 for verdict in monitor.verdicts)
    assert fired <= 6  # 1.5 expected; more in one of 3,000 seeds
    served(model, monitor, (images(256, 78) + 1.0).split(64))
    assert alarm.standing
    assert run.standing
    assert monitor.standing
    assert monitor.verdicts[-1].p == pytest.approx(1 / 501)
    assert monitor.verdicts[-1].worst == "input"


def test_the_distance_is_that_of_the_distribution_functions(model, reference):
    """By hand, from the values themselves: both sides of every edge, without a histogram."""
    x = images(50, 5)
    monitor = served(model, Monitor(model, reference, window=50), [x])
    with torch.no_grad():
        logits = model(x)
        source = model(torch.cat([images(256, 10 + k) for k in range(2)]))
    signal = reference.signals["logits"]
    edges = signal.cells * 2.0 ** signal.exponent[:, None]
    gaps = [
        max(abs((a < e).double().mean() - (b < e).double().mean()) for e in row)
        for a, b, row in zip(logits.T, source.T, edges, strict=True)
    ]
    assert monitor.verdicts[0].distances["logits"] == pytest.approx(float(sum(gaps) / 3), abs=1e-6)


def test_the_null_follows_the_variance_between_images(model):
    """Images that are each constant count once, whatever the number of their values."""
    flat = torch.randn(400, 1, 1, 1)
    pixels = torch.randn(400, 1, 8, 8)
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 2)).eval()
    spread = {}
    for name, x in (("flat", flat.expand(-1, -1, 8, 8)), ("pixels", pixels)):
        reference = record(net, x, draws=200)
        null = reference.null(64).distances
        spread[name] = null[list(reference.signals).index("0")].median().item()
    # By simulation: 64 and 400 uniform values, their largest gap at eight levels.
    draw, levels = torch.Generator().manual_seed(0), (torch.arange(8) + 0.5) / 8
    one, other = (torch.rand(500, n, 1, generator=draw) for n in (64, 400))
    gaps = ((one < levels).double().mean(1) - (other < levels).double().mean(1)).abs().amax(1)
    assert spread["flat"] == pytest.approx(gaps.median().item(), rel=0.12)
    assert spread["pixels"] == pytest.approx(spread["flat"] / 4, rel=0.15)


def test_a_window_of_one_image_is_judged(model, reference):
    monitor = served(model, Monitor(model, reference, window=1), [images(1, 9)])
    assert 0 < monitor.verdicts[0].p <= 1


def test_a_reference_comes_back(model, reference, tmp_path):
    reference.save(tmp_path / "r.npz")
    again = Reference.load(tmp_path / "r.npz")
    monitor = served(model, Monitor(model, reference, window=64), [images(64)])
    assert again.test(monitor.windows[0]) == monitor.verdicts[0]
    whole = (tmp_path / "r.npz").read_bytes()
    for damaged in (b"", whole[:500], b"PK" + whole[2:900]):
        (tmp_path / "x.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match="is no reference"):
            Reference.load(tmp_path / "x.npz")
    import numpy as np

    arrays = dict(np.load(tmp_path / "r.npz"))
    less = {name: array for name, array in arrays.items() if name != "0.mass"}
    other = arrays | {"numbers": arrays["numbers"] + 1}
    for wrong in ({"a": arrays["hits"]}, less, other):
        np.savez(tmp_path / "x.npz", **wrong)
        with pytest.raises(ValueError, match=r"is no reference: its format|is damaged"):
            Reference.load(tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", arrays["hits"])
    with pytest.raises(ValueError, match="is no reference"):
        Reference.load(tmp_path / "x.npy")


def test_what_cannot_be_watched_is_said(model, reference):
    with pytest.raises(ValueError, match="different models"):
        reference.test(served(model, Monitor(model, where="1", window=4), [images(4)]).windows[0])
    with pytest.raises(ValueError, match="of 8 images: 16 are needed"):
        record(model, images(8))
    with pytest.raises(ValueError, match="not finite"):
        record(model, torch.full((32, 1, 8, 8), torch.nan))
    with pytest.raises(ValueError, match="needs a reference"):
        Monitor(model).alarm()
    with pytest.raises(ValueError, match="unknown detector 'cusun'; did you mean 'cusum'"):
        Monitor(model, reference).alarm(detector="cusun")
    with pytest.raises(ValueError, match=r"rate=0.001 is below 0.002, .* draws=999\) or more"):
        Monitor(model, reference).alarm(rate=0.001)
    assert not Monitor(model, reference).alarm(rate=0.001, detector="cusum").standing
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        Monitor(model, where="nowhere")
    with pytest.raises(ValueError, match="without commas"):
        Monitor(model, version="a,b")
    with pytest.raises(ValueError, match="has no QAct or norm layer"):
        Monitor(nn.Sequential(nn.Linear(3, 2)))


def test_a_compiled_model_is_refused(model):
    with pytest.raises(ValueError, match="Sequential is compiled"):
        Monitor(torch.compile(model))


def test_a_layer_that_is_never_called_is_said():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    net.spare = nn.BatchNorm1d(4)
    net.forward = lambda x: net[1](net[0](x))
    with Monitor(net, window=4), pytest.raises(RuntimeError, match="never called: spare"):
        net(torch.randn(4, 3))


def test_values_beyond_the_reference_leave_the_distances_exact(model):
    """A heavy tail in the window must not coarsen the cells at which all others are compared."""
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).eval()
    source = torch.exp(2 * torch.randn(400, 2))
    reference = record(net, source, where="0", draws=19)
    x = torch.exp(2 * torch.randn(300, 2))
    x[0] = torch.tensor([1e6, -1e6])
    monitor = served(net, Monitor(net, reference, window=300), [x])
    signal = reference.signals["input"]
    edges = signal.cells * 2.0 ** signal.exponent[:, None]
    gaps = [
        max(abs((a < e).double().mean() - (b < e).double().mean()) for e in row)
        for a, b, row in zip(x.T, source.T, edges, strict=True)
    ]
    found = reference.distances(monitor.windows[0])["input"]
    assert found.tolist() == pytest.approx([float(gap) for gap in gaps], abs=1e-9)
