"""Where networks are trained and measured, by name, checked before anything starts."""

from __future__ import annotations

import torch

from qact.bench.errors import RecipeError


def devices_of(name: str, on: str | None = None) -> tuple[str, ...]:
    """Return the devices of ``"cpu"``, ``"cuda"`` (all GPUs), ``"cuda:1"``, or a list with commas.

    Args:
        name: as above.
        on: the address of a cluster, of whose workers each has its own: ``"cpu"`` or ``"cuda"``.

    Raises:
        RecipeError: no such device, or one that this machine lacks.

    Example:
        >>> devices_of("cpu")
        ('cpu',)
    """
    if on is not None and on.partition(":")[0] not in ("here", "processes"):
        if name not in ("cpu", "cuda"):
            raise RecipeError(f"device is cpu or cuda, of each worker of {on}, got {name!r}")
        return (name,)
    found: list[str] = []
    for part in name.split(","):
        try:
            device = torch.device(part.strip())
        except RuntimeError as error:
            raise RecipeError(f"device must be cpu, cuda or cuda:N, got {part!r}") from error
        found += _present(device, part)
    return tuple(dict.fromkeys(found))


def _present(device: torch.device, asked: str) -> list[str]:
    if device.type == "cpu":
        return ["cpu"]
    if device.type == "mps" and torch.backends.mps.is_available():
        return ["mps"]
    if device.type != "cuda":
        raise RecipeError(f"device must be cpu, cuda or cuda:N, got {asked!r}")
    count = torch.cuda.device_count()
    if not count or (device.index or 0) >= count:
        raise RecipeError(f"device {asked!r} is not here: {count} GPUs are visible")
    return (
        [f"cuda:{device.index}"]
        if device.index is not None
        else [f"cuda:{k}" for k in range(count)]
    )
