"""Flows over shards of trials: on one machine, more than its memory holds, or on a cluster of Dask's workers."""

from kpref.distributed.dask_engine import WORKER_ENVIRONMENT
from kpref.distributed.sharded_flow import ShardedFlow, ShardedGradient, ShardedStep

__all__ = ["WORKER_ENVIRONMENT", "ShardedFlow", "ShardedGradient", "ShardedStep"]
