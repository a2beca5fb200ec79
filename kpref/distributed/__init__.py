"""Flows over shards of trials: on one machine, more than its memory holds, or on a cluster of Dask's workers."""

from kpref.distributed.sharded_flow import ShardedFlow, ShardedGradient

__all__ = ["ShardedFlow", "ShardedGradient"]
