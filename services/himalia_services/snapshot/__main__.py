"""`python -m himalia_services.snapshot`: capture the changes of one container, as a request on stdin says."""

from __future__ import annotations

import sys

from himalia_services.snapshot.capture import main

sys.exit(main())
