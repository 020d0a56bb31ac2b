"""What asks in a question and says nothing: the question words of some languages, by ISO 639 code.

English has its own list in `data.questions.filters`. Of scripts without spaces these are parts of runs, cut out before
a question is compared with its passage.
"""

from __future__ import annotations

import re

QUESTION_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "da": "hvad hvem hvor hvornår hvorfor hvordan hvilken hvilket hvilke hvis mange meget ofte længe",
        "de": (
            "was wer wen wem wessen wo wohin woher wann warum wieso weshalb wie welche welcher welches welchen welchem "
            "wozu womit wodurch woran worauf woraus worin viel viele vielen oft lange häufig heißt muss müssen darf "
            "dürfen kann können soll sollen wird werden geschieht passiert bedeutet"
        ),
        "es": (
            "qué quién quiénes cuál cuáles cuándo cuánto cuánta cuántos cuántas dónde cómo por para debe deben puede "
            "pueden hay frecuencia tiempo significa llama sucede"
        ),
        "fr": (
            "que quoi qui quel quelle quels quelles quand comment combien pourquoi où est-ce doit doivent peut peuvent "
            "faut fréquence temps signifie appelle passe"
        ),
        "it": (
            "che cosa chi quale quali quando quanto quanta quanti quante dove come perché deve devono può possono "
            "tempo spesso significa chiama succede"
        ),
        "nl": "wat wie waar wanneer waarom hoe welke welk hoeveel vaak lang moet moeten mag mogen kan kunnen betekent",
        "no": "hva hvem hvor når hvorfor hvordan hvilken hvilket hvilke mange mye ofte lenge",
        "pl": "co kto kogo komu czego gdzie kiedy dlaczego jak jaki jaka jakie który która które ile często długo czy",
        "pt": (
            "que quê quem qual quais quando quanto quanta quantos quantas onde como porque deve devem pode podem há "
            "frequência tempo significa chama acontece"
        ),
        "ru": (
            "что кто кого кому чего чем где куда откуда когда почему зачем как какой какая какое какие который сколько "
            "часто долго можно нужно должен должна должны ли"
        ),
        "sv": "vad vem vilka vilken vilket var vart varför när hur många mycket ofta länge måste får kan",
        "tr": "ne kim kime nerede nereye nereden neden niçin nasıl hangi kaç kadar sık mi mı mu mü",
    }.items()
}
QUESTION_WORDS |= {"nb": QUESTION_WORDS["no"], "nn": QUESTION_WORDS["no"]}

IN_RUNS = re.compile(
    # Chinese
    "多少|多久|多长|多大|多高|几个|几天|几次|几|什么时候|什么|甚麼|什麼|哪个|哪些|哪里|哪儿|哪|谁|誰|何时|何處|何处|何种|何|为什么|為什麼"
    "|为何|怎么样|怎么|怎样|怎麼|如何|是否|吗|嗎|呢|的|了|是|在|由|应|應|需要|请问"
    # Japanese
    "|どのように|どのような|どの|どこ|どれ|どう|いつ|いくつ|いくら|だれ|なぜ|なに|なん|何|誰|ですか|ますか|でしょうか|ください|か$"
    "|は|が|を|に|へ|と|で|も|の"
    # Korean
    "|무엇|언제|어디|누구|누가|왜|어떻게|어떤|어느|얼마|몇|입니까|습니까|인가요|나요"
    # Thai
    "|อะไร|ใคร|ที่ไหน|ไหน|เมื่อไร|เมื่อไหร่|เมื่อใด|อย่างไร|ยังไง|ทำไม|เท่าไร|เท่าใด|กี่|หรือไม่|ไหม"
)
"""What asks, and particles, inside a run."""

ASKS_WITHOUT_MARK = re.compile(
    r"か[。\s]*$|吗[。\s]*$|[까요][.\s]*$|อะไร|ใคร|ไหน|เมื่อไร|เมื่อไหร่|เมื่อใด|อย่างไร|ทำไม|เท่าไร|เท่าใด|กี่|หรือไม่|ไหม|ใด"
    r"|(?:နည်း|လား|လဲ)[။\s]*$|អ្វី|អ្នកណា|ពេលណា|ទីណា|ប៉ុន្មាន|យ៉ាងណា|ຫຍັງ|ໃຜ|ເມື່ອໃດ|ຈັກ|ເທົ່າໃດ|ແນວໃດ"
)
"""How a question ends or asks in languages that need no question mark."""

_VERDICT_WORDS = """
ja nein jein oui non sí no sim não nej nei nee да нет evet hayır 是 否 对 不是 はい いいえ 예 네 아니요 아니오 ใช่ ไม่ใช่
tak nie ano ne áno так ні igen nem kyllä ei nu ναι όχι jah jā nē taip не نعم لا بله خیر כן לא हाँ नहीं có không ya tidak
"""
VERDICTS = frozenset(_VERDICT_WORDS.split())
"""Yes and no of languages other than English."""
