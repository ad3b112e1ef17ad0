"""One run in several processes, started through torchrun's own API: each computes its share of every batch, the first one writes."""
