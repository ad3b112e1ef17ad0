"""Compose an experiment and run it: `python run.py stage=align method=gdpo`, or `python run.py -m …` for a sweep.

The same command as `lexalign …`. Hydra's shell completion looks for the words @hydra.main in this file.
"""

from lexalign.cli import main

if __name__ == "__main__":
    main()
