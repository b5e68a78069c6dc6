-- Write a caption into the Finder comment of every selected photo. Comments that are there stay.
-- Save this script as an application in Script Editor, or bind it to a key in Shortcuts.
-- Scripts do not see your shell's PATH: set `program` to the output of `which mlx_lfm2vl`.

property program : "/opt/homebrew/bin/mlx_lfm2vl"
property model : "450m"

tell application "Finder" to set chosen to selection as alias list
set photos to ""
repeat with photo in chosen
	set photos to photos & " " & quoted form of POSIX path of photo
end repeat
if photos is "" then error "Select photos in the Finder first."
-- The results are in the comments, so the file of results goes with its folder.
do shell script "folder=$(mktemp -d) && trap 'rm -r \"$folder\"' EXIT && " & ¬
	quoted form of program & " run caption --model " & quoted form of model & ¬
	" --write finder-comment --out \"$folder/captions.jsonl\"" & photos
