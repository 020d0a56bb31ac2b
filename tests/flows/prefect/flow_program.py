"""The three fake stages as a Prefect flow, ended as `raft` ends.

python flow_program.py STORE LOG FILE [fails] [patient]

The second stage says that it is at work, and goes on when the file is there. Only where the server stays well has it
the time that a busy machine needs.
"""

import sys
import types
from pathlib import Path

import fake_stages

from flows.cli import app as cli
from flows.prefect.environment import settle
from flows.run import Run
from raft_errors import BadInput
from tasks.build.events import Event, Finished, Said
from tasks.prefect import link as prefect_link
from tasks.store.store import Store

store, log, until, *options = sys.argv[1:]
fake_stages.WORLD.log = Path(log)
fake_stages.WORLD.held, fake_stages.WORLD.until = "second", Path(until)
if "patient" in options:
    prefect_link.PATIENCE_SECONDS = prefect_link.HEALTH_SECONDS = 60.0
else:
    prefect_link.PATIENCE_SECONDS, prefect_link.HEALTH_SECONDS, prefect_link.GONE_SECONDS = 3.0, 1.0, 1.0


def tell(event: Event) -> None:
    match event:
        case Said(text):
            print(f"said {text}", flush=True)
        case Finished(manifest):
            print(f"finished {manifest.stage}", flush=True)
        case _:
            fake_stages.print_event(event)


def walk(step):
    built = fake_stages.walk(run.store, step=step)
    if "fails" in options:
        raise BadInput("the third stage found that the file is wrong")
    return built


def verb() -> int:
    settle(run.store)
    from flows.prefect.flow import run_flow

    print("digest", run_flow(run, walk)["third"].digest, flush=True)
    return 0


class Command:
    registered_commands = ()

    def __call__(self, **_):
        return verb()


run = Run(types.SimpleNamespace(name="three", model_dump=lambda mode: {}), Store(Path(store)), {}, tell)
run.store.prepare()
cli.command = lambda: Command()
sys.argv[1:] = []
cli.main()
