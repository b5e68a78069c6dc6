-- Write a caption into the Finder comment of every selected photo.
-- Save this script as an application in Script Editor, or bind it to a key with a Quick Action.
-- Scripts do not see your shell's PATH: set `program` to the output of `which mlx_lfm2vl`.

property program : "/opt/homebrew/bin/mlx_lfm2vl"
property model : "LiquidAI/LFM2.5-VL-450M"
property question : "Describe this photo in one sentence."

tell application "Finder" to set chosen to selection as alias list
repeat with photo in chosen
	set arguments to " generate --model " & quoted form of model & ¬
		" --image " & quoted form of POSIX path of photo & ¬
		" --prompt " & quoted form of question & " --max-tokens 80"
	try
		set caption to do shell script quoted form of program & arguments
		tell application "Finder" to set comment of photo to caption
	on error message number code
		-- code 2 means that the program cannot read this file: go on with the others
		if code is not 2 then display dialog message buttons {"Stop"} cancel button 1
	end try
end repeat
