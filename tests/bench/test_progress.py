import io

from rich.console import Console

from qact.bench.runner.progress import Bars, Lines


def play(display):
    with display as shown:
        shown.start("relu/0", 100)
        shown.advance("relu/0", 40, "training")
        shown.advance("relu/0", 40, "measuring")
        shown.done("relu/0", "fine")
        shown.start("qact/0", 100)
        shown.done("qact/0", "failed: [not markup]")


def test_lines_are_plain_and_count_the_work():
    text = io.StringIO()
    play(Lines(Console(file=text, width=80), 200))
    first, second = text.getvalue().splitlines()
    assert first.endswith("50%  relu/0        fine")  # a short cell counts in full
    assert second.endswith("100%  qact/0        failed: [not markup]")
    assert "\x1b" not in text.getvalue()


def test_bars_fit_80_columns_and_leave_a_line_per_cell():
    text = io.StringIO()
    play(Bars(Console(file=text, width=80, force_terminal=True, color_system=None), 200))
    assert "relu/0        fine" in text.getvalue()
    assert "failed: [not markup]" in text.getvalue()
    assert "100%" in text.getvalue()
