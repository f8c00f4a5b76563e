"""`python -m pagoda_runtime` is `pagoda-runtime`."""

import sys

from pagoda_runtime.cli import main

sys.exit(main())
