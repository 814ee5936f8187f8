"""What is shown: averages, figures, the page, the tables on a terminal."""

from qact.bench.report.html import picture, render, write_report
from qact.bench.report.summary import Stat, Summary
from qact.bench.report.terminal import print_all

__all__ = [
    "Stat",
    "Summary",
    "picture",
    "print_all",
    "render",
    "write_report",
]
