"""A served model that notices fog, adapts while it lasts, and reports it.

    pip install ".[bench,monitor]" timm fastapi uvicorn
    python examples/service.py            # digits, about a minute; writes service/report.html

A small ResNet of timm is trained on the digits and converted to QAct. `service` makes it a FastAPI
application with a monitor around it: `POST /predict` takes images as a NumPy file (float32 in
[0, 1]), `GET /status` says what stands, `GET /report` is the monitor's page. `main` serves it on
loopback and is its only client: clear images first, then foggy ones.
"""

from __future__ import annotations

import argparse
import io
import json
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from torch import Tensor, nn

import qact
from qact.monitor import Guard, Monitor, Reference, record
from qact.monitor.report import write_report
from qact.shift import corrupt, load

BATCH, WINDOW = 50, 100


def trained(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A ResNet of timm with QAct, in ``eval()``."""
    torch.manual_seed(0)
    model = timm.create_model(
        "resnet10t", in_chans=images.shape[1], num_classes=10, channels=(8, 16, 32, 64)
    )
    model = qact.convert(model, "qact", warm_start=images[:BATCH])
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.01, total_steps=epochs * (len(images) // BATCH)
    )
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def service(model: nn.Module, reference: Reference, folder: Path) -> FastAPI:
    """The application. The monitor watches for as long as the server runs."""
    store = folder / "windows"
    monitor = Monitor(model, reference, window=WINDOW, store=store, version="digits-1")
    monitor.alarm(rate=0.01)
    guard = Guard(monitor, "suggested")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with monitor:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        body = await request.body()
        try:
            x = torch.from_numpy(np.load(io.BytesIO(body), allow_pickle=False)).float()
            logits = guard(x)
        except (ValueError, RuntimeError) as error:  # no array, or of another shape
            raise HTTPException(422, f"images as a NumPy file (N, C, H, W): {error}") from error
        return {"labels": logits.argmax(1).tolist(), "adapting": guard.adapting}

    @app.get("/status")
    def status() -> dict[str, Any]:
        suggestion = monitor.suggestion()
        return {
            "windows": monitor.count,
            "alarm": monitor.standing,
            "action": suggestion and suggestion.action,
            "reason": suggestion and suggestion.reason,
        }

    @app.get("/report", response_class=HTMLResponse)
    def report() -> str:
        return write_report(store, folder / "report.html").read_text(encoding="utf-8")

    return app


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve an application on loopback, in a thread of its own; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def ask(url: str, images: Tensor | None = None) -> Any:
    """What the service answers; images are posted as a NumPy file."""
    body = None
    if images is not None:
        packed = io.BytesIO()
        np.save(packed, images.numpy(), allow_pickle=False)
        body = packed.getvalue()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        text = answer.read().decode()
    return json.loads(text) if answer.headers.get_content_subtype() == "json" else text


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("service"))
    options = parser.parse_args(arguments)
    data = load("digits")
    parts = [(x.float() / 255, y) for x, y in (data.train, data.val, data.test)]
    (x, y), held_out, (test, labels) = parts
    model = trained(x, y, options.epochs)
    options.out.mkdir(parents=True, exist_ok=True)
    app, told = service(model, record(model, [held_out]), options.out), []
    with serving(app) as url:
        for weather in ("clear", "fog"):
            images = test if weather == "clear" else corrupt(test, "fog", 5)
            hits = []
            for one, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
                found = ask(f"{url}/predict", one)
                hits += [a == b for a, b in zip(found["labels"], y.tolist(), strict=True)]
            status = ask(f"{url}/status") | {"weather": weather}
            told.append(status | {"first": np.mean(hits[:100]), "last": np.mean(hits[-100:])})
            print(
                f"{weather}: alarm {'on' if status['alarm'] else 'off'}, {status['action']} "
                f"({status['reason']}); right of the first and last 100 images: "
                f"{told[-1]['first']:.0%}, {told[-1]['last']:.0%}"
            )
        ask(f"{url}/report")
    print(options.out / "report.html")
    return told


if __name__ == "__main__":
    main()
