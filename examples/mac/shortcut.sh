#!/bin/sh
# Paste this into the Shortcuts action "Run Shell Script" (Shell: zsh, Input: an image, Pass Input:
# to stdin). The action's result is the text, ready for "Copy to Clipboard" or "Show Result".
# Shortcuts do not see your shell's PATH: use the output of `which mlx_lfm2vl` as the program.
/opt/homebrew/bin/mlx_lfm2vl generate --model LiquidAI/LFM2.5-VL-450M --image - \
    --prompt "Write all text in this image, and nothing else." --max-tokens 400 --temperature 0
