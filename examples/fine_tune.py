"""From records to an adapter with the engine alone: train LoRA on Alpaca JSON Lines, then ask the adapted model.

    python examples/fine_tune.py records/train.jsonl --out adapter-run --ask "What is the town of Alder known for?"

Killed and started again, it goes on from its last checkpoint. `adapter-run/adapter` loads in PEFT, vLLM and SGLang.
"""

import argparse
from pathlib import Path
from typing import Any

from jora_engine import Generator, Job, LoraConfig, TrainConfig, fine_tune
from tasks.inputs.models import resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, help="JSON Lines with instruction, input and output")
    parser.add_argument("--validation", type=Path, help="records that are not trained on")
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="a folder, or a Hub id")
    parser.add_argument("--out", type=Path, default=Path("adapter-run"))
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument(
        "--sequence-length", type=int, default=1024, help="tokens of a row; records are packed into rows"
    )
    parser.add_argument("--ask", help="a question for the adapted model")
    options = parser.parse_args()

    model = resolve(options.model, say=print)
    job = Job(
        model=model.folder,
        train=options.records,
        validation=options.validation,
        out=options.out,
        work=options.out / "work",
        base_name=model.name,
        base_digest=model.digest,
        lora=LoraConfig(rank=options.rank, alpha=options.rank),
        training=TrainConfig(
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            sequence_length=options.sequence_length,
            micro_batch_rows=1,
        ),
    )
    fine_tune(job, report=show)
    print(f"the adapter is in {options.out / 'adapter'}")

    if options.ask:
        generator = Generator(model.folder, adapter=options.out / "adapter")
        prompt = generator.tokenizer.apply_chat_template([{"role": "user", "content": options.ask}], True)
        print(generator.generate([prompt], max_new_tokens=100)[0].text)


def show(event: dict[str, Any]) -> None:
    if event["event"] == "step":
        print(f"step {event['step']}: loss {event['loss']:.3f}")


if __name__ == "__main__":
    main()
