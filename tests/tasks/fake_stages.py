"""Three small stages in a row whose bodies say in a log that they ran; also a program, for tests that kill it.

python fake_stages.py STORE LOG [--hold STAGE FILE]
"""

import dataclasses
import sys
import time
from pathlib import Path

from tasks.build.events import Event, Started, Waiting, silent
from tasks.build.section import Section, setting
from tasks.build.stage import Request, Stage, run
from tasks.store.manifest import Manifest
from tasks.store.store import Store
from tasks.work.bench import Bench, Outcome


class FirstConfig(Section):
    value: int = setting(3, "What is counted up to")
    workers: int = setting(1, "Changes nothing", result=False)


class SecondConfig(Section):
    factor: int = setting(10, "What is multiplied by")


class ThirdConfig(Section):
    pass


@dataclasses.dataclass(frozen=True)
class Source:
    digest: str = "source-1"


HELD_SECONDS = 300.0  # a test that failed does not leave it behind for ever


@dataclasses.dataclass
class World:
    """Where the bodies log, and which one stays at work until when.

    Attributes:
        held: a stage that leaves half a result and goes on when `until` is there, so that a test need not hope to be
            faster than it.
    """

    log: Path = Path("/dev/null")
    held: str = ""
    until: Path | None = None
    fail: list = dataclasses.field(default_factory=list)

    def enter(self, stage: str, bench: Bench) -> None:
        with self.log.open("a") as log:
            log.write(stage + "\n")
        if self.fail:
            raise self.fail.pop(0)
        if self.held == stage:
            (bench.out / "half.txt").write_text("half a result")
            began = time.monotonic()
            while not self.until.exists():
                if time.monotonic() - began > HELD_SECONDS:
                    raise TimeoutError(f"{self.until} is not there")
                time.sleep(0.02)


WORLD = World()


def first(bench: Bench, config: FirstConfig, corpus: Source) -> Outcome:
    WORLD.enter("first", bench)
    (bench.out / "numbers.txt").write_text("\n".join(str(i) for i in range(config.value)))
    (bench.out / "times.txt").write_text(str(time.time_ns()))
    return Outcome(f"{config.value} numbers", {"count": config.value})


def first_or_earlier(bench: Bench, config: FirstConfig, corpus: Source, earlier: Manifest | None = None) -> Outcome:
    return first(bench, config, corpus)


def second(bench: Bench, config: SecondConfig, first: Manifest) -> Outcome:
    WORLD.enter("second", bench)
    numbers = [int(n) for n in first.path("numbers.txt").read_text().split()]
    (bench.out / "products.txt").write_text("\n".join(str(n * config.factor) for n in numbers))
    return Outcome(f"{len(numbers)} products")


def third(bench: Bench, config: ThirdConfig, second: Manifest) -> Outcome:
    WORLD.enter("third", bench)
    (bench.out / "sum.txt").write_text(str(sum(int(n) for n in second.path("products.txt").read_text().split())))
    return Outcome("1 sum")


FIRST = Stage("first", FirstConfig, first, describing=("times.txt",))
SECOND = Stage("second", SecondConfig, second)
THIRD = Stage("third", ThirdConfig, third)


def requests(first: FirstConfig | None = None, second: SecondConfig | None = None, source: Source | None = None):
    """Functions that make each stage's request from what is built before."""
    return [
        lambda built: Request(FIRST, first or FirstConfig(), {"corpus": source or Source()}),
        lambda built: Request(SECOND, second or SecondConfig(), {"first": built["first"]}),
        lambda built: Request(THIRD, ThirdConfig(), {"second": built["second"]}),
    ]


def walk(store: Store, reporter=None, step=None, **configs) -> dict[str, Manifest]:
    """Runs the three stages."""
    step = step or (lambda request: run(request, store, reporter or silent))
    built: dict[str, Manifest] = {}
    for make in requests(**configs):
        manifest = step(make(built))
        built[manifest.stage] = manifest
    return built


def print_event(event: Event) -> None:
    """A reporter for programs."""
    match event:
        case Waiting(stage, holder):
            print(f"waiting {stage} for {holder}", flush=True)
        case Started(stage):
            print(f"started {stage}", flush=True)


if __name__ == "__main__":
    import fake_stages  # by its name: code is fingerprinted by module, and `__main__` is none

    store, log, *options = sys.argv[1:]
    fake_stages.WORLD.log = Path(log)
    if options:
        _, fake_stages.WORLD.held, until = options
        fake_stages.WORLD.until = Path(until)
    print(fake_stages.walk(Store(Path(store)), fake_stages.print_event)["third"].digest, flush=True)
