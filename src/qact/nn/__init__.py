"""Layers: `QAct`, its block with BatchNorms, a lazy one, and those of several processes."""

import qact.nn.normed  # noqa: F401 - gives QAct its published block, `QAct.paper`
