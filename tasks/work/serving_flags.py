"""How servers of others take an adapter: the command and the field of a request that each of them needs.

A section of the model card. The commands are the servers' own documented ones; none of them but llama.cpp runs in the
tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from data.prompting.contract import chat_of
from jora_engine.config.lora import BGMV_RANK, vllm_rank

FOLDER = "/path/to/this/folder"


def serving_flags(contract: Mapping[str, Any], *, name: str, rank: int | None) -> Iterator[str]:
    """The lines of the section.

    Args:
        contract: the adapter's raft.json.
        name: under which servers offer the adapter.
        rank: of the adapter; None where it is not known, and then no flag says it.
    """
    base = contract.get("base_model", "BASE")
    yield "| server | command | in a request |"
    yield "|---|---|---|"
    for server, (command, request) in _commands(base, name, rank, _own_template(contract)).items():
        yield f"| {server} | {command} | {request} |"
    yield ""
    yield (
        "llama.cpp wants both as GGUF: `convert_hf_to_gguf.py BASE_FOLDER --outfile base.gguf` and "
        f"`convert_lora_to_gguf.py {FOLDER} --base BASE_FOLDER --outfile adapter.gguf`, from its repository. Where a "
        "prompt is rendered by hand and begins with the BOS token, send it as token ids: before a text the server puts "
        "another."
    )
    yield ""
    if _own_template(contract):
        yield (
            "`merged/chat_template.jinja` is the template of the training, beside this folder; LoRAX and TGI take the "
            "base's own, so render the prompt there yourself."
        )
        yield ""
    yield "`raft export --check all` says what each of them makes of an adapter."


def _own_template(contract: Mapping[str, Any]) -> bool:
    """Whether a server that renders with the base's own chat template would ask otherwise than the training did."""
    prompt = contract.get("prompt", {})
    return bool(prompt.get("template_date") or chat_of(prompt))


def _commands(base: str, name: str, rank: int | None, own_template: bool) -> dict[str, tuple[str, str]]:
    """Command and request by server; what cannot hold the rank is told so."""
    template = " --chat-template merged/chat_template.jinja" if own_template else ""
    limit = None if rank is None else vllm_rank(rank)
    vllm_flag = f" --max-lora-rank {max(limit, 16)}" if limit else ""
    sglang_flag = f" --max-lora-rank {rank}" if rank else ""
    too_high = ("serve the merged model", "")
    vllm = (
        f"`vllm serve {base} --enable-lora{vllm_flag} --lora-modules {name}={FOLDER}{template}`",
        f'`"model": "{name}"`',
    )
    lorax = (f"`lorax-launcher --model-id {base}`", f'`"adapter_id": "{FOLDER}", "adapter_source": "local"`')
    tgi = (
        f"`LORA_ADAPTERS={name}={FOLDER} text-generation-launcher --model-id {base}`",
        f'`"adapter_id": "{name}"`',
    )
    sglang = (
        f"`python -m sglang.launch_server --model-path {base} --enable-lora{sglang_flag} "
        f"--lora-paths {name}={FOLDER}{template}`",
        f'`"model": "{base}:{name}"`, or `"lora_path": "{name}"` with `/generate`',
    )
    file = " --chat-template-file merged/chat_template.jinja" if own_template else ""
    llama_cpp = (f"`llama-server -m base.gguf --lora adapter.gguf --jinja{file}`", "nothing: the adapter is on")
    few = rank is None or rank <= BGMV_RANK
    return {
        "vLLM": vllm if rank is None or limit else too_high,
        "SGLang": sglang,
        "LoRAX": lorax if few else too_high,
        "TGI": tgi if few else too_high,
        "llama.cpp": llama_cpp,
    }
