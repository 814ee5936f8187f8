"""One of two processes: ``python worker.py RANK DIRECTORY`` writes what it computed."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES, data, layer, part, results

import qact


def synchronised(rank: int) -> dict:
    found = {}
    for name, case in CASES.items():
        module = qact.convert_sync_(layer(case, "eager"))
        batches = [(part(case, x, rank), part(case, w, rank)) for x, w in data(case)]
        found[name] = results(module, batches)
    return found


def network() -> nn.Module:
    torch.manual_seed(0)
    act, block = qact.QAct(6, engine="eager"), qact.QAct.paper(6, engine="eager")
    return nn.Sequential(nn.Linear(4, 6), act, nn.Linear(6, 6), block)


def trained(model: nn.Module, rank: int) -> dict:
    """Two steps on halves of the same batches; gradients of the first."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    losses, grads = [], {}
    for _ in range(2):
        x, w = torch.randn(32, 4, generator=generator), torch.randn(32, 6, generator=generator)
        loss = (model(x[rank::2]) * w[rank::2]).sum()
        optimizer.zero_grad()
        loss.backward()
        grads = grads or {n: whole(p.grad).clone() for n, p in model.named_parameters()}
        optimizer.step()
        losses.append(loss.detach())
    parameters = {n: whole(p.detach()).clone() for n, p in model.named_parameters()}
    return {"losses": losses, "grads": grads, "parameters": parameters}


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def ddp(rank: int) -> dict:
    return trained(DistributedDataParallel(qact.convert_sync_(network())), rank)


def fsdp(rank: int) -> dict:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = qact.convert_sync_(network())
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[1], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return trained(model, rank)


def all_empty() -> str:
    try:
        qact.SyncQAct(3)(torch.empty(0, 3))
    except ValueError as error:
        return str(error)
    return "accepted"


def main(rank: int, directory: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(directory / "store"), 2)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=800)
    )
    found = {"synchronised": synchronised(rank), "ddp": ddp(rank), "fsdp": fsdp(rank)}
    found["all empty"] = all_empty()
    torch.save(found, directory / f"rank{rank}.pt")
    dist.destroy_process_group()
    # FSDP keeps the group for good, and its threads can abort an ending process (pytorch#190489).
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
