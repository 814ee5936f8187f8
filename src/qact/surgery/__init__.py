"""One way to walk and to edit any model.

- `where`: which parts a user means, by name, pattern, container, type or predicate.
- `kinds`: what a module is, an activation or a norm, and where its channels stand.
- `walk`, `wrapped`: what is inside what, compiled and distributed models opened.
- `batches`: what a loader yields, as a call of the model.
- `flags`: ``eval()`` and back; out of inference mode.
- `edit`: replacements that an error undoes.
- `lending`: what one thread lends to a layer for a block; the innermost block holds.
- `tapping`: what passes a module, told or changed for a block: all hooks are hung here.

Nothing here knows of contexts or ranks.
"""

from qact.surgery.batches import batches, call, call_all
from qact.surgery.edit import Edit
from qact.surgery.flags import Flags, evaluating, frozen, lasting
from qact.surgery.kinds import channels, is_activation, is_norm
from qact.surgery.lending import lending, lent
from qact.surgery.tapping import hooked, hooking, tapped
from qact.surgery.walk import joined, outermost
from qact.surgery.where import Where, parse, select
from qact.surgery.wrapped import inner

__all__ = [
    "Edit",
    "Flags",
    "Where",
    "batches",
    "call",
    "call_all",
    "channels",
    "evaluating",
    "frozen",
    "hooked",
    "hooking",
    "inner",
    "is_activation",
    "is_norm",
    "joined",
    "lasting",
    "lending",
    "lent",
    "outermost",
    "parse",
    "select",
    "tapped",
]
