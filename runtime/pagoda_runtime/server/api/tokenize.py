"""/tokenize and /detokenize."""

from __future__ import annotations

from typing import Annotated

import msgspec
from starlette.datastructures import Headers
from starlette.types import Send

from pagoda_runtime.server.api.chat import (
    AddGenerationPrompt,
    ContinueFinalMessage,
    Messages,
    TemplateVariables,
    chat_prompt,
)
from pagoda_runtime.server.api.context import Api
from pagoda_runtime.server.api.request import (
    Body,
    TokenId,
    check_model,
    check_token_ids,
    doc,
    parse,
)
from pagoda_runtime.server.errors import bad_request


class TokenizeRequest(Body, kw_only=True):
    """POST /tokenize: either a prompt or a chat."""

    prompt: Annotated[str | None, doc("A text, as for a completion.")] = None
    messages: Messages | None = None
    add_generation_prompt: AddGenerationPrompt = None
    continue_final_message: ContinueFinalMessage = None
    chat_template_kwargs: TemplateVariables = None
    add_special_tokens: Annotated[
        bool | None,
        doc("Begin as the model's tokenizer does. Default true for a prompt, false for a chat."),
    ] = None
    return_token_strs: Annotated[
        bool | None, doc("The tokens as the vocabulary writes them too.")
    ] = None


class TokenizeResponse(msgspec.Struct):
    """The tokens. max_model_len: how many the model takes, with the answer."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(Body, kw_only=True):
    """POST /detokenize."""

    tokens: Annotated[list[TokenId], doc("Token ids.")]


class DetokenizeResponse(msgspec.Struct):
    """The text, special tokens included."""

    prompt: str


async def tokenize(api: Api, body: bytes, headers: Headers, send: Send) -> TokenizeResponse:
    """Tokens of a prompt or a chat."""
    request = parse(body, TokenizeRequest)
    check_model(request, api.model_names)
    if (request.prompt is None) == (request.messages is None):
        raise bad_request("either prompt or messages must be there", "prompt")
    special = request.add_special_tokens
    if request.prompt is not None:
        ids = await api.encode(request.prompt, add_special_tokens=special is not False)
    else:
        ids = await api.encode(
            chat_prompt(request, api.ready_text), add_special_tokens=bool(special)
        )
    names = [api.tokens.name_of(token) for token in ids] if request.return_token_strs else None
    return TokenizeResponse(len(ids), api.limits.max_model_len, ids, names)


async def detokenize(api: Api, body: bytes, headers: Headers, send: Send) -> DetokenizeResponse:
    """Text of tokens."""
    request = parse(body, DetokenizeRequest)
    check_model(request, api.model_names)
    check_token_ids(request.tokens, api.limits.vocab_size, "tokens")
    return DetokenizeResponse(
        api.ready_text.tokenizer.decode(request.tokens, skip_special_tokens=False)
    )
