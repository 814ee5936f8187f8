"""Recalibration by rank of networks that never heard of QAct: record once, map at test time.

Adaptive Quantile Recalibration (Mehrbod et al. 2025, arXiv 2511.03148) on mergeable contexts.
"""

from qact.recalibrate.block import recalibrated
from qact.recalibrate.counting import BINS, Counter
from qact.recalibrate.mapping import rank_map
from qact.recalibrate.recording import attach, record, remove
from qact.recalibrate.transfer import Stream, by_rank
from qact.surgery import Where

__all__ = [
    "BINS",
    "Counter",
    "Stream",
    "Where",
    "attach",
    "by_rank",
    "rank_map",
    "recalibrated",
    "record",
    "remove",
]
