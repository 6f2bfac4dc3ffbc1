"""`python -m sublayer` is `sublayer`."""

from sublayer.cli import main

if __name__ == "__main__":
    main()
