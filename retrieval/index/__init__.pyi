from retrieval.index.faiss_index import Index as Index
from retrieval.index.faiss_index import build_index as build_index
from retrieval.index.faiss_index import open_index as open_index
from retrieval.index.kinds import Kind as Kind
