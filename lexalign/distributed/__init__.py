"""Runs of several processes: collectives, sharding of the rows, sharding of the weights."""
