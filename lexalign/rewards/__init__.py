"""Rewards: how a reinforcement method judges the answers of a model. `method.rewards` names them. No torch is imported here."""

from lexalign.rewards.base import Reward
from lexalign.rewards.reward_model import RewardModel
from lexalign.rewards.text import ExactMatch, Format, Length

__all__ = ["ExactMatch", "Format", "Length", "Reward", "RewardModel"]
