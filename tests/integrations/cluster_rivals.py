"""A rival that the tests' workers register by importing this file."""

from cluster_work import Once

from qact.bench import Rival, register

register(Rival("once", lambda channels: Once(), "none"))
