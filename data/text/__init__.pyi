from data.text.normalisation import normalise as normalise
from data.text.quotes import Span as Span
from data.text.quotes import locate_quote as locate_quote
from data.text.quotes import sentences as sentences
from data.text.urls import text_without_secrets as text_without_secrets
from data.text.urls import value_without_secrets as value_without_secrets
from data.text.urls import without_secrets as without_secrets
