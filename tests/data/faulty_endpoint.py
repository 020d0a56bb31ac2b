"""An OpenAI-compatible endpoint on loopback that fails on demand in every way that endpoints fail."""

import contextlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from data.teachers.endpoint import TRIAL


class Endpoint:
    """An OpenAI-compatible server on loopback; `faults[text]` is a list of what to do before the right answer.

    `reply(text)` writes the right answer. After `hold_after` answers, further requests are left waiting until `close`,
    and never answered. `always` is done to every request. `script(body)`, where it is set, gives status and JSON body
    of every answer in its place. The trial that a teacher may send beside its prompts is answered with "ready".
    """

    def __init__(self, reply=lambda text: f"reply to {text}"):
        self.reply = reply
        self.hold_after: int | None = None
        self.always = ""
        self.script = None
        self.faults: dict[str, list[str]] = {}
        self.answered: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.headers: list[str] = []
        self.all_headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.bodies: list[dict] = []
        self.mutex, self.closing = threading.Lock(), threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                text = body["messages"][-1]["content"]
                endpoint.asked[text] += 1
                self.body = body
                endpoint.bodies.append(body)
                endpoint.headers.append(self.headers.get("authorization", ""))
                endpoint.all_headers.append({name.lower(): value for name, value in self.headers.items()})
                endpoint.paths.append(self.path)
                left = endpoint.faults.get(text, [])
                if text == TRIAL[-1]["content"] and not endpoint.always and not endpoint.script:
                    endpoint.send(self, 200, json.dumps(completion("ready")).encode())
                    return
                fault = endpoint.always or (left.pop(0) if left else "answer")
                with contextlib.suppress(OSError):  # the client may have hung up
                    endpoint.act(self, fault, text)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def act(self, handler, fault, text):
        if self.script and fault == "answer":
            with self.mutex:
                status, body = self.script(handler.body)
            self.send(handler, status, body if isinstance(body, bytes) else json.dumps(body).encode())
        elif fault == "no_shape":
            asked = "response_format" in handler.body
            self.send(handler, 400, b'{"error": {"message": "unknown field"}}') if asked else self.act(
                handler, "", text
            )
        elif fault.isdigit():
            self.send(handler, int(fault), b'{"error": {"message": "no"}}', {"retry-after": "0.05"})
        elif fault == "html":
            self.send(handler, 200, b"<!DOCTYPE html><html>sign in</html>", {"content-type": "text/html"})
        elif fault == "broken":
            self.send(handler, 200, b'{"choices": [{"message": {"con')
        elif fault == "huge":
            self.send(handler, 200, b'"' + b"x" * 3_000_000 + b'"')
        elif fault == "sleep":
            handler.rfile.read(1)  # until the client hangs up
        elif fault == "disconnect":
            handler.connection.close()
        elif fault == "cut":
            handler.send_response(200)
            handler.send_header("content-length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"choices": [')
            handler.wfile.flush()
            handler.connection.close()
        elif fault == "drip":
            handler.send_response(200)
            handler.send_header("content-length", "1000")
            handler.end_headers()
            for _ in range(1000):  # a client that waits for each byte alone waits for long
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.05)
        else:
            with self.mutex:
                held = self.hold_after is not None and self.answered.total() >= self.hold_after
                self.answered[text] += not held
            if held:
                handler.close_connection = self.closing.wait(60)
                return
            content = "" if fault == "empty" else self.reply(text)
            body = {
                "choices": [{"message": {"content": content}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5},
            }
            self.send(handler, 200, json.dumps(body).encode())

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    @staticmethod
    def send(handler, status, body, headers=None):
        handler.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def completion(content, finish_reason="stop", usage=(10, 5), **message):
    """The body of a chat completion."""
    return {
        "choices": [{"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]},
    }


def refusal(words, **fields):
    """The body of an answer that refuses, as OpenAI writes it."""
    return {"error": {"message": words, "type": "invalid_request_error", **fields}}
