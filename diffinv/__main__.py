"""`python -m diffinv`, the same as `diffinv`."""

from diffinv.commands.main import main

if __name__ == "__main__":
    raise SystemExit(main())
