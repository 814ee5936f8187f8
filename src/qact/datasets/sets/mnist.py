"""MNIST: 70,000 handwritten digits of 28 x 28."""

from qact.datasets.registry import register
from qact.datasets.sources import Source, idx_downloads, idx_files

ORIGIN = "https://ossci-datasets.s3.amazonaws.com/mnist/"

register(
    "mnist",
    paper="LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition",
    origin=ORIGIN,
    downloads=idx_downloads(
        ORIGIN,
        "MNIST/raw",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)(
    Source(
        "mnist",
        ORIGIN,
        ("MNIST/raw", "raw", "."),
        idx_files(
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        tuple("0123456789"),
    )
)
