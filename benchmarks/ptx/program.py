"""A kernel's PTX as instructions: the part of the language that Triton's compiler writes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_LABEL = re.compile(r"([$\w]+):$")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(%\w+)<(\d+)>")
_REGISTER = re.compile(r"\.reg\s+\.(\w+)\s+(%?\w+(?:\s*,\s*%?\w+)*)")
_PARAM = re.compile(r"\.param\s+\.(\w+)\s+(?:\.ptr\s+(?:\.\w+\s+)*?(?:\.align\s+\d+\s+)?)?(\w+)")
_GUARD = re.compile(r"@(!?)(%\w+)\s+(.*)", re.S)


@dataclass(frozen=True)
class Address:
    """``[base + offset]``: a register, or the name of a parameter or of shared memory."""

    base: str
    offset: int


Operand = str | Address | tuple[str, ...]


@dataclass(frozen=True)
class Instruction:
    """``@guard name.modifiers operands``."""

    name: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: tuple[bool, str] | None  # whether it must be true, and which

    def __str__(self) -> str:
        guard = f"@{'' if self.guard[0] else '!'}{self.guard[1]} " if self.guard else ""
        return f"{guard}{'.'.join((self.name, *self.modifiers))} {self.operands}"


@dataclass
class Program:
    """A kernel: its parameters by name and type, its instructions, and where labels stand."""

    name: str = ""
    params: list[tuple[str, str]] = field(default_factory=list)
    lanes: int = 0
    registers: dict[str, str] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    meets: dict[int, int] = field(default_factory=dict)  # by branch: see `ptx.flow`

    def kind(self, register: str) -> str:
        """The type that a register was declared with: by its own name, or of its numbered row."""
        return self.registers.get(register) or self.registers[register.rstrip("0123456789")]


def parse(text: str) -> Program:
    """Read the one kernel of a PTX module.

    Raises:
        ValueError: there is no ``.visible .entry`` in the text.
    """
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.S)
    head = re.search(r"\.visible\s+\.entry\s+(\w+)\s*\(([^)]*)\)\s*([^{]*)\{", text)
    if head is None:
        raise ValueError(f"no kernel (.visible .entry) in PTX of {len(text)} characters")
    made = Program(head[1])
    made.params = [(name, kind) for kind, name in _PARAM.findall(head[2])]
    lanes = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", head[3])
    made.lanes = int(lanes[1]) if lanes else 0
    for statement in _statements(text[head.end() :]):
        _read(statement, made)
    return made


def _statements(body: str) -> list[str]:
    """Statements to the end of the kernel: labels, declarations and instructions."""
    found: list[str] = []
    depth, kept = 0, ""
    for line in body.splitlines():
        bare = line.strip()
        if _LABEL.match(bare):
            found.append(bare)
        elif not bare.startswith((".loc", ".pragma")):
            depth += bare.count("{") - bare.count("}")
            if depth < 0:  # the kernel's own brace
                break
            *whole, kept = f"{kept} {bare}".split(";")
            # Scopes begin and end before a statement; a vector's braces stand within one.
            found += [statement.lstrip(" \t{}") for statement in whole]
    return [statement for statement in found if statement]


def _read(statement: str, made: Program) -> None:
    label = _LABEL.match(statement)
    if label:
        made.labels[label[1]] = len(made.instructions)
    elif row := _REGISTERS.match(statement):
        made.registers[row[2]] = row[1]
    elif single := _REGISTER.match(statement):
        made.registers |= dict.fromkeys(re.split(r"\s*,\s*", single[2]), single[1])
    else:
        made.instructions.append(_instruction(statement))


def _instruction(statement: str) -> Instruction:
    guard = _GUARD.match(statement)
    told = guard[3] if guard else statement
    opcode, _, rest = told.replace("\t", " ").partition(" ")
    name, *modifiers = opcode.split(".")
    operands = tuple(_operand(part) for part in _split(rest))
    return Instruction(
        name, tuple(modifiers), operands, (not guard[1], guard[2]) if guard else None
    )


def _split(text: str) -> list[str]:
    """Operands: commas within braces are a vector's own."""
    return [
        part.strip()
        for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,{}\[\]]+", text)
        if part.strip()
    ]


def _operand(text: str) -> Operand:
    if text.startswith("{"):
        parts = tuple(part.strip() for part in text[1:-1].split(","))
        return parts if len(parts) > 1 else parts[0]
    if text.startswith("["):
        base, _, offset = text[1:-1].replace(" ", "").partition("+")
        return Address(base, int(offset or 0))
    return text
