"""The distributions whose version may change what a file gives: part of ingest's key and of every cached item's.

A test loads a file of every format and compares this list with what that really imports.
"""

PARSERS = (
    "beautifulsoup4", "charset-normalizer", "cobble", "courlan", "cryptography", "datasets", "defusedxml", "fonttools",
    "htmldate", "jusText", "lxml", "lxml_html_clean", "mammoth", "markdownify", "markitdown", "numpy", "olefile",
    "openpyxl", "pandas", "py3langid", "pyarrow", "pypdf", "pypdfium2", "PyYAML", "python-dateutil", "python-pptx",
    "selectolax", "soupsieve", "trafilatura",
)  # fmt: skip
