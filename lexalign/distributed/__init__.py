"""Inside a run of several processes: what they tell each other, who computes which rows, weights held in parts."""
