"""``python -m hpv`` is ``hpv``."""

from __future__ import annotations

import sys

from hpv.cli.main import main

sys.exit(main())
