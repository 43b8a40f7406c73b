"""Where Ray runs: a cluster of this process, or one that is already there.

    from everview.pipeline.cluster import ClusterConfig, cluster

    with cluster(ClusterConfig(cpus=2)) as where:   # a Ray of its own, on loopback, with a token
        ...                                         # any Ray: Data, Train, tasks
    with cluster(ClusterConfig(address="10.0.0.5:6379")) as where:    # one that is running
        ...

In a job of `everview submit` the default configuration attaches to the cluster the job runs on,
so that the same function runs on a laptop and on a cluster. Inside another `cluster` block the
outer one is used. What always holds: every cluster has a token, one without is refused with the
reason; usage statistics are off; workers of a local cluster die with their driver, SIGKILL
included; nobody else's processes are touched.
"""

from everview.pipeline.cluster.config import ClusterConfig
from everview.pipeline.cluster.connect import Cluster, cluster

__all__ = ["Cluster", "ClusterConfig", "cluster"]
