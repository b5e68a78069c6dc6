"""The commands of the program and what each is for."""

COMMANDS = {
    "generate": "answer a prompt about images",
    "chat": "talk about images, line by line",
    "convert": "quantize a checkpoint and report what was lost",
    "train": "fine-tune a checkpoint on your own images and answers",
    "fuse": "merge an adapter into its checkpoint",
    "benchmark": "measure where the time goes on this machine",
    "models": "list the checkpoints on this machine, or remove one",
    "cache": "list or delete what --cache has kept on disk",
    "doctor": "check this machine, and its GPU against its CPU",
    "mac": "install Quick Actions for the Finder, or remove them",
    "completion": "print a script that completes commands in your shell",
}
