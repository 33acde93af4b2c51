"""`python -m diffinv`, the same as `diffinv`."""

from diffinv.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
