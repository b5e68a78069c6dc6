"""Requests as chat clients send them, built by hand from what is known of each client."""

from typing import Any

# A red dot of 5 x 5 pixels.
DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHxgljN"
    "BAAO9TXL0Y4OHwAAAABJRU5ErkJggg=="
)
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "Tell the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def pictured(text: str, **detail: str) -> dict[str, Any]:
    """A message of a user with a picture below its text, as most clients order them."""
    image = {"type": "image_url", "image_url": {"url": DOT, **detail}}
    return {"role": "user", "content": [{"type": "text", "text": text}, image]}


# By client and purpose. Every one must be taken as it is.
SHAPES: dict[str, dict[str, Any]] = {
    "Open WebUI, chat": {
        "stream": True,
        "model": "demo",
        "messages": [{"role": "system", "content": "Be brief."}, pictured("What is this?")],
        "stream_options": {"include_usage": True},
        "max_tokens": 6,
        "temperature": 0.7,
        "top_p": 0.9,
        "frequency_penalty": 0,
        "stop": ["###"],
        "seed": 0,
    },
    "Open WebUI, title of a chat": {
        "model": "demo",
        "messages": [{"role": "user", "content": 'Reply with {"title": "..."} for this chat.'}],
        "stream": False,
        "max_completion_tokens": 6,
    },
    "Continue, chat": {
        "messages": [
            {"role": "system", "content": "You are a helper."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": "Hello."},
            pictured("And this?", detail="auto"),
        ],
        "model": "demo",
        "max_tokens": 6,
        "stream": True,
        "parallel_tool_calls": False,
    },
    "Raycast, chat": {
        "model": "demo",
        "messages": [
            {"role": "system", "content": ""},
            pictured("Describe this", detail="high"),
        ],
        "temperature": 0.5,
        "stream": True,
        "max_tokens": 6,
    },
    "llm openai, with an image": {
        "model": "demo",
        "messages": [pictured("Describe this", detail="low")],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 6,
    },
    "Home Assistant, a local model": {
        "model": "demo",
        "temperature": 0.6,
        "parallel_tool_calls": False,
        "messages": [
            {"role": "system", "content": "You are a voice assistant."},
            pictured("What is on the table?", detail="auto"),
            {"role": "assistant", "content": None},
            {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
        ],
        "chat_template_kwargs": {"enable_thinking": False},
        "metadata": {"session_id": "01J"},
        "stream": True,
        "max_tokens": 6,
    },
    "LiteLLM, after another model": {
        "model": "demo",
        "messages": [
            {"role": "user", "content": "Hi"},
            {
                **{"role": "assistant", "content": "Hello.", "tool_calls": None},
                **{"function_call": None, "provider_specific_fields": {"refusal": None}},
                "reasoning_details": [{"type": "reasoning.text", "text": "A greeting."}],
                "thinking_blocks": [{"type": "thinking", "thinking": "A greeting."}],
            },
            pictured("Describe this"),
        ],
        "max_tokens": 6,
    },
    "Vercel AI SDK, chat": {
        "model": "demo",
        "messages": [
            {"role": "system", "content": "Be brief."},
            pictured("Describe this"),
            {"role": "assistant", "content": "A dot.", "reasoning_content": "It is red."},
            {"role": "user", "content": "And its color?"},
        ],
        "stop": ["###"],
        "stream": True,
        "max_tokens": 6,
    },
    "a script for LM Studio": {
        "model": "demo",
        "messages": [
            {"role": "system", "content": "Always answer in rhymes."},
            pictured("Describe this"),
        ],
        "temperature": 0.7,
        "max_tokens": -1,
        "stream": False,
    },
    "x.infer-like script": {
        "model": "demo",
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": DOT}, "What is it?"]}
        ],
        "max_tokens": 6,
    },
}
