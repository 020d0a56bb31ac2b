"""A teacher's questions are asked for, and checked, in the language of the corpus."""

import pytest
from made_up import chunk_of

from data.nouns import Hit
from data.questions.answers import full_answer, supported
from data.questions.filters import Fault, copies, grounded, well_formed
from data.questions.generate import QuestionOptions, generate_questions
from data.questions.selection import statements
from data.questions.wording import content_words
from data.teachers.replay import ReplayTeacher
from raft_errors import BadInput

# language | sentence | question | answer; a row may go on in the next line
_ROWS = """
zh|员工每年享有十五天带薪年假。|员工每年享有多少天带薪年假？|十五天
ja|有給休暇は一年に十五日あり、翌年三月末までに使う。|有給休暇は一年に何日ありますか？|十五日
ja|サーバー室の鍵は総務部の担当者が保管している。|サーバー室の鍵は誰が保管していますか。|総務部の担当者
ko|회사의 노트북은 서울 본사의 창고에 보관한다.|회사의 노트북은 어디에 보관합니까?|서울 본사의 창고
th|พนักงานมีสิทธิลาพักร้อนปีละสิบห้าวันตามระเบียบ|พนักงานลาพักร้อนได้ปีละกี่วัน|สิบห้าวัน
de
|Der große Kessel im Keller wird alle sechs Monate entkalkt.
|Wie oft wird der große Kessel im Keller entkalkt?
|alle sechs Monate
fr
|La grande chaudière de la cave est nettoyée tous les six mois.
|Quand la grande chaudière de la cave est-elle nettoyée ?
|tous les six mois
el
|Η βαλβίδα του μεγάλου λέβητα κλείνει στους ενενήντα βαθμούς.
|Πότε κλείνει η βαλβίδα του μεγάλου λέβητα;
|στους ενενήντα βαθμούς
ar|يغلق الصمام الأحمر في المرجل الكبير عند تسعين درجة.|متى يغلق في المرجل الكبير الصمام الأحمر؟|عند تسعين درجة
hi|बड़े बॉयलर का लाल वाल्व नब्बे डिग्री पर बंद होता है।|बड़े बॉयलर का लाल वाल्व कब बंद होता है?|नब्बे डिग्री पर
ko|직원은 매년 십오 일의 유급 휴가를 받는다.|직원은 매년 며칠의 유급 휴가를 받습니까?|십오 일
he|כל עובד זכאי לחמישה עשר ימי חופשה בשנה בתשלום מלא.|כמה ימי חופשה בשנה מגיעים לכל עובד?|לחמישה עשר
"""
CASES = [tuple(row.split("|")) for row in _ROWS.strip().replace("\n|", "|").splitlines()]
OTHER = {
    "zh": "灭火器由物业公司检查。", "ja": "消火器は管理会社が点検する。", "ko": "소화기는 관리 회사가 점검한다.",
    "th": "ถังดับเพลิงตรวจโดยบริษัทดูแลอาคาร", "de": "Die Feuerlöscher prüft die Hausverwaltung.",
    "fr": "Les extincteurs sont vérifiés par le syndic.", "el": "Οι πυροσβεστήρες ελέγχονται από την εταιρεία.",
    "ar": "تفحص الشركة طفايات الحريق.", "he": "החברה בודקת את המטפים.", "hi": "अग्निशामक की जाँच कंपनी करती है।",
}  # fmt: skip


@pytest.mark.parametrize(("language", "sentence", "question", "answer"), CASES)
def test_a_good_question_passes_and_one_about_another_passage_does_not(language, sentence, question, answer):
    assert well_formed(question, language) is None
    assert grounded(question, sentence, language=language) is None
    assert copies(question, sentence) is None
    other = grounded(question, OTHER[language], language=language)
    assert isinstance(other, Fault)
    assert [s.text for s in statements(sentence)] == [sentence]
    assert supported(answer, sentence, question, language)
    assert not supported(OTHER[language], sentence, question, language)


def test_what_points_at_the_text_or_is_no_question_is_dropped_in_other_languages():
    for question, language in [
        ("根据本文，员工享有多少天年假？", "zh"),
        ("この文章では休暇は何日ですか？", "ja"),
        ("Was steht in diesem Abschnitt über den Kessel?", "de"),
        ("Que dit ce passage sur la chaudière ?", "fr"),
    ]:
        assert well_formed(question, language).reason == "points_at_text"
    assert well_formed("员工每年享有十五天带薪年假。", "zh").reason == "not_a_question"
    assert well_formed("พนักงานมีสิทธิลาพักร้อนปีละสิบห้าวัน", "th").reason == "not_a_question"
    assert well_formed("员工享有多少天年假？年假何时用完？", "zh").reason == "several_sentences"


def test_another_number_supports_no_answer():
    assert not supported("十五天", "员工每年享有二十五天带薪年假。", "有多少天年假？")
    assert not supported("105 grains", "The jar holds 10⁵ grains.", "How many grains does the jar hold?")


def test_a_final_answer_is_read_as_its_language_marks_it():
    text = "员工每年享有十五天带薪年假。年假必须在三月底之前用完。"
    reply = "<quote>员工每年享有十五天带薪年假</quote>\n段落里这样写。\n答案：十五天"
    answer = full_answer("员工享有多少天年假？", reply, text, max_words=20)
    assert (answer.final, answer.quotes) == ("十五天", ("员工每年享有十五天带薪年假",))


def test_stop_words_and_stems_are_those_of_the_language():
    assert content_words("Die Kessel und der Keller", "de") == content_words("Kessel im Keller", "de")
    assert content_words("Die Häuser", "de") == content_words("dem Haus", "de")
    assert "die" in content_words("Die Kessel")
    assert content_words("蓝色胸牌") == {"蓝色", "色胸", "胸牌"}


@pytest.mark.parametrize(
    ("rows", "name"), [([c for c in CASES if c[0] == "zh"], "Chinese"), ([c for c in CASES if c[0] == "de"], "German")]
)
def test_a_teacher_is_told_the_language_and_its_questions_are_kept(rows, name):
    (language, sentence, question, answer), *_ = rows
    chunks = [chunk_of("A", sentence), chunk_of("B", OTHER[language])]

    def reply(messages):
        asked = messages[-1]["content"]
        assert f"in {name}, the language of the passage." in asked
        if "Question:" not in asked:
            return question if sentence in asked else "?"
        return f"<quote>{sentence}</quote>\n{sentence}\nAnswer: {answer}"

    def search(queries, k):
        return [[Hit(chunks[0].id, 1.0, 1)] for _ in queries]

    teacher = ReplayTeacher(default=reply)
    made = generate_questions(chunks, teacher, search, options=QuestionOptions(style="full"))
    assert [(q.question, q.answer) for q in made.questions] == [(question, answer)]


def test_english_prompts_stay_as_they_are_and_the_small_style_says_that_it_is_for_english():
    english = [chunk_of("A", "The red valve of the boiler closes at ninety degrees on each cold day.")]
    teacher = ReplayTeacher(default="?")
    generate_questions(english, teacher, lambda q, k: [[] for _ in q], options=QuestionOptions(style="full"))
    assert "language of the passage" not in teacher.calls[0][-1]["content"]
    chinese = [chunk_of("A", CASES[0][1] * 3)]
    with pytest.raises(BadInput, match="English sentences alone"):
        generate_questions(chinese, teacher, lambda q, k: [[] for _ in q], options=QuestionOptions(style="small"))
