"""PTX run on a processor: what Triton's compiler made of the kernels, without a GPU.

    program       a kernel's text as instructions
    values        the numbers in registers: types, conversions, rounding
    arithmetic    instructions of one lane
    warps         instructions of 32 lanes: shuffles, reductions, products of matrices
    memory        global and shared memory
    races         who touched a byte last
    state         what lanes hold, and which of them run
    instructions  what becomes of it
    flow          where lanes that have parted meet again
    machine       from the first instruction to the last
    counts        what is issued and moved
    launches      Triton's launches, run here

Triton's interpreter runs the Python source of a kernel, a program at a time and a tensor at a time.
Here every lane runs what is compiled: with constants specialised as a launch does, layouts,
barriers and shuffles. So it finds what only a compiler brings in, and what only a card shows: reads
outside of a tensor, addresses that are not aligned, barriers that not all lanes reach, and lanes
that read what others write without a barrier between them.

PTX is not yet machine code: NVIDIA's assembler is trusted. Time is not modelled.
"""
