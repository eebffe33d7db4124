import sys

from caps.cli import main

sys.exit(main())
