"""What requests may say in each API, by the types of the clients' packages, and what this server makes of it.

DONE: it does what is asked; the tests named after the feature show how. NEUTRAL: it says nothing about the answer (who asks, how
to bill, what to keep for later), or names the request. TOLD, with a value that asks for something: cannot be had here, so that
the answer is status 400 or has a warning, each naming the field. A field that is in none of them is told as unknown.
"""

HELLO = [{"role": "user", "content": "Hello"}]
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}

CHAT = {
    "path": "/v1/chat/completions",
    "body": {"messages": HELLO, "max_tokens": 2},
    "done": {"messages", "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop",
             "seed", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format", "tools",
             "tool_choice", "parallel_tool_calls"},
    "neutral": {"user", "metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"},
    "told": {"n": 2, "functions": [FUNCTION], "function_call": {"name": "f"}, "modalities": ["text", "audio"],
             "audio": {"voice": "alloy", "format": "wav"}, "prediction": {"type": "content", "content": "x"},
             "web_search_options": {"search_context_size": "low"}, "verbosity": "low", "store": True, "service_tier": "flex",
             "reasoning_effort": "high", "moderation": {"model": "x"}, "prompt_cache_options": {"mode": "explicit"},
             # Beside the types: what clients of other servers send.
             "chat_template_kwargs": {"odd_switch": 1}, "mirostat": 2, "lora": [{"id": 0, "scale": 1}], "n_probs": 3, "best_of": 2,
             "stop_token_ids": [5], "bad_words": ["x"], "documents": [{"text": "x"}], "cache_prompt": False, "reasoning": {"effort": "low"}},
}
COMPLETION = {
    "path": "/v1/completions",
    "body": {"prompt": "Hello", "max_tokens": 2},
    "done": {"prompt", "model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "stop", "seed", "frequency_penalty",
             "presence_penalty", "logit_bias", "logprobs", "echo"},
    "neutral": {"user"},
    "told": {"n": 2, "best_of": 2, "suffix": "x", "service_tier": "priority", "prompt": ["a", "b"]},
}
RESPONSE = {
    "path": "/v1/responses",
    "body": {"input": "Hello", "max_output_tokens": 2},
    "done": {"input", "model", "instructions", "stream", "max_output_tokens", "temperature", "top_p", "top_logprobs", "tools", "tool_choice",
             "parallel_tool_calls", "text"},
    # Calls of tools are the client's to make; padding hides lengths on a network.
    "neutral": {"user", "metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "stream_options", "max_tool_calls"},
    "told": {"background": True, "conversation": "c", "previous_response_id": "r", "prompt": {"id": "p"}, "store": True, "truncation": "auto",
             "include": ["file_search_call.results"], "reasoning": {"effort": "high", "summary": "auto"}, "service_tier": "flex",
             "context_management": [{"type": "compaction"}], "moderation": {"model": "x"}, "prompt_cache_options": {"mode": "explicit"},
             "background_options": {"x": 1}, "image": {"x": 1}, "access_programs": ["x"]},
}
EMBEDDING = {
    "path": "/v1/embeddings",
    "body": {"input": "Hello"},
    "done": {"input", "model", "dimensions", "encoding_format"},
    "neutral": {"user"},
    "told": {"input_type": "query", "task": "x"},
}
MESSAGE = {
    "path": "/v1/messages",
    "body": {"messages": HELLO, "max_tokens": 2},
    "done": {"messages", "model", "max_tokens", "system", "stop_sequences", "stream", "temperature", "top_p", "top_k", "tools", "tool_choice"},
    "neutral": {"metadata", "cache_control", "betas"},  # The latter is a header.
    "told": {"thinking": {"type": "enabled", "budget_tokens": 1024}, "service_tier": "priority", "inference_geo": "us", "container": "c",
             "mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}], "output_config": {"effort": "high"},
             "output_format": {"type": "x"}, "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}, "speed": "fast",
             "user_profile_id": "u", "diagnostics": {"previous_message_id": "m"}, "fallbacks": [{"model": "x"}],
             "workspace_id": "w", "billing_policy": "x", "compaction": {"type": "x"}, "fallback_credit_token": "x", "thread": {"id": "x"}},
}
OLLAMA_OPTIONS = {
    "done": {"num_ctx", "num_predict", "temperature", "top_p", "top_k", "min_p", "typical_p", "repeat_last_n", "repeat_penalty",
             "presence_penalty", "frequency_penalty", "seed", "stop"},
    "told": {"numa": True, "num_batch": 8, "num_gpu": 1, "main_gpu": 1, "low_vram": True, "f16_kv": True, "logits_all": True,
             "vocab_only": True, "use_mmap": False, "use_mlock": True, "embedding_only": True, "num_thread": 1, "num_keep": 5, "tfs_z": 0.5,
             "mirostat": 1, "mirostat_tau": 1.0, "mirostat_eta": 0.5, "penalize_newline": True, "draft_num_predict": 4},
}
OLLAMA_CHAT = {
    "path": "/api/chat",
    "body": {"model": "local", "messages": HELLO, "stream": False, "options": {"num_predict": 2}},
    "done": {"model", "messages", "tools", "format", "options", "stream", "keep_alive", "logprobs"},
    "neutral": {"truncate"},  # What is too long is refused.
    "told": {"think": "high", "shift": True, "top_logprobs": 3, "template": "x", "dimensions": 3, "width": 5},
    "options": OLLAMA_OPTIONS,
}
OLLAMA_GENERATE = {
    "path": "/api/generate",
    "body": {"model": "local", "prompt": "Hello", "stream": False, "options": {"num_predict": 2}},
    "done": {"model", "prompt", "system", "raw", "format", "options", "stream", "keep_alive", "logprobs"},
    "neutral": {"truncate"},
    "told": {"think": True, "shift": True, "top_logprobs": 3, "suffix": "x", "template": "x", "context": [1, 2], "images": ["AA=="],
             "width": 5, "height": 5, "steps": 5},
    "options": OLLAMA_OPTIONS,
}
OLLAMA_EMBED = {
    "path": "/api/embed",
    "body": {"model": "local", "input": "Hello"},
    "done": {"model", "input", "truncate", "dimensions", "keep_alive", "options"},
    "neutral": set(),
    "told": {"images": ["AA=="]},
    "options": {"done": {"num_ctx"}, "told": {**OLLAMA_OPTIONS["told"], "temperature": 1, "seed": 1, "stop": "x"}},
}
OLLAMA_EMBEDDINGS = {
    "path": "/api/embeddings",
    "body": {"model": "local", "prompt": "Hello"},
    "done": {"model", "prompt", "keep_alive", "options"},
    "neutral": set(),
    "told": {"images": ["AA=="]},
    "options": OLLAMA_EMBED["options"],
}
ALL = (CHAT, COMPLETION, RESPONSE, EMBEDDING, MESSAGE, OLLAMA_CHAT, OLLAMA_GENERATE, OLLAMA_EMBED, OLLAMA_EMBEDDINGS)
