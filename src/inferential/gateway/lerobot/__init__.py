"""A gateway for robots that run LeRobot's `RobotClient`."""

from inferential.gateway.lerobot.service import LeRobotGateway

__all__ = ["LeRobotGateway"]
