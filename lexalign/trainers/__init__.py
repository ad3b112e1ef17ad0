"""The methods, one short file each, named by `method._target_`. A method is a subclass of `Objective` and computes its loss from scores.

grpo and gdpo_rl train on the model's own answers. They are subclasses of TRL's trainer instead.
"""
