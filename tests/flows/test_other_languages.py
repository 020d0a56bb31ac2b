"""A corpus that is not English becomes records in its own language, from its documents to the labels."""

import json
from pathlib import Path

import pytest

from data.nouns import Record, read_jsonl
from data.records.figures import passage_texts

# title | sentence | answer | question
CHINESE = """
年假|员工每年享有{}带薪年假|十五天|员工每年享有多少天带薪年假？
年假|申请年假需要提前{}提交|两周|申请年假需要提前多久提交？
报销|差旅报销单应提交给{}|财务部|差旅报销单应提交给哪个部门？
报销|超过五千元的发票由{}签字|部门经理|超过五千元的发票由谁签字？
访客|访客必须在前台领取{}胸牌|蓝色|访客在前台领取什么颜色的胸牌？
访客|夜间访客由{}陪同|保安|夜间访客由谁陪同？
备份|数据库备份文件保存{}|九十天|数据库备份文件保存多少天？
备份|恢复演练每{}进行一次|季度|恢复演练多久进行一次？
消防|灭火器由{}每六个月检查一次|物业公司|灭火器由谁每六个月检查一次？
消防|检查结果记录在{}里|红色登记簿|消防检查结果记录在哪里？
停车|地下停车场共有{}车位|三百二十个|地下停车场共有多少个车位？
停车|停车场的月票价格是{}|四百元|停车场的月票价格是多少？
食堂|食堂在{}开始供应午餐|十一点半|食堂什么时候开始供应午餐？
食堂|素食窗口位于食堂的{}|二楼|素食窗口位于食堂的哪里？
仓库|仓库的钥匙由{}保管|值班主任|仓库的钥匙由谁保管？
仓库|易碎品存放在仓库的{}|北侧货架|易碎品存放在仓库的哪里？
"""
GERMAN = """
Urlaub|Jeder Mitarbeiter hat im Jahr {} Urlaub|dreißig Tage|Wie viel Urlaub hat jeder Mitarbeiter im Jahr?
Urlaub|Urlaub muss {} vorher beantragt werden|zwei Wochen|Wie lange vorher muss Urlaub beantragt werden?
Kessel|Das rote Ventil des Kessels schließt bei {}|neunzig Grad|Wann schließt das rote Ventil des Kessels?
Kessel|Der Kessel wird {} entkalkt|alle sechs Monate|Wie oft wird der Kessel entkalkt?
Besuch|Besucher erhalten am Empfang einen {} Ausweis|blauen|Welchen Ausweis erhalten Besucher am Empfang?
Besuch|Nachts werden Besucher {} begleitet|vom Wachdienst|Von wem werden Besucher nachts begleitet?
Sicherung|Die Sicherungen werden {} aufbewahrt|neunzig Tage lang|Wie lange werden die Sicherungen aufbewahrt?
Sicherung|Die Wiederherstellung wird {} geprobt|in jedem Quartal|Wann wird die Wiederherstellung geprobt?
Feuer|Die Feuerlöscher werden {} geprüft|von der Hausverwaltung|Von wem werden die Feuerlöscher geprüft?
Feuer|Das Ergebnis der Prüfung steht {}|im roten Prüfbuch|Wo steht das Ergebnis der Prüfung?
Parken|Die Tiefgarage hat {} Stellplätze|dreihundertzwanzig|Wie viele Stellplätze hat die Tiefgarage?
Parken|Eine Monatskarte der Tiefgarage kostet {}|vierzig Euro|Wie viel kostet eine Monatskarte der Tiefgarage?
Kantine|Die Kantine öffnet {}|um halb zwölf|Wann öffnet die Kantine?
Kantine|Die vegetarische Theke ist {}|im zweiten Stock|Wo ist die vegetarische Theke?
Lager|Die Schlüssel des Lagers verwahrt {}|der Schichtleiter|Wer verwahrt die Schlüssel des Lagers?
Lager|Zerbrechliche Ware liegt {}|im Regal an der Nordwand|Wo liegt zerbrechliche Ware?
"""
CORPORA = {
    "zh": (CHINESE, "本页介绍公司的规定，请所有同事仔细阅读。", "。", "这些段落中没有答案。"),
    "de": (GERMAN, "Diese Seite nennt die Regeln des Hauses. ", ". ", "Die Passagen enthalten die Antwort nicht."),
}


@pytest.mark.parametrize("language", sorted(CORPORA))
@pytest.mark.slow
def test_documents_become_records_in_their_language(project, language):
    facts, opening, stop, refusal = CORPORA[language]
    docs = project.folder / "docs"
    docs.mkdir()
    rows, texts = [], {}
    for line in facts.strip().splitlines():
        title, sentence, answer, question = line.split("|")
        texts.setdefault(title, opening)
        texts[title] += sentence.format(answer) + stop
        rows.append({"question": question, "answer": answer})
    for title, text in texts.items():
        (docs / f"{title}.md").write_text(f"# {title}\n\n{text}\n", encoding="utf-8")
    rows.append({"question": rows[0]["question"] + " 2", "answer": "", "answerable": False})
    questions = project.folder / "qa.jsonl"
    questions.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    project.values |= {"corpus": [str(docs)], "questions": {"file": str(questions)}, "retrieval": {"mode": "lexical"}}
    project.values["chunk"] = {"max_tokens": 400, "min_tokens": 0}
    project.values["records"] |= {"max_tokens": 4000, "p_oracle": 0.8}
    project.values["train"]["sequence_length"] = 4000
    project.write()
    stages = {row["stage"]: row for row in project.json("records", "--no-prefect")["stages"]}
    assert stages["questions"]["metrics"]["dropped"] == {}
    assert stages["questions"]["metrics"]["placed_by"] == {"retrieval": 16, "unanswerable": 1}
    folder = Path(stages["records"]["folder"])
    assert json.loads((folder / "contract.json").read_text(encoding="utf-8"))["refusal"] == refusal
    records = [r for split in ("train", "validation", "test") for r in read_jsonl(folder / f"{split}.jsonl", Record)]
    assert len(records) == 17
    assert {r.metadata["template"] for r in records} == {f"quoted-{language}"}
    for record in records:
        meta = record.metadata
        assert record.output.endswith(refusal) == (meta["label"] == "refuse")
        others = [text for row, text in passage_texts(record) if row["role"] == "distractor"]
        assert not any(answer in text for answer in meta["answers"] for text in others)
        if meta["oracle_present"]:
            assert any(answer in quote["text"] for answer in meta["answers"] for quote in meta["quotes"])
