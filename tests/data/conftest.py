"""The tests of every room of `data` find the helpers beside this file: made_up and faulty_endpoint."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
