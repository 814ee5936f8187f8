import sys

import pytest
import torch

from qact.calibration import plots, reliability, risk_coverage

pytest.importorskip("matplotlib")


def case(n=500):
    return (3 * torch.randn(n, 4, dtype=torch.float64)).softmax(1), torch.randint(4, (n,))


def test_the_diagram_shows_rates_bands_and_counts():
    probs, labels = case()
    figure = plots.reliability_diagram(probs, labels, n_bins=10, title="a network")
    upper, lower = figure.axes
    bins = reliability(probs, labels, n_bins=10)
    used = bins.count > 0
    shown = upper.lines[1]
    assert shown.get_xdata().tolist() == bins.confidence[used].tolist()
    assert shown.get_ydata().tolist() == bins.accuracy[used].tolist()
    assert [bar.get_height() for bar in lower.patches] == bins.count[used].tolist()
    assert upper.get_title() == "a network"
    assert upper.collections  # the band


def test_wilson_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for hits, n in ((0, 10), (3, 7), (50, 50), (1, 1)):
        expected = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
        low, high = plots.wilson_interval(
            torch.tensor(hits / n, dtype=torch.float64), torch.tensor(float(n)).double()
        )
        assert (low.item(), high.item()) == pytest.approx(tuple(expected), abs=1e-6)


def test_curves_show_means_and_area():
    figure = plots.severity_curves({"a": {5: [0.2, 0.4], 0: [0.1]}, "b": {0: [0.0], 5: [0.1]}})
    (axes,) = figure.axes
    assert axes.lines[0].get_xdata().tolist() == [0, 5]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.3])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    probs, labels = case()
    figure = plots.risk_coverage_curves({"a": (probs, labels)})
    risk = risk_coverage(probs, labels)[1]
    assert figure.axes[0].lines[0].get_ydata().tolist() == risk.tolist()
    assert f"AURC {risk.mean():.3f}" in figure.axes[0].get_legend().get_texts()[0].get_text()


def test_they_draw_where_they_are_told(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure()
    upper, lower = figure.subplots(2, 1)
    assert plots.reliability_diagram(*case(), axes=(upper, lower)) is figure
    figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_one_sample_and_empty_bins_can_be_drawn():
    probs = torch.tensor([[1.0, 0.0]])
    for binning in ("equal_width", "equal_mass"):
        figure = plots.reliability_diagram(probs, torch.tensor([0]), binning=binning)
        assert len(figure.axes[1].patches) == 1


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"qact\[bench\]"):
        plots.severity_curves({})


@pytest.mark.filterwarnings("error")
def test_nothing_that_is_drawn_is_warned_of():
    plots.reliability_diagram(*case())
    plots.severity_curves({"a": {5: [0.2, 0.4], 0: [0.1]}})
    plots.risk_coverage_curves({"a": case()})
