"""Contexts over several processes: a batch that is divided among them is one context."""

from qact.nn.distributed.convert import convert_sync_
from qact.nn.distributed.layer import SyncQAct
from qact.nn.distributed.norm import SyncChannelNorm

__all__ = ["SyncChannelNorm", "SyncQAct", "convert_sync_"]
