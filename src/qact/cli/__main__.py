"""``python -m qact.cli``, which ``torchrun`` starts."""

from qact.cli import app

app()
