"""`python -m autoconvert` is the command `autoconvert`."""

from autoconvert.cli import main

if __name__ == "__main__":
    main()
