from data.chunking.chunks import chunk_documents as chunk_documents
from data.chunking.cutting import ChunkOptions as ChunkOptions
from data.nouns import Chunk as Chunk
