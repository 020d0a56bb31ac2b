"""Raised and lowered text can be told from what it stands on, and stays readable where nothing else is meant."""

import pytest

from data.loading.formats.html import render_html
from data.loading.raised import lowered, raised, write_raised


@pytest.mark.parametrize(
    ("page", "written"),
    [
        ("about 10<sup>6</sup> drops", "about 10^6 drops"),
        ("10<sup>−3</sup> g", "10^−3 g"),
        ("10<sup>n+1</sup>", "10^(n+1)"),
        ("2<sup>3</sup>4", "2^3 4"),
        ("e<sup>x<sup>2</sup></sup>", "e^(x^2)"),
        ("5 m<sup>3</sup>/s", "5 m^3/s"),
        ("H<sub>2</sub>O and Ca(OH)<sub>2</sub>", "H2O and Ca(OH)2"),
        ("SO<sub>4</sub><sup>2−</sup>", "SO4^2−"),
        ("log<sub>2</sub>8 = 3", "log_2 8 = 3"),
        ("101<sub>2</sub>", "101_2"),
        ("a<sub>10</sub>5", "a_10 5"),
        ("V<sub>max</sub>", "V_max"),
        ("the 1<sup>st</sup> of May", "the 1st of May"),
        ("10<sup>n</sup>", "10^n"),
        ("Rake<sup>TM</sup>", "Rake™"),
        ("the gate<sup><a href='#n'>3</a></sup> opens", "the gate[3] opens"),
        (
            "It has 10<a href='#fn3' class='footnote-ref' role='doc-noteref'><sup>3</sup></a> rooms",
            "It has 10[3] rooms",
        ),
        ("a gate<a href='n.html#n' epub:type='noteref'><span><sup>1</sup></span></a> opens", "a gate[1] opens"),
        ("the gate<a href='#n'><sup>*</sup></a> opens", "the gate[*] opens"),
        ("the gate<a href='#n'><sup>[4]</sup></a> opens", "the gate[4] opens"),
        ("some <a href='#drops'>10<sup>6</sup></a> drops", "some 10^6 drops"),
        ("10<a href='exponent.html'><sup>6</sup></a> drops", "10^6 drops"),
        ("Rake<a href='#marks'><sup>TM</sup></a>", "Rake™"),
        ("<sup>2</sup>See the annex.", "2 See the annex."),
        ("<sup>14</sup>C", "^14C"),
        ("10<span style='vertical-align: super'>6</span>", "10^6"),
        ("5<sup>1</sup>/<sub>2</sub> inches", "5 1/2 inches"),
        ("<sup>3</sup>⁄<sub>4</sub>", "3/4"),
        ("10<sup></sup>", "10"),
    ],
)
def test_an_exponent_is_never_read_as_a_digit(page, written):
    assert write_raised("".join(render_html(f"<p>{page}</p>", whole=True).parts)) == written


def test_small_print_is_no_exponent():
    words = "printed on paper from the forests of the valley"
    assert write_raised(f"Notice{raised(words)}") == f"Notice {words}"
    assert write_raised(f"x{lowered(' ')}y") == "x y"


def test_an_exponent_in_several_runs_is_one():
    assert write_raised(f"10{raised('1')}{raised('2')}") == "10^12"


@pytest.mark.parametrize(
    ("page", "written"),
    [
        ("<math><msup><mn>10</mn><mn>6</mn></msup></math>", "10^6"),
        ("<math><msubsup><mi>x</mi><mn>1</mn><mn>2</mn></msubsup></math>", "x_1^2"),
        ("<math><mfrac><mi>a</mi><mrow><mi>b</mi><mo>+</mo><mn>1</mn></mrow></mfrac></math>", "a/(b+1)"),
        (
            "<math><semantics><msup><mn>10</mn><mn>6</mn></msup>"
            "<annotation encoding='application/x-tex'>10^{6}</annotation></semantics></math>",
            "$10^{6}$",
        ),
        ("<math alttext='{\\displaystyle x^{2}}'><msup><mi>x</mi><mn>2</mn></msup></math>", "$x^{2}$"),
        ("<script type='math/tex'>10^{6}</script> cells", "$10^{6}$ cells"),
    ],
)
def test_equations_of_a_page_keep_their_exponents(page, written):
    assert "".join(render_html(f"<p>{page}</p>", whole=True).parts) == written
