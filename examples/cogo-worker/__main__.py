"""Entry point: ``python3 examples/cogo-worker`` starts the service."""

import sys

if sys.version_info < (3, 9):
    sys.exit("cogo-worker needs Python 3.9 or newer; this is %d.%d" % sys.version_info[:2])

from cogo_worker.cli import main  # noqa: E402  (the version check has to come first)

if __name__ == "__main__":
    sys.exit(main())
