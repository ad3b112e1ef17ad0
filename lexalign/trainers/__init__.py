"""Trainer classes, one a method family, named by `method._target_`. Each subclasses the library's and overrides little.

A trainer is made with `(experiment=, loaded=, splits=, encoder=, out_dir=, callbacks=)`.
"""
