"""What each stage does, apart from how it is kept, locked, shared and shown.

The code that these modules can reach is a stage's fingerprint, so nothing here imports `tasks.store`, `tasks.build`,
`tasks.inputs`, `tasks.prefect`, `tasks.adapters` or `tasks.upkeep`; what work needs of them lies on its bench.
"""
