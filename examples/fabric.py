"""Two processes train one network under Lightning Fabric; contexts are those of the whole batch.

python examples/fabric.py
"""

import torch
import torch.distributed.nn  # before there is a group, which its default arguments would keep alive
from lightning_fabric import Fabric
from torch import nn

import qact


def train(fabric: Fabric) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), qact.NormedQAct(16), nn.Linear(16, 2))
    model = qact.convert_sync_(model)
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for step in range(20):
        x = torch.randn(64, 8, generator=torch.Generator().manual_seed(step))
        mine = x[fabric.global_rank :: fabric.world_size]
        loss = nn.functional.cross_entropy(model(mine), (mine[:, 0] > 0).long())
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
    mean = fabric.all_reduce(loss.detach()).item()
    context = fabric.all_gather(model.module[1].quantile.context.mass)
    same = bool((context == context[0]).all())
    if fabric.global_rank == 0:
        print(f"loss {mean:.2f} on {fabric.world_size} processes, contexts agree: {same}")


def main(fabric: Fabric) -> None:
    train(fabric)
    # Fabric leaves gloo's group as it is; its threads can abort a process that ends meanwhile.
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
    fabric.launch(main)
