"""One pass over each image on a CPU, compiled by Numba (extra ``qact[cpu]``).

    twins     which corruptions are one pass from images to finished images
    jit       how the passes are compiled
    levels    the grid of 8 bits, and the rounding that ends every corruption
    random    words, uniform, normal and Poisson numbers
    noise     the four noises
    linear    matrices along the two axes: gaussian filters, zooms
    border    pixels around a plane
    disk      defocus
    motion    lines of taps
    gather    pixels from other places: elastic transform, glass
    affine    affine maps
    digital   contrast, brightness, saturation
    pixelate  box resizes
    jpeg      subsampling and the coded blocks
    ycc       the colours of JPEG
    dct       the 8-point cosine transform and quantisation of eight blocks
    plasma    fog and ice
    canny     edges
    spatter   drops and mud
    augmix    tables of levels and maps

The same integers and single IEEE operations, in the same order, as in the plain versions beside
which they stand (`qact.corruptions.random.on_cpu` chooses): the bits are the same. What is compiled
keeps
an image in the cache and needs no copies between the operations.
"""
