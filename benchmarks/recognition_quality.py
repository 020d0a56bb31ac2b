"""Character error rate of text recognition on scans, beside the time a page takes.

    python benchmarks/recognition_quality.py [--quick] [--json] [--part reporting]

The pages are made here: sentences in ten languages, set in two fonts and scanned in three ways (clean at 200 dots an
inch; 150 with grain and half a degree aslant; 100, blurred and stored with loss). They are read by `load_corpus` from
PDFs without a text layer, as a user's are. The error rate is the edit distance to the text over its length, white space
counted as one space.

Two parts that share neither text nor font: the reader's settings were chosen on `tuning`; `reporting` (the first
article of the Universal Declaration of Human Rights, bold and typewriter faces) was added afterwards, nothing was
changed because of it, and only its figure is quoted. Exits 1 where more than 3 % of the characters are wrong.
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from goals import Goals, missed

from data.loading import LoadOptions, load_corpus
from data.loading.formats.pdf_pages.recognition import EXTRA, engine, is_installed

TEXTS = {
    "en": "The keeper of the lighthouse climbed 214 steps each evening. His logbook of 1887 names every ship that "
    "passed the cape, its flag and its cargo; on calm nights he also wrote down what the fishermen sang "
    "(mostly psalms).",
    "de": "Der Wärter stieg jeden Abend 214 Stufen hinauf. Sein Tagebuch von 1887 nennt jedes Schiff, das am Kap "
    "vorüberfuhr, seine Flagge und Ladung; in ruhigen Nächten schrieb er auch auf, was die Fischer sangen.",
    "fr": "Le gardien du phare montait 214 marches chaque soir. Son journal de 1887 cite tous les navires passés "
    "devant le cap, leur pavillon et leur cargaison ; par nuit calme, il notait aussi ce que chantaient les "
    "pêcheurs.",
    "es": "El guardián del faro subía 214 escalones cada noche. Su diario de 1887 nombra todos los barcos que "
    "pasaban por el cabo, su bandera y su carga; ¿qué cantaban los pescadores? También lo apuntaba, año tras "
    "año.",
    "it": "Il guardiano del faro saliva 214 gradini ogni sera. Il suo diario del 1887 ricorda ogni nave che passò "
    "davanti al capo, la bandiera e il carico; nelle notti calme annotava perché e che cosa cantavano i "
    "pescatori.",
    "pl": "Latarnik co wieczór wchodził po 214 stopniach. Jego dziennik z 1887 roku wymienia każdy statek, który "
    "minął przylądek, jego banderę i ładunek; w spokojne noce zapisywał też, co śpiewali rybacy.",
    "sv": "Fyrvaktaren gick uppför 214 trappsteg varje kväll. Hans dagbok från 1887 nämner varje fartyg som "
    "passerade udden, dess flagga och last; lugna nätter skrev han också ned vad fiskarna sjöng.",
    "tr": "Fener bekçisi her akşam 214 basamak çıkardı. 1887 tarihli günlüğü, burnun önünden geçen her gemiyi, "
    "bayrağını ve yükünü anar; sakin gecelerde balıkçıların söylediği şarkıları da yazardı.",
    "cs": "Strážce majáku vystoupal každý večer 214 schodů. Jeho deník z roku 1887 uvádí každou loď, která minula "
    "mys, její vlajku a náklad; za klidných nocí zapisoval i to, co zpívali rybáři.",
    "vi": "Mỗi tối người gác hải đăng leo 214 bậc thang. Nhật ký năm 1887 của ông ghi lại từng con tàu đi qua mũi "
    "đất, cờ và hàng hóa của nó; những đêm lặng gió ông còn chép lời hát của ngư dân.",
}
RIGHTS = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
    "and should act towards one another in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt "
    "und sollen einander im Geist der Brüderlichkeit begegnen.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
    "conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y "
    "conciencia, deben comportarse fraternalmente los unos con los otros.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di "
    "coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i "
    "sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "sv": "Alla människor är födda fria och lika i värde och rättigheter. De är utrustade med förnuft och samvete och "
    "bör handla gentemot varandra i en anda av broderskap.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve "
    "birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler.",
    "cs": "Všichni lidé se rodí svobodní a sobě rovní co do důstojnosti a práv. Jsou nadáni rozumem a svědomím a mají "
    "spolu jednat v duchu bratrství.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền. Mọi con người đều được tạo hoá "
    "ban cho lý trí và lương tâm và cần phải đối xử với nhau trong tình bằng hữu.",
}
PARTS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "tuning": (TEXTS, ("DejaVuSerif.ttf", "DejaVuSans.ttf")),
    "reporting": (RIGHTS, ("DejaVuSerif-Bold.ttf", "DejaVuSansMono.ttf")),
}
NEEDS = "rapidocr"
KEYS = "part engine pages seconds_a_page error_rate by_scan/* by_language/*"
GOALS: Goals = {"error_rate": ("<=", 0.03)}


@dataclass(frozen=True)
class Scanner:
    """How a sheet becomes a picture: dots an inch, degrees aslant, share of grain, blur in dots, JPEG quality."""

    dots: int
    aslant: float = 0.0
    grain: float = 0.0
    blur: float = 0.0
    quality: int = 95


SCANNERS = {
    "clean, 200 dpi": Scanner(200),
    "grainy, aslant, 150 dpi": Scanner(150, aslant=0.5, grain=0.25, quality=80),
    "blurred, lossy, 100 dpi": Scanner(100, blur=0.6, quality=40),
}


def sheet(text: str, font: str, scanner: Scanner, seed: int) -> bytes:
    """A PDF of one picture: `text` in 11 points on half a sheet of A4."""
    import numpy as np
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    scale = scanner.dots / 72
    letters = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / font), round(11 * scale))
    image = Image.new("L", (round(595 * scale), round(421 * scale)), 250)
    for number, line in enumerate(textwrap.wrap(text, 72)):
        ImageDraw.Draw(image).text((60 * scale, (60 + 17 * number) * scale), line, font=letters, fill=25)
    image = image.rotate(scanner.aslant, resample=Image.Resampling.BICUBIC, fillcolor=250)
    image = image.filter(ImageFilter.GaussianBlur(scanner.blur)) if scanner.blur else image
    if scanner.grain:
        noise = np.random.default_rng(seed).normal(0, 255 * scanner.grain / 4, (image.height, image.width))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype("uint8"))
    buffer = io.BytesIO()
    image.save(buffer, "PDF", resolution=scanner.dots, quality=scanner.quality)
    return buffer.getvalue()


def error_rate(read: str, truth: str) -> float:
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(" ".join(read.split()), truth) / len(truth)


def measure(texts: dict[str, str], fonts: tuple[str, ...]) -> dict[str, Any]:
    rates: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        truths: dict[str, tuple[str, str, str]] = {}
        for language, text in texts.items():
            for font in fonts:
                for number, (name, scanner) in enumerate(SCANNERS.items()):
                    file = f"{language}-{font}-{number}.pdf"
                    (Path(folder) / file).write_bytes(sheet(text, font, scanner, number))
                    truths[file] = (language, name, text)
        start = time.perf_counter()
        corpus = load_corpus([folder], options=LoadOptions(ocr=True))
        seconds = time.perf_counter() - start
    read = {document.source: document.text for document in corpus.documents}
    read |= {twin.source: read[twin.same_as] for twin in corpus.duplicates}  # read alike
    for file, (language, name, truth) in truths.items():
        rates.setdefault((language, name), []).append(error_rate(read.get(file, ""), truth))

    def mean(where: int, value: str) -> float:
        return round(statistics.mean(r for key, rs in rates.items() if key[where] == value for r in rs), 4)

    return {
        "engine": engine(),
        "cpus": os.cpu_count(),
        "pages": len(truths),
        "seconds_a_page": round(seconds / len(truths), 2),
        "error_rate": round(statistics.mean(r for rs in rates.values() for r in rs), 4),
        "by_scan": {name: mean(1, name) for name in SCANNERS},
        "by_language": {language: mean(0, language) for language in texts},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two languages in one font: 6 pages in place of 60")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON line only")
    parser.add_argument("--part", choices=PARTS, default="reporting", help="which sentences and fonts")
    options = parser.parse_args()
    if not is_installed():
        sys.exit(f"the extra `ocr` is not installed: {EXTRA}")
    texts, fonts = PARTS[options.part]
    if options.quick:
        texts, fonts = {language: texts[language] for language in ("en", "de")}, fonts[:1]
    figures = {"part": options.part, **measure(texts, fonts)}
    short = missed(figures, GOALS)
    if not options.json:
        print(json.dumps(figures, indent=2, ensure_ascii=False))
        print(f"goals missed: {'; '.join(short) or 'none'}")
    print(json.dumps(figures, ensure_ascii=False))
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
