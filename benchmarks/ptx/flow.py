"""Where lanes that have parted meet again."""

from __future__ import annotations

from ptx.program import Program

END = 1 << 30  # behind the last instruction


def meetings(program: Program) -> dict[int, int]:
    """For each branch the first instruction that every way from it passes: END where there is none.

    That is its immediate post-dominator, where NVIDIA's assembler has a warp's lanes wait for each
    other. Found from the end backwards, in sets of blocks until nothing changes.
    """
    ways = _ways(program)
    blocks = [*sorted(ways), END]
    number = {block: n for n, block in enumerate(blocks)}
    all_, end = (1 << len(blocks)) - 1, 1 << (len(blocks) - 1)
    after = dict.fromkeys(ways, all_) | {END: end}
    changed = True
    while changed:
        changed = False
        for block in reversed(blocks[:-1]):
            met = all_
            for way in ways[block][1]:
                met &= after[way]
            met |= 1 << number[block]
            changed |= met != after[block]
            after[block] = met
    made = {}
    for last, to in ways.values():
        if len(to) > 1:
            both = after[to[0]] & after[to[1]]
            # What every way passes lies on all of them in one order: the nearest is behind none of
            # the others, and so all of them are behind it.
            common = [block for block in blocks if both >> number[block] & 1]
            made[last] = next(b for b in common if after[b] == both)
    return made


def _ways(program: Program) -> dict[int, tuple[int, list[int]]]:
    """Blocks by their first instruction: their last, and where they go."""
    code = program.instructions
    leaders = {0, *program.labels.values()}
    leaders |= {n + 1 for n, it in enumerate(code) if it.name in ("bra", "ret", "exit")}
    starts = sorted(start for start in leaders if start < len(code))
    made = {}
    for start, following in zip(starts, [*starts[1:], END], strict=True):
        last = min(following, len(code)) - 1
        it = code[last]
        to = []
        if it.name == "bra":
            to.append(program.labels[str(it.operands[0])])
        elif it.name in ("ret", "exit"):
            to.append(END)
        if it.name not in ("bra", "ret", "exit") or it.guard:
            to.append(following)
        made[start] = (last, list(dict.fromkeys(to)))
    return made
