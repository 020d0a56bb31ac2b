"""A page's text without the letters of fonts that are in cipher, where its other fonts are not."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from typing import Any

from data.loading.formats.pdf_pages.cipher import is_cipher, may_hold_cipher


def without_cipher_fonts(textpage: Any, text: str) -> tuple[str, bool]:
    """`text` of a page of pypdfium2 less what stands in fonts in cipher, and whether nothing had to go."""
    if not may_hold_cipher(text) or len(text) != textpage.count_chars():
        return text, True
    fonts = _fonts(textpage, text)
    texts: dict[int, list[str]] = defaultdict(list)
    for font, char in zip(fonts, text, strict=True):
        texts[font].append(char)
    ciphers = {font for font, chars in texts.items() if is_cipher("".join(chars))}
    if not ciphers:
        return text, True
    return "".join(char for font, char in zip(fonts, text, strict=True) if font not in ciphers or char == "\n"), False


def _fonts(textpage: Any, text: str) -> list[int]:
    """For each character the address of its font in pdfium; what pdfium made up is of the font before it."""
    import pypdfium2.raw as raw

    fonts, font = [], 0
    for number in range(len(text)):
        piece = raw.FPDFText_GetTextObject(textpage.raw, number)
        handle = raw.FPDFTextObj_GetFont(piece) if piece else None
        font = (ctypes.cast(handle, ctypes.c_void_p).value or font) if handle else font
        fonts.append(font)
    return fonts
