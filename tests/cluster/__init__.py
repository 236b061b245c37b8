"""A real Slurm cluster of simulated hosts on one machine."""

from tests.cluster.cluster import Cluster
from tests.cluster.packages import unavailable
from tests.cluster.site import ClusterError, Site, UnavailableError

__all__ = ["Cluster", "ClusterError", "Site", "UnavailableError", "unavailable"]
