#!/bin/bash
# Replace the screenshot on the clipboard (Control-Shift-Command-4) by its alt text.
# Bind it to a key in Shortcuts with "Run Shell Script". Shortcuts do not see your shell's PATH.
set -o pipefail
export PATH="/opt/homebrew/bin:$HOME/.local/bin:$PATH"
export LANG=en_US.UTF-8 # or pbcopy takes the text for MacRoman
text=$(mlx_lfm2vl caption --model 450m --length alt --clipboard) || exit
printf %s "$text" | pbcopy
osascript -e 'on run arguments' \
    -e 'display notification (item 1 of arguments) with title "Alt text copied"' \
    -e 'end run' "$text"
