"""Rewards: what a reinforcement method makes of a model's own answers; `method.rewards` names them. Torch is not imported here."""

from lexalign.rewards.base import Reward
from lexalign.rewards.reward_model import RewardModel
from lexalign.rewards.text import ExactMatch, Format, Length

__all__ = ["ExactMatch", "Format", "Length", "Reward", "RewardModel"]
