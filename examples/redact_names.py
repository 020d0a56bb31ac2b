"""A stage of your own in the pipeline: names are blacked out before anything is cut, embedded or trained on.

    python examples/redact_names.py my-documents --name Alice --name "Bob Miller" --until chunk

docs/extending.md goes through it line by line.
"""

import argparse
from pathlib import Path

import redact_names_work

from flows.pipeline import Make, assess, ingest, prepare, train
from flows.run import Run, at_work
from flows.step import Builder
from flows.walk import walk
from tasks.build.events import Event, Finished
from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.config import RunConfig
from tasks.inputs.corpus import Corpus


class RedactConfig(Section):
    """What is blacked out."""

    names: tuple[str, ...] = setting((), "Words that no reader of the results may see")


REDACT = Stage("redact", RedactConfig, redact_names_work.build, help="Black out names.")


class Config(RunConfig):
    """The configuration with the stage's section."""

    redact: RedactConfig = RedactConfig()


def pipeline(make: Make, corpus: Corpus) -> None:
    """The project's own pipeline with one line more."""
    documents = make(REDACT, make(ingest, corpus))
    prepared = prepare(make, documents)
    assess(make, prepared, make(train, prepared.records))


def tell(event: Event) -> None:
    if isinstance(event, Finished):
        print(f"{event.stage}{' (cached)' if event.cached else ''}: {event.manifest.summary}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", help="a folder, a file, a glob or a URL")
    parser.add_argument("--name", action="append", default=[], help="what is blacked out; may be given several times")
    parser.add_argument("--until", default="chunk", help="the last stage")
    parser.add_argument("--embedder", default=RunConfig().models.embedder, help="a folder, or a Hub id")
    parser.add_argument("--store", type=Path, default=Path(".raft"))
    options = parser.parse_args()

    config = Config.model_validate(
        {
            "corpus": [options.documents],
            "store": str(options.store),
            "redact": {"names": options.name},
            "models": {"embedder": options.embedder},
        }
    )
    run = Run.of(config, tell)
    with at_work(run):
        results = walk(run, Builder(run), options.until, pipeline)
    assert results is not None
    print(results[options.until].folder)


if __name__ == "__main__":
    main()
