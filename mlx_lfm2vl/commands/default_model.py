"""The model of a command that names none: from the environment, or from a small file."""

import os
from pathlib import Path

from ..checkpoint.aliases import full_name
from ..errors import InputError

VARIABLE = "LFM2VL_MODEL"


def settings_file() -> Path:
    """Where the settings are: `~/.config/mlx_lfm2vl/config.toml`, or under `XDG_CONFIG_HOME`."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "mlx_lfm2vl" / "config.toml"


def chosen_model(given: str | None) -> str:
    """Return the model to use, with a short name replaced by its repo id.

    Args:
        given: the user's --model, or None for the default.

    Raises:
        InputError: no model was given and there is no default, or the settings cannot be read.
    """
    model = given if given is not None else os.environ.get(VARIABLE) or _from_settings()
    if not model:
        raise InputError(
            f"which model? add --model, as in --model 450m, or set {VARIABLE} "
            f'(or write model = "450m" into {settings_file()})'
        )
    # A folder of that name comes first, as it does for repo ids.
    return model if os.path.isdir(model) else full_name(model)


def _from_settings() -> str | None:
    import tomllib  # most commands name their model

    path = settings_file()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    unknown = [name for name in values if name != "model"]
    if unknown:
        raise InputError(f"{path} has an unknown key {unknown[0]!r}, expected model")
    model = values.get("model")
    if model is not None and not isinstance(model, str):
        raise InputError(f"{path}: model is {model!r:.60}, expected a string")
    return model
