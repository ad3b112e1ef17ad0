"""Export a trained model as one that needs no adapter: merged, compared with what was trained, written and described.

- `source`: what is exported, and in which ways it can be merged;
- `merging`: the model as it was trained, and merged;
- `comparison`: how far one is from the other on held-out rows;
- `merge_choice`: the way whose result is nearest to the trained model;
- `folder`: the folder, read back and compared before it gets its name;
- `model_card`: its README.md.
"""
