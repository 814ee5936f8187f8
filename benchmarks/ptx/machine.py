"""Programs and lanes: where each of them stands.

All lanes of several programs run together. Where they part, some go on first, to where all of them
meet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptx.flow import END
from ptx.instructions import execute
from ptx.memory import FaultError
from ptx.program import Instruction
from ptx.races import RaceError
from ptx.state import State


class Machine(State):
    """Lanes that run a program to its end."""

    def run(self) -> None:
        """All instructions, until every lane has returned.

        Raises:
            FaultError: a lane touched what it may not.
            RaceError: what it reads or writes depends on who comes first.
            RuntimeError: a barrier that only some lanes of a program reach.
            NotImplementedError: an instruction that is not known here.
        """
        code, meets = self.program.instructions, self.program.meets
        at, until = 0, END
        # Lanes that wait for others: where they go on, until where, and which they are.
        waiting: list[tuple[int, int, NDArray]] = []
        with np.errstate(all="ignore"):
            while True:
                while at == until:
                    if not waiting:
                        return
                    at, until, mask = waiting.pop()
                    mask = mask & self.alive
                    if not mask.any():
                        at = until
                        continue
                    self.mask = None if mask.all() else mask
                instruction = code[at]
                if self.counts:
                    self.counts.instruction(self.guarded(instruction), self.size)
                branch = self._step(instruction)
                if branch is None:
                    at += 1
                    continue
                target, taken = branch
                active = self.active()
                rest = active & ~taken
                if not rest.any():
                    at = target
                elif not taken.any():
                    at += 1
                else:
                    meet = END if target == END else meets[at]
                    if meet != until:
                        waiting.append((meet, until, active))
                    waiting.append((target, meet, taken))
                    at, until, self.mask = at + 1, meet, rest

    def _step(self, instruction: Instruction) -> tuple[int, NDArray] | None:
        try:
            goes = self._control(instruction)
            if goes is None:
                execute(self, instruction)
        except (FaultError, RaceError, KeyError, ValueError, TypeError) as error:
            raise type(error)(f"{self.program.name}, {instruction}: {error}") from error
        return goes

    def _control(self, instruction: Instruction) -> tuple[int, NDArray] | None:
        """Where lanes go after an instruction that says so, and which."""
        if instruction.name == "bar":
            self._barrier()
            return None
        if instruction.name not in ("bra", "ret", "exit"):
            return None
        taken = self.guarded(instruction)
        taken = np.ones(self.size, bool) if taken is None else taken
        if instruction.name == "bra":
            return self.program.labels[str(instruction.operands[0])], taken
        self.alive &= ~taken
        return END, taken

    def _barrier(self) -> None:
        if self.mask is not None:
            here = self.mask.reshape(-1, self.width)
            alive = self.alive.reshape(-1, self.width)
            if np.any(here.any(1) & (here != alive).any(1)):
                raise RuntimeError(f"{self.program.name}: a barrier that some lanes do not reach")
            self.stretch += here.any(1)
        else:
            self.stretch += 1
