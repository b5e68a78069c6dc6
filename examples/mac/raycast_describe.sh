#!/bin/bash
# Raycast script command that describes an image file. Put it into your script commands folder.
# @raycast.schemaVersion 1
# @raycast.title Describe Image
# @raycast.mode fullOutput
# @raycast.argument1 { "type": "text", "placeholder": "path of an image" }
# @raycast.argument2 { "type": "text", "placeholder": "question", "optional": true }
# @raycast.packageName LFM2-VL
set -o pipefail
export PATH="/opt/homebrew/bin:$HOME/.local/bin:$PATH"
mlx_lfm2vl generate --model LiquidAI/LFM2.5-VL-450M --json --image "$1" \
    --prompt "${2:-What is in this image?}" |
    python3 -c 'import json, sys
answer = json.load(sys.stdin)
if "error" in answer:
    sys.exit(1)  # its line is on stderr
seconds = sum(answer["timings"][key] for key in ("first_token_seconds", "decode_seconds"))
print(answer["text"])
print("{} image tokens, {:.1f} s".format(answer["image_tokens"], seconds))'
