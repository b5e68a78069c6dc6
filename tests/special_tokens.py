"""Special tokens that tests add to a checkpoint, as fine-tunes do."""

import json

OWN = ["<|leaf|>", "<|stem|>", "<|/leaf|>"]


def add_own_tokens(folder, **flags):
    """Add `OWN` to a checkpoint's tokenizer; `flags` are settings of the new tokens."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    first = 1 + max(tokenizer["model"]["vocab"].values())
    for number, text in enumerate(OWN, first):
        token = {**tokenizer["added_tokens"][0], "id": number, "content": text, **flags}
        tokenizer["added_tokens"].append(token)
    path.write_text(json.dumps(tokenizer))
    return folder
