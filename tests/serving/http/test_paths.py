"""Hints for paths that are not there."""

import pytest

from mlx_lfm2vl.serving.http.paths import meant

SKILLS = [f"/v1/skills/{name}" for name in ("caption", "detect", "ocr")]
OTHERS = ["/v1/models", "/v1/models/{model:path}", "/v1/responses", "/v1/chat/completions"]
MANY = [f"/v1/{number}" for number in range(12)]
LIST = "GET /openapi.json lists the paths"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/skills/nope", "expected caption, detect, ocr"),
        ("/v1/skills/captions", "did you mean /v1/skills/caption?"),
        ("/v1/chat/completions/", "did you mean /v1/chat/completions?"),
        ("/chat/completions", "did you mean /v1/chat/completions?"),
        ("/v1/v1/chat/completions", "did you mean /v1/chat/completions?"),
        ("/v1/completions", "did you mean /v1/chat/completions?"),
        ("/v1/embeddings", LIST),
        ("/api/tags", LIST),
        ("//", "did you mean /?"),
    ],
)
def test_a_path_that_is_not_there_is_told_what_may_be_meant(path, hint):
    assert meant(path, ["/", "/health", *OTHERS, *SKILLS, *MANY]).startswith(hint)
