"""From what a run left to a model that stands alone: merged, compared with what was trained, written, described, and uploaded.

- `subject`: what is exported, and in which ways it can be merged;
- `merging`: the model as it was trained, and merged;
- `comparing`: how far one is from the other on held-out rows;
- `writing`: the folder, read back and compared before it has its name;
- `card`: its README.md.
"""
