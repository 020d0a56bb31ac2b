"""`python -m jora_engine.trainer JOB.json`: the command that trains, under the name that scripts know it by.

What it does stands in `training.job`.
"""

import sys

from jora_engine.training.job import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
