"""``python -m node`` is ``wattd``."""

from node.cli.main import main

if __name__ == "__main__":
    main()
