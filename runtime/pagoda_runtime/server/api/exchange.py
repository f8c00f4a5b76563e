"""Requests that generate: prepared, run, and answered in one piece or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

import msgspec
from msgspec import UNSET, UnsetType
from starlette.datastructures import Headers
from starlette.types import Send

from pagoda_runtime.engine.request import SamplingParams
from pagoda_runtime.server import sse
from pagoda_runtime.server.api.chat import ChatReply, ChatRequest, chat_prompt
from pagoda_runtime.server.api.completions import CompletionReply, CompletionRequest, Echo
from pagoda_runtime.server.api.context import Api
from pagoda_runtime.server.api.reply import Reply, Usage, Whole, usage_of
from pagoda_runtime.server.api.request import (
    DEADLINE_HEADER,
    GenerationRequest,
    check_model,
    check_token_ids,
    deadline,
    parse,
)
from pagoda_runtime.server.api.sampling import sampling_params
from pagoda_runtime.server.engine_client import ENGINE_ERRORS
from pagoda_runtime.server.errors import bad_request, from_engine
from pagoda_runtime.server.generation import Choice, Generation, TextRules


@dataclass
class Exchange:
    """One request and how it is answered."""

    request: GenerationRequest
    reply: Reply
    generation: Generation

    async def answer(self, send: Send) -> msgspec.Struct | None:
        """Run it; return the answer in one piece, or None when it was sent as a stream.

        Nothing is sent before the engine has taken the request: until then a refusal has a status.
        """
        try:
            with self.generation:
                await self.generation.accepted()
                if self.request.stream:
                    await sse.send_events(send, self.events())
                    return None
                return await self._whole()
        except ENGINE_ERRORS as error:
            raise from_engine(error) from error

    async def events(self) -> AsyncGenerator[msgspec.Struct, None]:
        """The answer chunk by chunk, ending with usage if asked for, or with an error. Only in the
        generation's context.
        """
        request, reply, generation = self.request, self.reply, self.generation
        # With usage asked for, the chunks before it carry `usage: null`.
        usage: Usage | UnsetType | None = None if request.include_usage else UNSET
        for chunk in reply.opening(generation.choices):
            yield chunk
        try:
            async for piece in generation.pieces():
                if request.continuous_usage:
                    usage = usage_of(generation)
                for chunk in reply.chunks(piece, usage):
                    yield chunk
        except ENGINE_ERRORS as error:
            yield from_engine(error).body()
            return
        if request.include_usage:
            yield reply.usage_chunk(usage_of(generation))

    async def _whole(self) -> msgspec.Struct:
        answers = [Whole(choice) for choice in self.generation.choices]
        async for piece in self.generation.pieces():
            answers[piece.choice.index].add(piece)
        return self.reply.whole(answers, usage_of(self.generation))


async def chat(api: Api, body: bytes, headers: Headers) -> Exchange:
    """Prepare a chat."""
    request = parse(body, ChatRequest)
    request.check()
    reply = ChatReply(request, check_model(request, api.model_names), api.fingerprint, api.tokens)
    # The template has written the special tokens already.
    ids = await api.encode(
        chat_prompt(request, api.ready_text), add_special_tokens=bool(request.add_special_tokens)
    )
    return _exchange(api, request, reply, [ids], headers, prompt_param="messages")


async def completion(api: Api, body: bytes, headers: Headers) -> Exchange:
    """Prepare a completion of one or several prompts."""
    request = parse(body, CompletionRequest)
    request.check()
    model = check_model(request, api.model_names)
    prompts: list[list[int]] = []
    echoes: list[Echo] = []
    for given in request.prompts:
        if isinstance(given, str):
            special = request.add_special_tokens is not False
            prompts.append(await api.encode(given, add_special_tokens=special))
        else:
            check_token_ids(given, api.limits.vocab_size, "prompt")
            prompts.append(given)
        if request.echo:
            skip = request.skip_special_tokens is not False
            echoes.append(Echo(api.ready_text, given, prompts[-1], skip))
    reply = CompletionReply(request, echoes, model, api.fingerprint, api.tokens)
    return _exchange(
        api,
        request,
        reply,
        prompts,
        headers,
        prompt_param="prompt",
        prompt_logprobs=request.prompt_logprobs,
        # Only this endpoint says where in the text tokens begin.
        offsets=request.num_logprobs is not None,
    )


def _exchange(
    api: Api,
    request: GenerationRequest,
    reply: Reply,
    prompts: Sequence[list[int]],
    headers: Headers,
    *,
    prompt_param: str,
    prompt_logprobs: int | None = None,
    offsets: bool = False,
) -> Exchange:
    n = request.n or 1
    if len(prompts) * n > api.max_choices:
        raise bad_request(
            f"{len(prompts) * n} answers in one request, but this server takes at most "
            f"{api.max_choices} at once",
            prompt_param if n == 1 else "n",
        )
    until = deadline(request, headers.get(DEADLINE_HEADER))
    rules = TextRules(
        stop=request.stop_strings,
        include_stop=bool(request.include_stop_str_in_output),
        skip_special_tokens=request.skip_special_tokens is not False,
        offsets=offsets,
    )
    choices: list[Choice] = []
    for number, ids in enumerate(prompts):
        params = sampling_params(
            request,
            len(ids),
            api.limits,
            prompt_param=prompt_param,
            prompt_logprobs=prompt_logprobs,
            deadline=until,
        )
        choices += [
            Choice(
                number * n + k,
                number,
                ids,
                _sibling(params, k),
                api.ready_text.tokenizer,
                rules,
                api.limits.eos_token_ids,
            )
            for k in range(n)
        ]
    generation = Generation(api.engine, api.metrics, reply_id=reply.id, choices=choices)
    return Exchange(request, reply, generation)


def _sibling(params: SamplingParams, k: int) -> SamplingParams:
    """The k-th answer's parameters: with the same seed all answers would be the same."""
    return replace(params, seed=params.seed + k) if k and params.seed is not None else params


async def answer_chat(api: Api, body: bytes, headers: Headers, send: Send) -> msgspec.Struct | None:
    """POST /v1/chat/completions."""
    return await (await chat(api, body, headers)).answer(send)


async def answer_completion(
    api: Api, body: bytes, headers: Headers, send: Send
) -> msgspec.Struct | None:
    """POST /v1/completions."""
    return await (await completion(api, body, headers)).answer(send)
