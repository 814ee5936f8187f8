"""The GPU engine, written in Triton: the same block as `qact.kernels.cpu`, one launch a pass.

    constants  the numbers of `qact.kernels.columns`, as kernels read them
    tiles      which values a program works on; a channel's numbers beside them
    bins       values added up by bins, by one of the next two
    histograms ... in histograms of shared memory
    products   ... in products of matrices
    gauss      the normal distribution, its quantile, and the kernel's convolution
    observe    statistics, norm and grid of a channel; its bins
    table      from a channel's bins to its ranks and scores
    lookup     a value's score, and the norm behind it
    forward    norm -> quantile -> norm: the kernels
    steps      exact step levels
    descent    the gradient's pieces: through a norm, and a value's slope
    sums       its loops over tiles
    slopes     from bins of gradients to slopes
    backward   the gradient: the kernels
    follow     the running context
    launch     how a tensor is cut into programs, a plan in a kernel's words
    passes     the launches
    block      the fused block on tensors

Small channels are worked through by one program each, in one launch. Larger ones are shared out:
every program puts its tiles into bins of its own, which are added up in one order, so that results
are the same to the bit. Importing `block` needs Triton; importing this does not.
"""
