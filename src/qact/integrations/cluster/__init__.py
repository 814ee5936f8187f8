"""One function on many tasks: here, in processes of this machine, on Dask, on Ray, inside Spark.

    with qact.cluster.connect("dask://10.0.0.7:8786") as cluster:
        qact.record(model, shards, load=read, on=cluster)

What is computed does not depend on where: a task runs with one thread, is repeated where its worker
was killed, and gives the same bits each time.
"""

from qact.integrations.cluster.base import Cluster, ClusterError
from qact.integrations.cluster.frames import in_pandas
from qact.integrations.cluster.registry import connect, entry, names, register, using
from qact.integrations.cluster.task import tell, worker

__all__ = [
    "Cluster",
    "ClusterError",
    "connect",
    "entry",
    "in_pandas",
    "names",
    "register",
    "tell",
    "using",
    "worker",
]
