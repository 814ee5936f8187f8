"""`qact list`: what can be asked for by name."""

from __future__ import annotations

from qact.cli import options as o


def list_names() -> None:
    """List what can be asked for: activations, data, streams and more."""
    with o.at_work(resumes=False):
        _list_names()


def _list_names() -> None:
    from rich.console import Console
    from rich.table import Table

    from qact import losses, models
    from qact.adapt import methods
    from qact.bench.recipe.presets import PRESETS
    from qact.bench.recipe.rivals import list_rivals
    from qact.bench.recipe.shift import STREAMS
    from qact.corruptions import corruptions
    from qact.corruptions.augment import AUGMENTATIONS
    from qact.datasets import names as data_sets
    from qact.terminal import print_whole

    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)  # a name that is cut can be asked for by nobody
    for entry in list_rivals():
        table.add_row(entry.name, "control" if entry.control else "", entry.paper)
    console.print("[bold]activations[/] (--activation)")
    print_whole(table, console)
    for title, names in (
        ("corruptions[/] (--corruption)", corruptions("all") + corruptions("own")),
        ("data[/] (--data)", [*data_sets(shifted=False), "a folder of images", "an .npz file"]),
        ("test sets under shift[/]", data_sets(shifted=True)),
        ("models[/] (--model)", models.names()),
        ("training recipes[/] (--preset)", PRESETS),
        ("augmentations[/] (--augmentation)", AUGMENTATIONS),
        ("losses[/] (--loss)", [n for n in losses.names() if losses.entry(n).of != "values"]),
        ("adaptations[/] (--adaptation)", ("frozen", "batch-N", "mixed-N", "recalibrated-N")),
        ("methods of qact.adapt[/] (--adaptation METHOD-N)", methods()),
        ("streams[/] (--stream)", STREAMS),
    ):
        console.print(f"\n[bold]{title}")
        console.print(", ".join(names), highlight=False)
