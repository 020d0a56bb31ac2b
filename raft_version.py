"""The version, in its one place: `raft --version`, the wheel, the manifests and the documentation read it here.

It stands in a module of its own because no stage's work imports it: a new number makes nothing anew.
"""

VERSION = "0.2.0"
