"""``python -m tests.fuzz --files 10000``"""

import sys

if __name__ == "__main__":  # the processes that it starts import this file, but no framework
    from tests.fuzz.run import main

    sys.exit(main())
