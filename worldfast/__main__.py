"""``python -m worldfast``, which is the command `worldfast`."""

import sys

from worldfast.cli import main

sys.exit(main())
