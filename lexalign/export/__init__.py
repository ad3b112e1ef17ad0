"""Export a trained model as a full model without an adapter: merge it, compare it with the trained model, write and describe it.

- `source`: the files and settings of the model, and the ways in which it can be merged;
- `merging`: load the model as it was trained, or merged;
- `comparison`: measure the distance of the two on held-out rows;
- `merge_choice`: choose the way whose result is nearest to the trained model;
- `folder`: write the folder, load it again and compare it before it gets its name;
- `model_card`: make its README.md.
"""
