"""Scheduling: requests, the strategies that order them, and the registry that they are found in.

Importing it registers the built-in strategies and needs no pydantic.
"""

from inferential.scheduler.base import (
    ModelAwareScheduler,
    Policy,
    QueueFullError,
    Scheduler,
    create_scheduler,
    get_policy,
    get_scheduler,
    policy_names,
    register_policy,
    register_scheduler,
    scheduler_names,
)
from inferential.scheduler.batch_optimized import BatchOptimizedScheduler
from inferential.scheduler.deadline_aware import DeadlineAwareScheduler
from inferential.scheduler.model_deadline import ModelDeadlineScheduler
from inferential.scheduler.priority_tiered import PriorityTieredScheduler
from inferential.scheduler.queued import QueueScheduler
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.round_robin import RoundRobinScheduler
from inferential.scheduler.slo_aware import SloAwareScheduler

__all__ = [
    "BatchOptimizedScheduler",
    "DeadlineAwareScheduler",
    "InferenceRequest",
    "ModelAwareScheduler",
    "ModelDeadlineScheduler",
    "Policy",
    "PriorityTieredScheduler",
    "QueueFullError",
    "QueueScheduler",
    "RoundRobinScheduler",
    "Scheduler",
    "SloAwareScheduler",
    "create_scheduler",
    "get_policy",
    "get_scheduler",
    "policy_names",
    "register_policy",
    "register_scheduler",
    "scheduler_names",
]
