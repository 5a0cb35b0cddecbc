"""The verb docs: builds the documentation site and serves it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rossmann.cli.terminal import echo

if TYPE_CHECKING:
    from rossmann.settings import Settings


def add_verbs(app: typer.Typer) -> None:
    """Add this module's verb to the command line."""
    app.command()(docs)


def docs(
    context: typer.Context,
    build: Annotated[bool, typer.Option("--build", help="build it, and serve nothing")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="build it into this folder instead")
    ] = None,
    write_reference: Annotated[
        bool, typer.Option("--write-reference", help="write the pages below docs/reference/ anew")
    ] = False,
    screenshots: Annotated[
        bool, typer.Option("--screenshots", help="take docs/images/ anew from the dashboard")
    ] = False,
) -> None:
    """Build the documentation and serve it until Ctrl-C.

    The API and the dashboard have it too, below /documentation/, once it is built.
    Example: rossmann docs
    """
    from rossmann.documentation.build import build_site
    from rossmann.installation import documentation_source
    from rossmann.settings import load_settings

    chosen = load_settings()
    pages = documentation_source() / "docs"
    if write_reference:
        _write_reference(context, pages)
    if screenshots:
        from rossmann.documentation.screenshots import take_screenshots

        for file in take_screenshots(chosen.dashboard_url, pages / "images"):
            echo(f"  {file.name}")
    if (write_reference or screenshots) and not (build or output):
        return
    site = output or chosen.site_dir
    built = build_site(site.resolve())
    echo(f"Documentation {'built' if built else 'is up to date'}: {site}")
    if not (build or output):
        _serve(chosen)


def _write_reference(context: typer.Context, pages: Path) -> None:
    from rossmann.documentation.reference import reference_pages
    from rossmann.filesystem.atomic_write import write_text_atomic

    for name, text in reference_pages(context.find_root().command).items():
        write_text_atomic(pages / name, text, 0o644)
        echo(f"  {name}")


def _serve(settings: "Settings") -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from rossmann.addresses import url_host
    from rossmann.serving.server import bind
    from rossmann.web import DocumentationSite

    host, port = settings.host, settings.docs_port
    site = Starlette(routes=[Mount("/", DocumentationSite(settings.site_dir))])
    # Readers that pause between pages keep their connection.
    config = uvicorn.Config(site, log_level="warning", timeout_keep_alive=75)
    with bind(host, port, "ROSSMANN_DOCS_PORT") as listener:
        echo(f"http://{url_host(host)}:{port}/  (Ctrl-C ends it)")
        uvicorn.Server(config).run(sockets=[listener])
