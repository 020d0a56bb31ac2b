"""XML by its declared charset, with its document type dropped; feeds by entry; cut-off files keep what can be read."""

import pytest

from data.loading import LoadOptions, load_corpus
from data.loading.parse import load_file
from data.loading.report import corpus_report


def one(tmp_path, raw, name="a.xml"):
    file = tmp_path / name
    file.write_bytes(raw.encode() if isinstance(raw, str) else raw)
    documents, quarantined, _ = load_file(file, name, LoadOptions())
    assert not quarantined
    return documents[0]


KEEPER = {
    "zh-Hant": "燈塔看守人每天傍晚點燈，並記錄風向。",
    "zh-Hans": "灯塔看守人每天傍晚点灯，并记录风向。",
    "ja": "灯台守は毎晩あかりをともし、風向きを書きとめます。",
    "ko": "등대지기는 저녁마다 불을 켜고 바람을 적어 둡니다.",
    "de": "Der Wärter zündet abends das Feuer – für 20 € im Monat.",
    "ru": "Смотритель зажигает огонь каждый вечер.",
    "th": "ผู้ดูแลจุดไฟทุกเย็น",
}


@pytest.mark.parametrize(
    ("declared", "codec", "language"),
    [
        ("Big5", "cp950", "zh-Hant"),
        ("x-x-big5", "cp950", "zh-Hant"),
        ("Big5-HKSCS", "big5hkscs", "zh-Hant"),
        ("GB2312", "gb2312", "zh-Hans"),
        ("GB2312", "gbk", "zh-Hant"),  # characters that only the wider GBK has
        ("x-gbk", "gbk", "zh-Hans"),
        ("windows-936", "gbk", "zh-Hans"),
        ("EUC-JP", "euc_jp", "ja"),
        ("x-euc-jp", "euc_jp", "ja"),
        ("Shift_JIS", "shift_jis", "ja"),
        ("x-sjis", "cp932", "ja"),
        ("windows-31j", "cp932", "ja"),
        ("EUC-KR", "euc_kr", "ko"),
        ("ks_c_5601-1987", "cp949", "ko"),
        ("KS_C_5601-1989", "cp949", "ko"),
        ("windows-949", "cp949", "ko"),
        ("iso-8859-1", "cp1252", "de"),  # as every browser reads it
        ("x-cp1251", "cp1251", "ru"),
        ("x-mac-cyrillic", "mac_cyrillic", "ru"),
        ("koi8-ru", "koi8_u", "ru"),
        ("windows-874", "cp874", "th"),
    ],
)
def test_xml_is_decoded_by_its_declaration_under_the_names_of_the_web(tmp_path, declared, codec, language):
    words = KEEPER[language]
    raw = f'<?xml version="1.0" encoding="{declared}"?>\n<log><line>{words}</line></log>'.encode(codec)
    document = one(tmp_path, raw)
    assert document.text == words
    assert document.metadata["encoding"] == declared.lower()
    page = f'<html><head><meta charset="{declared}"></head><body><p>{words}</p></body></html>'.encode(codec)
    assert one(tmp_path, page, "a.html").text == words


def test_characters_of_the_vendors_code_pages_are_read_under_the_name_of_the_standard(tmp_path):
    raw = '<?xml version="1.0" encoding="Shift_JIS"?><p>①番線は㈱港です</p>'.encode("cp932")
    assert one(tmp_path, raw).text == "①番線は㈱港です"
    raw = '<?xml version="1.0" encoding="EUC-KR"?><p>똠방각하</p>'.encode("cp949")
    assert one(tmp_path, raw).text == "똠방각하"


def test_one_damaged_character_does_not_make_a_declared_charset_void(tmp_path):
    raw = bytearray(f'<?xml version="1.0" encoding="EUC-JP"?><p>{KEEPER["ja"] * 20}</p>'.encode("euc_jp"))
    raw[-30] = 0xFF
    text = one(tmp_path, bytes(raw)).text
    assert text.startswith(KEEPER["ja"])
    assert text.count("\ufffd") <= 2


def test_a_file_that_is_cut_inside_a_character_keeps_its_declared_charset(tmp_path):
    raw = f'<?xml version="1.0" encoding="Big5"?><log><line>{KEEPER["zh-Hant"]}</line><line>燈塔'.encode("cp950")[:-1]
    document = one(tmp_path, raw)
    assert document.text == f"{KEEPER['zh-Hant']}\n燈"
    assert document.metadata["encoding"] == "big5"


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE log SYSTEM "log.dtd">',
        '<!DOCTYPE log PUBLIC "-//Harbour//Log 1.0//EN" "http://example.org/log.dtd" []>',
        '<!DOCTYPE log [<!ENTITY lamp SYSTEM "lamp.gif" NDATA gif> <!NOTATION gif SYSTEM "viewer">]>',
        '<!DOCTYPE log [<!-- ]> --><!ENTITY % more SYSTEM "more.ent"> %more; <!ELEMENT log (line>)>]>',
        '<!DOCTYPE log [<!ENTITY secret SYSTEM "file:///etc/passwd">]>',
    ],
)
def test_a_document_type_is_dropped(tmp_path, doctype):
    text = one(tmp_path, f'<?xml version="1.0"?>{doctype}<log><line>The lamp was lit.</line></log>').text
    assert text == "The lamp was lit."


def test_own_entities_are_written_out_and_those_outside_are_left_out_and_told(tmp_path):
    raw = (
        '<!DOCTYPE log [<!ENTITY who "the <b>keeper</b>"><!ENTITY whose "&who;&apos;s lamp">'
        '<!ENTITY chapter SYSTEM "file:///etc/passwd">]>'
        "<log><line>&whose;&nbsp;burns &amp; glows.</line><line>&chapter;</line></log>"
    )
    document = one(tmp_path, raw)
    assert document.text == "the keeper's lamp burns & glows."
    assert "outside the file" in document.metadata["warnings"][0]


def test_entities_that_grow_without_bounds_are_a_bomb_still(tmp_path):
    quadratic = f'<!DOCTYPE a [<!ENTITY b "{"x" * 2000}">]><a>{"&b;" * 2000}</a>'
    circle = '<!DOCTYPE a [<!ENTITY b "&c;"><!ENTITY c "&b;">]><a>&b;</a>'
    for number, raw in enumerate((quadratic, circle)):
        (tmp_path / f"{number}.xml").write_text(raw)
        documents, quarantined, _ = load_file(tmp_path / f"{number}.xml", "a.xml", LoadOptions())
        assert not documents
        assert quarantined[0].reason == "unreadable"
        assert "billion laughs" in quarantined[0].detail


@pytest.mark.parametrize(
    "raw",
    [
        "<log><line>The lamp was lit.</line><line>The fog came in and the ho",
        "<log><line>The lamp was lit.</line><line>The fog came in</lin></log>",
        "<log><line>The lamp was lit.</line><line>The fog came in at 3 < 4 o'clock &</line></log>",
    ],
)
def test_damaged_xml_keeps_what_can_be_read_and_says_so(tmp_path, raw):
    (tmp_path / "a.xml").write_text(raw)
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(workers=1))
    (document,) = corpus.documents
    assert document.text.startswith("The lamp was lit.\nThe fog came in")
    (warning,) = corpus_report(corpus)["warnings"]
    assert warning["source"] == "a.xml"
    assert "damaged or cut off at line 1" in warning["warning"]


def test_sound_xml_has_no_warnings(tmp_path):
    (tmp_path / "a.xml").write_text('<log xmlns:x="urn:x"><x:line>The lamp was lit.</x:line></log>')
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(workers=1))
    assert "warnings" not in corpus_report(corpus)
    assert "warnings" not in corpus.documents[0].metadata


def test_words_between_elements_stay_on_one_line(tmp_path):
    raw = "<doc><p>Water is H<sub>2</sub>O, and <em>ice</em> floats.</p><ul><li>one</li><li>two</li></ul></doc>"
    assert one(tmp_path, raw).text == "Water is H2O, and ice floats.\none\ntwo"


def test_html_in_cdata_or_escaped_becomes_text(tmp_path):
    raw = (
        "<manual><body><![CDATA[<p>Turn the <b>valve</b> slowly.</p><ul><li>left</li><li>right</li></ul>]]></body>"
        "<note>&lt;p&gt;Wear gloves.&lt;br/&gt;Always.&lt;/p&gt;</note>"
        "<programlisting><![CDATA[<p>shown as it is</p>]]></programlisting><size>a &lt; b</size></manual>"
    )
    text = one(tmp_path, raw).text
    assert "Turn the valve slowly.\n" in text
    assert "- left\n- right" in text
    assert "Wear gloves.\nAlways." in text
    assert "<p>shown as it is</p>" in text
    assert "a < b" in text


RSS = """<?xml version="1.0"?><rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><channel><title>Harbour &amp; pier</title><link>https://example.org</link>
<description>News of the harbour</description>
<item><title><![CDATA[The <i>new</i> lamp]]></title><dc:creator>A. Keeper</dc:creator><guid>urn:1</guid>
<description><![CDATA[<p>A lamp of 40 kW was&hellip;]]></description>
<content:encoded><![CDATA[<h2>Power</h2><p>A lamp of 40 kW was put up on the pier.</p>]]></content:encoded></item>
<item><title>Fog horn</title><description>The horn &lt;b&gt;sounds&lt;/b&gt; twice.</description></item>
</channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><title type="text">Harbour notes</title><id>urn:f</id>
<entry><title type="html">Tides &amp;amp; winds</title><updated>2021-04-05T10:00:00Z</updated>
<content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>High water at <em>six</em>.</p></div></content>
</entry><entry><title>Dues</title><summary type="html">&lt;p&gt;Nine a night.&lt;/p&gt;</summary></entry></feed>"""
RDF = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/">
<channel rdf:about="x"><title>Old harbour</title></channel>
<item rdf:about="y"><title>Rope</title><description>Hemp rope is sold.</description></item></rdf:RDF>"""


@pytest.mark.parametrize(
    ("raw", "title", "headings", "lines"),
    [
        (RSS, "Harbour & pier", ["Harbour & pier", "The new lamp", "Power", "Fog horn"],
         ["creator: A. Keeper", "A lamp of 40 kW was put up on the pier.", "The horn sounds twice."]),
        (ATOM, "Harbour notes", ["Harbour notes", "Tides & winds", "Dues"],
         ["updated: 2021-04-05T10:00:00Z", "High water at six.", "Nine a night."]),
        (RDF, "Old harbour", ["Old harbour", "Rope"], ["Hemp rope is sold."]),
    ],
    ids=["rss", "atom", "rdf"],
)  # fmt: skip
def test_a_feed_has_its_title_and_a_section_an_entry(tmp_path, raw, title, headings, lines):
    document = one(tmp_path, raw, "feed")  # told by its first element
    assert document.media_type == "application/xml"
    assert document.title == title
    assert [heading for _, _, heading in document.headings] == headings
    assert [line for line in lines if line not in document.text.split("\n")] == []
    assert "<" not in document.text
    assert "was…" not in document.text  # the excerpt of what stands there whole
