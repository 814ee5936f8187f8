"""Passes over images on a CPU that Numba compiles (extra ``qact[cpu]``), where that pays.

    jit       how the passes are compiled
    motion    lines of taps: motion blur, snow
    augmix    tables of levels and affine maps

The same integers and single IEEE operations, in the same order, as in the plain versions beside
which they stand (`qact.corruptions.random.on_cpu` chooses): the bits are the same. What is compiled
keeps an image in the cache and needs no copies between the operations. A pass stands here if it
makes its corruption, or AugMix, at least three times as fast; docs/design.md has the figures.
"""
