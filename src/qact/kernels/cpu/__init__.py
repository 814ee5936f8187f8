"""The CPU engine, compiled by Numba: no compiler is needed to install it (extra ``qact[cpu]``).

    pool       channels shared out among threads
    pages      memory for large outputs, in large pages
    rows       one channel as one contiguous row: gathered, summed up, put into bins
    gauss      the kernel's taps, its convolution, the normal score
    table      from a channel's bins to its ranks and levels
    steps      exact step levels: the order statistics at which the level rises
    forward    norm -> quantile -> norm, one channel after the other
    backward   its gradient
    memory     arrays and bits as instructions, for a short first call
    lanes      sixteen values side by side: vectors, where LLVM finds none by itself
    indexed    the same from and to places that an index for each lane gives
    few        few values a channel: sixteen of them side by side; few_forward, few_backward
    lookup     a stored context: a cubic or one interpolation per value
    follow     the running context
    passes     the general passes of `qact.kernels.passes`; extremes, moments: parts of them
    merge      contexts added up
    ahead      kernels lowered where a wheel is built, for a shorter one; lower: what does that
    places     one for compiled code where no folder can be written

A channel is worked through while it is in the cache, so memory is read once and written once.
"""

from qact.kernels.cpu import places as places  # before Numba looks for one
