"""The methods, one short file each, named by `method._target_`: a subclass of `Objective`, which says what it scores and computes its loss.

grpo and gdpo_rl, which train on the model's own answers, are TRL's trainer instead.
"""
