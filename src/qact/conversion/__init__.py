"""Conversion of any model: its activations exchanged for others, by name, type or predicate.

One file per step: `kinds` knows what an activation is, `dryrun` sees one pass, `dims` follows the
channels, `static` reads what can be read without a pass, `plan` chooses, `rewrite` traces and
`graft` mounts new forwards, `build` makes layers, `rehearsal` rehearses, `warm` and `fit`
calibrate, `report` remembers. Softmax in attention: `attention` finds and edits, `multihead` is
torch's module with any map, `softmax_calls` rewrites a forward's source, `temperature` calibrates.
"""

from qact.conversion.lazy import Layer, layer
from qact.conversion.model import convert, convert_
from qact.conversion.report import Row, Summary, summary

__all__ = ["Layer", "Row", "Summary", "convert", "convert_", "layer", "summary"]
