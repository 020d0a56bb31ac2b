"""A small corpus about tanks, and what a capable teacher says of it."""

import re

from made_up import chunk_of

from data.nouns import Hit

CHUNKS = [chunk_of(f"Tank {n}", f"The valve of tank {n} closes at {n + 20} degrees in the morning.") for n in range(12)]


def number_of(text):
    found = re.search(r"tank (\d+)", text)
    return int(found.group(1)) if found else -1


def written(text):
    """What a capable teacher says."""
    number = number_of(text)
    if number < 0:
        return "ready"
    if "\nQuestion: " not in text:
        return f"At how many degrees does the valve of tank {number} close?"
    sentence = re.search(r"The valve of tank .* degrees", text).group()
    return f"<quote>{sentence}</quote>\nIt is said.\nAnswer: {sentence.split(' at ')[1]}"


def search(queries, k):
    return [[Hit(CHUNKS[number_of(query)].id, 1.0, 1)] for query in queries]


def asked(body):
    """The last message of a request."""
    return body["messages"][-1]["content"]
