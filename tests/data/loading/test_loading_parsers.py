"""Every distribution that decides what a file gives is in ingest's key and in the version of its cached items."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data.loading import PARSERS
from data.loading.parse import loader_version

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import contextlib, importlib, importlib.metadata, io, json, sys, tempfile
from pathlib import Path
from data.loading import worker
from data.loading.options import LoadOptions
from data.loading.parse import load_file

named, expected = json.loads(sys.argv[1])
for name in named:
    importlib.import_module(name)
from data.loading.near_duplicates import find_near_duplicates
from data.loading.languages import language_of
import datasets, openpyxl, pptx, pyarrow, pyarrow.parquet
import zipfile

folder = Path(tempfile.mkdtemp())
book = openpyxl.Workbook()
book.active.append(["name", "length"])
book.active.append(["Long", 300])
book.save(folder / "a.xlsx")
slides = pptx.Presentation()
slides.slides.add_slide(slides.slide_layouts[0]).shapes.title.text = "A slide"
slides.save(folder / "a.pptx")
W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
R = "http://schemas.openxmlformats.org/package/2006"
O = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
with zipfile.ZipFile(folder / "a.docx", "w") as z:
    main = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    rels = "application/vnd.openxmlformats-package.relationships+xml"
    z.writestr("[Content_Types].xml", f'<Types xmlns="{R}/content-types"><Default Extension="rels" '
               f'ContentType="{rels}"/><Override PartName="/word/document.xml" ContentType="{main}"/></Types>')
    z.writestr("_rels/.rels", f'<Relationships xmlns="{R}/relationships"><Relationship Id="r1" Type="{O}" '
               f'Target="word/document.xml"/></Relationships>')
    z.writestr("word/document.xml", f'<w:document xmlns:w="{W}"><w:body><w:p><w:r><w:t>Some words.</w:t></w:r></w:p>'
               f'</w:body></w:document>')
with zipfile.ZipFile(folder / "a.epub", "w") as z:
    z.writestr("mimetype", "application/epub+zip")
    z.writestr("META-INF/container.xml", '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
               '<rootfiles><rootfile full-path="c.opf"/></rootfiles></container>')
    z.writestr("c.opf", '<package xmlns="http://www.idpf.org/2007/opf"><metadata/><manifest>'
               '<item id="a" href="a.html"/></manifest><spine><itemref idref="a"/></spine></package>')
    z.writestr("a.html", "<html><body><p>Some words.</p></body></html>")
pyarrow.parquet.write_table(pyarrow.table({"text": ["Some words."]}), folder / "a.parquet")
datasets.Dataset.from_list([{"text": "Some words."}]).save_to_disk(folder / "saved")
page = "<html><body><nav>Home</nav><article><p>" + "Some words about rivers. " * 40 + "</p></article></body></html>"
(folder / "a.html").write_text(page)
(folder / "a.xml").write_text("<a>Some words.</a>")
(folder / "a.txt").write_bytes("Fl\\xfcsse und T\\xe4ler. ".encode("cp1252") * 20)
(folder / "a.pdf").write_bytes(b"%PDF-1.4\\n1 0 obj << /Type /Catalog >> endobj\\ntrailer << /Root 1 0 R >>")
read = {}
for path in sorted(folder.iterdir()):
    documents, quarantined, _ = load_file(path, path.name, LoadOptions())
    read[path.name] = len(documents)
language_of("Some words in the English language, which are enough.")
find_near_duplicates(["some words " * 10] * 2, 0.8)
tops = {name.partition(".")[0] for name in sys.modules}
owners = importlib.metadata.packages_distributions()
print(json.dumps([read, sorted({owner for top in tops for owner in owners.get(top, [])})]))
"""

BYSTANDERS = {
    "fetching, which no reader does": "aiohappyeyeballs aiohttp aiosignal anyio attrs certifi frozenlist fsspec h11 "
    "h2 hf-xet hpack httpcore httpcore2 httpx httpx2 huggingface_hub hyperframe idna multidict propcache requests "
    "redis s3fs sniffio tld truststore urllib3 yarl",
    "progress, settings, locks and logs": "click colorama filelock packaging python-dotenv rich shellingham "
    "tqdm typer typer-slim typing_extensions typing-inspection pydantic pydantic_core annotated-types",
    "markitdown's guessing of file types, which is not used": "flatbuffers magika onnxruntime protobuf sympy mpmath "
    "coloredlogs humanfriendly",
    "writers and pictures, of which no text is read": "Pillow XlsxWriter et_xmlfile",
    "dates that are asked for by no reader": "babel dateparser pytz regex tzlocal tzdata",
    "hashes and copies between the processes of datasets": "cloudpickle dill multiprocess psutil xxhash",
    "near-duplicates, which are no part of one file": "datasketch scipy",
    "what others are written with": "cffi pycparser six simplejson",
    "tensors, which datasets looks for and no row is": "torch opt-einsum threadpoolctl networkx jinja2 markupsafe "
    "cuda-bindings cuda-pathfinder",
    "measuring": "opentelemetry-api opentelemetry-sdk opentelemetry-semantic-conventions coverage pytest pytest-cov",
    "a start file in each virtual environment (_distutils_hack), loaded with every Python": "setuptools",
    "this project": "jora-raft",
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_by_readers() -> set[str]:
    """Dotted names that any module of the room imports, also inside functions, from outside the project and Python."""
    names: set[str] = set()
    for path in (ROOT / "data" / "loading").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    own = {"data", "raft_errors", "fsspec"}  # fsspec copies files and reads none
    return {n for n in names if (top := n.partition(".")[0]) not in sys.stdlib_module_names and top not in own}


@pytest.fixture(scope="module")
def seen() -> set[str]:
    arguments = json.dumps([sorted(imported_by_readers()), []])
    command = [sys.executable, "-P", "-c", PROGRAM, arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    read, owners = json.loads(done.stdout.splitlines()[-1])
    assert read == {**dict.fromkeys(read, 1), "a.pdf": 0}  # of the damaged file the second reader is tried too
    return {canonical(name) for name in owners}


@pytest.mark.slow
def test_every_distribution_that_the_readers_import_is_in_the_list_or_known_not_to_decide(seen):
    harmless = {canonical(name) for names in BYSTANDERS.values() for name in names.split()}
    assert " ".join(sorted(seen - harmless - {canonical(name) for name in PARSERS})) == ""


def test_the_list_names_nothing_that_no_reader_imports(seen):
    assert {canonical(name) for name in PARSERS} - seen == set()


def test_the_list_is_in_the_key_of_ingest_and_in_the_version_of_cached_items():
    from tasks.ingest import STAGE

    assert {*PARSERS, "datasketch"} <= set(STAGE.packages)
    version = loader_version()
    assert all(f"{name} " in version and f"{name} absent" not in version for name in PARSERS)
    assert f"python {sys.version_info.major}.{sys.version_info.minor}" in version
