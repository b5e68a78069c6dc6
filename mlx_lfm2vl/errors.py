"""The errors a user can cause, each one clear line and the exit code the command ends with."""


class Lfm2VLError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class CheckpointError(Lfm2VLError):
    """A checkpoint that is broken, incomplete or of a kind this package does not run."""


class NetworkError(Lfm2VLError):
    """A download that failed, was refused or took too long."""


class InputError(Lfm2VLError):
    """Wrong use or bad input: an unreadable image, a prompt that does not fit, a bad setting."""

    exit_code = 2
