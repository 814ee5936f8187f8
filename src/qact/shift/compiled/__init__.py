"""One pass over each image on a CPU, compiled by Numba (extra ``qact[cpu]``).

    random    words, uniform and normal numbers
    noise     noises, and the last rounding
    linear    sparse matrices along the two axes
    blur      disks and lines of taps
    gather    pixels from other places: elastic transform, glass, affine maps
    digital   contrast, brightness, saturation, pixelate
    jpeg      colours, subsampling, and blocks between the transforms of
    dct       the 8-point cosine transform
    plasma    fog and ice
    spatter   edges of drops and the distance to them
    augmix    tables of levels

The same integers and single IEEE operations, in the same order, as in the plain versions beside
which they stand (`qact.shift.random.on_cpu` chooses): the bits are the same. What is compiled keeps
an image in the cache and needs no copies between the operations.
"""
