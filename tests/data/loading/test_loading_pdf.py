"""PDFs as they are met: columns drawn across, forms, text layers in cipher, divided words, titles, right to left."""

import io

import pytest
from pdf_writer import Line, Page, write_pdf
from test_loading_encodings import SENTENCES

from data.loading import LoadOptions, Quarantined, load_corpus
from data.loading.formats.pdf_pages.cipher import is_cipher
from data.loading.formats.pdf_pages.right_to_left import Glyph, plain_letters, put_in_order
from data.loading.formats.pdf_pages.title import SizedLine, largest_text
from data.loading.pages import join_divided_words
from data.loading.parse import load_file
from data.loading.report import corpus_report
from data.nouns import Document

LAMP = [
    "The lamp of the tower was lit by",
    "oil until the year in which wires",
    "were laid along the pier, and the",
    "keeper had to climb the stairs at",
    "dusk, at midnight and at dawn, so",
    "that the flame would never go out.",
]
NETS = [
    "Nets are mended in the long shed",
    "behind the church, where the men",
    "of the village sit on low benches",
    "from autumn to spring and tell of",
    "the winters in which the bay was",
    "frozen from one shore to the other.",
]


def load(tmp_path, raw: bytes, name: str = "a.pdf") -> tuple[list[Document], list[Quarantined]]:
    (tmp_path / name).write_bytes(raw)
    documents, quarantined, _ = load_file(tmp_path / name, name, LoadOptions())
    return documents, quarantined


def one(tmp_path, raw: bytes, name: str = "a.pdf") -> Document:
    documents, quarantined = load(tmp_path, raw, name)
    assert not quarantined
    return documents[0]


def lines(words: list[str], font: str = "F1", top: float = 700, x: float = 72) -> list[Line]:
    return [Line(text, x, top - 14 * n, 10, font) for n, text in enumerate(words)]


def caesar(shift: int) -> str:
    """A font without a table of characters, whose names of glyphs are `shift` letters on."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = " ".join(
        f"{ord(start)} " + " ".join(f"/{case(letters[(n + shift) % 26])}" for n in range(26))
        for start, case in (("A", str.upper), ("a", str.lower))
    )
    return (
        f"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding << /Type /Encoding /Differences [{names}] >> >>"
    )


# columns


def test_columns_that_are_drawn_row_by_row_are_read_one_after_the_other(tmp_path):
    rows = [line for pair in zip(lines(LAMP), lines(NETS, x=320), strict=True) for line in pair]
    heading = Line("Of lamps and nets, as they were told in the harbour before the bridge was built.", 72, 740, 10)
    text = one(tmp_path, write_pdf([Page([heading, *rows])])).text
    assert text.split("\n")[0] == heading.text
    assert " ".join(LAMP) in text
    assert " ".join(NETS) in text


def test_three_columns_are_read_one_after_the_other(tmp_path):
    columns = [[" ".join(line.split()[:4]) for line in words] for words in (LAMP, NETS, [f"w{w}" for w in LAMP])]
    rows = [
        Line(text, x, 700 - 14 * n, 10)
        for n, row in enumerate(zip(*columns, strict=True))
        for x, text in zip((60, 230, 400), row, strict=True)
    ]
    text = " ".join(one(tmp_path, write_pdf([Page(rows)])).text.split())
    assert text == " ".join(word for column in columns for word in column)


def test_rows_of_a_table_stay_together(tmp_path):
    cells = [
        ("Oil", "12 barrels"),
        ("Rope", "40 fathoms"),
        ("Tar", "3 casks"),
        ("Nails", "9 pounds"),
        ("Hemp", "2 bales"),
    ]
    rows = [Line(text, x, 700 - 14 * n, 10) for n, row in enumerate(cells) for x, text in zip((72, 320), row)]
    text = one(tmp_path, write_pdf([Page(rows)])).text
    assert [" ".join(row) for row in cells] == text.split("\n")


# forms


def widget(name: str, kind: str, value: str, more: str = "", flags: int = 4) -> str:
    return (
        f"<< /Type /Annot /Subtype /Widget /FT /{kind} /T ({name}) {value} /Rect [180 712 300 732] /F {flags} "
        f"/DA (/F1 12 Tf 0 g) {more} >>"
    )


FORM = [
    widget("form1[0].page[0].berth[0]", "Tx", "/V (4711)"),
    widget("ship", "Tx", "/V (Maria)", "/TU (Name of the ship)"),
    widget("insured", "Btn", "/V /Yes /AS /Yes", "/AP << /N << /Yes null /Off null >> >>"),
    widget("masts", "Btn", "/V /1 /AS /1", "/Ff 32768 /AP << /N << /1 null /Off null >> >>"),
    widget("sunk", "Btn", "/V /Off /AS /Off", "/AP << /N << /Yes null /Off null >> >>"),
    widget("cargo", "Ch", "/V (s)", "/Opt [[(s) (salt)] [(t) (tar)]] /Ff 131072"),
    widget("pin", "Tx", "/V (9876)", "/Ff 8192"),
    widget("internal", "Tx", "/V (secret)", flags=2),
    widget("empty", "Tx", ""),
    "<< /Type /Annot /Subtype /FreeText /Contents (Paid on the spot) /Rect [72 600 300 620] /DA (/F1 12 Tf 0 g) >>",
]


@pytest.mark.parametrize("words", [["Berth:", "Keep this sheet with the ship."], []], ids=["words", "no words"])
def test_what_was_typed_into_a_form_is_text(tmp_path, words):
    document = one(tmp_path, write_pdf([Page(lines(words), FORM)]))
    typed = ["berth: 4711", "Name of the ship: Maria", "insured: yes", "masts: 1", "cargo: salt", "Paid on the spot"]
    assert document.text.split("\n") == [*words, *typed]
    assert document.metadata["form_fields"] == 6


def test_a_field_is_told_once_and_on_its_page(tmp_path):
    field = widget("berth", "Tx", "/V (4711)")
    document = one(tmp_path, write_pdf([Page(lines(["One."])), Page(lines(["Two."]), [field]), Page((), [field])]))
    assert document.text == "One.\n\nTwo.\nberth: 4711"
    assert document.text[document.pages[1] :].startswith("Two.")


# text in cipher


@pytest.mark.parametrize("shift", [1, 4, 13, 16, 20])
def test_a_text_layer_in_cipher_is_refused_with_advice(tmp_path, shift):
    raw = write_pdf([Page(lines(LAMP + NETS, "F2"))], fonts={"F2": caesar(shift)})
    documents, (refusal,) = load(tmp_path, raw)
    assert not documents
    assert refusal.reason == "no-text"
    assert "cipher" in refusal.detail
    assert "OCR" in refusal.detail


def test_few_words_in_cipher_are_enough_and_few_clear_ones_are_not_taken_for_it(tmp_path):
    words = ["The lamp of the tower was lit by oil for many years."]
    documents, _ = load(tmp_path, write_pdf([Page(lines(words, "F2"))], fonts={"F2": caesar(1)}))
    assert not documents
    assert one(tmp_path, write_pdf([Page(lines(words))])).text == words[0]


@pytest.mark.slow
def test_a_page_in_cipher_is_left_out_and_named(tmp_path):
    pages = [Page(lines(LAMP)), Page(lines(NETS, "F2")), Page(lines(NETS))]
    (tmp_path / "a.pdf").write_bytes(write_pdf(pages, fonts={"F2": caesar(1)}))
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(workers=1))
    assert corpus.documents[0].text == f"{' '.join(LAMP)}\n\n{' '.join(NETS)}"
    (warning,) = corpus_report(corpus)["warnings"]
    assert "on page 2;" in warning["warning"]


def test_words_of_a_font_in_cipher_are_left_out_of_a_clear_page(tmp_path):
    page = Page(lines(LAMP) + lines(NETS, "F2", top=600) + lines(["The end of it."], top=500))
    document = one(tmp_path, write_pdf([page], fonts={"F2": caesar(1)}))
    assert document.text.split() == " ".join([*LAMP, "The end of it."]).split()
    assert "cipher" in document.metadata["warnings"][0]


def test_characters_without_names_are_no_text():
    assert is_cipher("\ue012\ue034\ue056 \ue078\ue09a " * 20)
    assert is_cipher("(cid:12)(cid:34) " * 20)
    assert is_cipher(
        "Âûêëþ÷àòåëü íàõîäèòñÿ ñëåâà îò äâåðè, è åãî íàäî íàæàòü äâà ðàçà. Ñìîòðèòåëü æèâ¸ò â áàøíå ìàÿêà ó ìîðÿ."
    )
    assert is_cipher(
        "7KH ODPS RI WKH WRZHU ZDV OLW EB RLO XQWLO WKH BHDU LQ ZKLFK ZLUHV ZHUH ODLG DORQJ WKH SLHU. " * 2
    )


@pytest.mark.parametrize("language", SENTENCES)
def test_no_language_is_taken_for_cipher(language):
    assert not is_cipher(SENTENCES[language][0] * 2)
    assert not is_cipher(SENTENCES[language][0].upper() * 2)


def test_numbers_keys_and_code_are_not_taken_for_cipher():
    assert not is_cipher("QX-339 BF-220 ZK-118 VW-907 TT-450 XJ-611 QQ-202 KW-330 BN-774 " * 6)
    assert not is_cipher("GATTACA CCGTAGA TTACGGC ATCGGAT CCATGGA TTAGGCA CGATCGA ATTGCCA " * 4)
    assert not is_cipher("for (int i = 0; i < n; i++) { if (buf[i] == '\\n') ptr = strchr(buf, ';'); } " * 4)


# divided words


def test_a_compound_keeps_its_hyphen_where_the_document_writes_it_elsewhere(tmp_path):
    words = ["It is a well-known tower with a light of long range, which is the well-", "known mark of the coast."]
    words += ["Its keeper has to go up the stairs every evening and every morn-", "ing, as the morning light is weak."]
    document = one(tmp_path, write_pdf([Page(lines(words))]))
    assert "which is the well-known mark" in document.text
    assert "every morning, as" in document.text


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        (["the well-\nknown man", "a well-known man"], "the well-known man"),
        (["the well\ufffe\r\nknown man", "A Well-Known man"], "the well-known man"),
        (["a light\ufffe\r\nhouse", "the lighthouse"], "a lighthouse"),
        (["a light\u00ad\nhouse", "the light-house"], "a lighthouse"),
        (["of COVID-\n19 and", ""], "of COVID-19 and"),
        (["the Anglo-\nSaxon king", ""], "the Anglo-Saxon king"),
        (["CONTAIN-\nERS of", ""], "CONTAINERS of"),
        (["pre-\nand post-war", ""], "pre- and post-war"),
        (["an unseen divi-\n  sion of", ""], "an unseen division of"),
        (["a list:\n- one\n- two", ""], "a list:\n- one\n- two"),
        (["1990-\n1995", ""], "1990-1995"),
    ],
)
def test_divided_words_become_whole(pages, expected):
    assert join_divided_words(pages)[0] == expected


# titles


def test_the_title_is_the_largest_text_of_page_one_where_none_is_stated(tmp_path):
    heading = [Line("The tower and the", 72, 740, 20), Line("keepers of its lamp", 72, 716, 20)]
    stamp = Line("N:1", 500, 760, 30)
    raw = write_pdf([Page([stamp, *heading, *lines(LAMP)]), Page([Line("Larger still", 72, 740, 40)])])
    assert one(tmp_path, raw).title == "The tower and the keepers of its lamp"
    stated = write_pdf([Page([*heading, *lines(LAMP)])], title="Harbour lights")
    assert one(tmp_path, stated).title == "Harbour lights"
    for junk in ("Microsoft Word - draft3.docx", "tower.html", "untitled"):
        assert one(tmp_path, write_pdf([Page([*heading, *lines(LAMP)])], title=junk)).title.startswith("The tower")


def test_a_page_of_one_size_and_a_heading_that_is_none_give_no_title(tmp_path):
    assert one(tmp_path, write_pdf([Page(lines(LAMP))]), "lamp.pdf").title == "lamp"
    contents = [Line("Contents", 72, 740, 20), *lines(LAMP)]
    assert one(tmp_path, write_pdf([Page(contents)]), "lamp.pdf").title == "lamp"
    low = [
        SizedLine("A footer of the page", 20, 60),
        *(SizedLine(text, 10, 700 - 14 * n) for n, text in enumerate(LAMP)),
    ]
    assert largest_text(low, 792) == ""


# right to left


def glyphs(text: str, right: float = 500.0, width: float = 6.0) -> list[Glyph]:
    """The letters of a line from right to left, each `width` wide; spaces as gaps."""
    return [
        Glyph(char, right - (n + 1) * width, right - n * width) for n, char in enumerate(text) if not char.isspace()
    ]


def test_letters_are_read_by_their_places_and_not_as_they_were_drawn():
    line = "تأخر القطار مساء أمس"
    drawn = sorted(glyphs(line), key=lambda glyph: (glyph.left // 40, glyph.text))
    assert put_in_order(drawn, 10) == line


def test_latin_words_and_numbers_in_a_line_from_the_right_run_from_the_left():
    visual = [*glyphs("قرأ كتاب "), *glyphs("sthgiL ruobraH", 446), *glyphs(" سنة 7881.", 362)]
    assert put_in_order(visual, 10) == "قرأ كتاب Harbour Lights سنة 1887."


def test_shapes_of_letters_become_letters():
    assert plain_letters("ﻳﻮﻟﺪ ﺍﻟﻨﺎﺱ ﻻ") == "يولد الناس لا"
    assert plain_letters("eﬃcient ﬁsh") == "efficient fish"


def arabic_pdf(text: list[str], *, shapes: dict[str, str]) -> bytes:
    """Letters put on the page one by one from the left, as browsers print them; some in their presentation forms."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("pdf")
    from matplotlib.figure import Figure
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    font.set_size(12, 72)
    with matplotlib.rc_context({"pdf.fonttype": 42, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(8, 8))
        for row, line in enumerate(text):
            x = 72.0
            for char in reversed([shapes.get(char, char) for char in line]):
                if not char.isspace():
                    figure.text(x / 576, 0.9 - 0.05 * row, char, fontsize=12)
                x += font.load_char(ord(char)).linearHoriAdvance / 65536
        buffer = io.BytesIO()
        figure.savefig(buffer, format="pdf")
    return buffer.getvalue()


@pytest.mark.slow
def test_words_drawn_from_the_left_in_shapes_are_read_from_the_right(tmp_path):
    text = ["يقف المنارة على الشاطئ", "والحارس يوقد النار كل مساء", "ثم يكتب اتجاه الريح في دفتره"]
    forms = {"ي": "ﻳ", "ل": "ﻟ", "م": "ﻣ", "ن": "ﻧ", "ت": "ﺗ", "ب": "ﺑ", "ق": "ﻗ", "ف": "ﻓ", "ك": "ﻛ", "ه": "ﻫ"}
    document = one(tmp_path, arabic_pdf(text, shapes=forms))
    assert document.text.split() == " ".join(text).split()
    assert document.metadata["loader"] == "pypdfium2"
