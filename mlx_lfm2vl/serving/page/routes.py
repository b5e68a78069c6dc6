"""The page in a browser: one HTML document.

The document is put together from the files in `page` when it is first asked for. A browser gets it
whole. Its Content-Security-Policy lets it run nothing but its own script, and ask nobody else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

FOLDER = Path(__file__).parent
STYLE = re.compile(r'<link rel="stylesheet" href="([a-z]+\.css)">')
SCRIPT = re.compile(r'<script type="module" src="([a-z]+\.js)"></script>\n')
IMPORT = re.compile(r"^import\b[^;]*;\n", re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|const|class) (\w+))", re.MULTILINE)


def page_routes() -> list[Route]:
    """Return the route of the page.

    It needs no token: the page says nothing of the models, and asks for the token itself.
    """
    from starlette.responses import Response as PlainResponse
    from starlette.routing import Route

    async def show(request: Request) -> Response:
        html, headers = page()
        if request.headers.get("if-none-match") == headers["ETag"]:
            return PlainResponse(status_code=304, headers=headers)
        return PlainResponse(html, headers=headers, media_type="text/html")

    return [Route("/", show)]


@cache
def page() -> tuple[str, dict[str, str]]:
    """Return the document and the headers that it is sent with."""
    html = assembled(FOLDER)
    policy = [
        "default-src 'none'",
        f"script-src {_hashes(html, 'script')}",
        f"style-src {_hashes(html, 'style')}",
        "img-src blob: data:",
        "connect-src 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        # Nothing may become HTML or code, whatever a mistake in the script would do with it.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return html, {
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Cache-Control": "no-cache",
        "ETag": f'"{hashlib.sha256(html.encode()).hexdigest()[:32]}"',
    }


def assembled(folder: Path) -> str:
    """Put the styles and the scripts of a page into its HTML.

    The scripts are modules. They become one, in the order in which the HTML names them, so each
    imports from those before it. What a module does not export stays its own.
    """
    html = _text(folder / "page.html")
    code = "".join(_scoped(_text(folder / name)) for name in SCRIPT.findall(html))
    html = STYLE.sub(lambda found: f"<style>\n{_text(folder / found[1])}</style>", html)
    html = SCRIPT.sub("", html)
    return html.replace("</body>", f'<script type="module">\n{code}</script>\n</body>')


def _scoped(module: str) -> str:
    """Turn a module into the definition of the names that it exports."""
    names = ", ".join(found[2] for found in EXPORT.finditer(module))
    body = EXPORT.sub(r"\1", IMPORT.sub("", module))
    return f"const {{ {names} }} = (() => {{\n{body}return {{ {names} }};\n}})();\n"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _hashes(html: str, tag: str) -> str:
    """The sources of a policy that allow the blocks of a tag as they are in the document."""
    blocks = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", html, re.DOTALL)
    digests = [hashlib.sha256(block.encode()).digest() for block in blocks]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
