"""``python -m codeact``: the command line."""

from codeact.cli import main

if __name__ == "__main__":
    main()
