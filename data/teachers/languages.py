"""Says to a teacher in which language to write, where that of the corpus is not English, as its prompts are."""

from __future__ import annotations

from data.teachers.protocol import Messages

_NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew",
    "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese",
    "km": "Khmer", "ko": "Korean", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "ms": "Malay", "my": "Burmese",
    "nb": "Norwegian", "nl": "Dutch", "nn": "Norwegian", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish",
    "ta": "Tamil", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def ask_in(messages: Messages, language: str, what: str) -> Messages:
    """The chat with a last line that says in which language to do `what`; unchanged for English."""
    if language == "en" or not messages:
        return messages
    name = f"{_NAMES[language]}, the language of the passage" if language in _NAMES else "the language of the passage"
    last = messages[-1]
    return [*messages[:-1], {**last, "content": f"{last['content']}\n\n{what} in {name}."}]
