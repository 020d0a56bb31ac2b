from retrieval.embedding.embedder import Embedder as Embedder
from retrieval.embedding.embedder import EmbedderInfo as EmbedderInfo
from retrieval.embedding.embedder import Embeddings as Embeddings
from retrieval.embedding.sentence_model import resolve_device as resolve_device
from retrieval.embedding.shards import dask_executor as dask_executor
from retrieval.embedding.shards import embed_shards as embed_shards
from retrieval.embedding.shards import local_pool as local_pool
from retrieval.embedding.shards import threads_each as threads_each
