"""`python -m lexalign …`."""

from lexalign.cli import main

if __name__ == "__main__":
    main()
