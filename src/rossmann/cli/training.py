"""Verbs that compute: features, train, backtest."""

from typing import TYPE_CHECKING, Annotated

import typer

from rossmann.cli.terminal import progress, say, show_table

if TYPE_CHECKING:
    from rossmann.data.make_dataset import DatasetInfo
    from rossmann.models.backtest import WindowScore
    from rossmann.settings import Settings

ProfileOption = Annotated[
    str, typer.Option(help="full (as accurate as it gets) or quick (under a minute)")
]


def add_verbs(app: typer.Typer) -> None:
    """Add this module's verbs to the command line."""
    app.command()(features)
    app.command()(train)
    app.command()(backtest)


def features() -> None:
    """Check and clean the raw tables, and compute the arrays that features are gathered from.

    Example: rossmann features
    """
    from rossmann.settings import load_settings

    info = _prepared(load_settings())
    say(f"data version {info.version} ({info.dataset}) is ready in {info.folder}")


def train(profile: ProfileOption = "full") -> None:
    """Fit the ensemble, backtest it, and register the version with its lineage.

    Example: rossmann train --profile quick
    """
    from rossmann.models.packaging import register
    from rossmann.models.registry import Registry
    from rossmann.models.train import train as fit
    from rossmann.settings import load_settings

    settings = load_settings()
    settings.profile(profile)
    # A fit takes minutes: that there is nowhere to register it must be said before.
    with Registry(settings.tracking_uri) as registry:
        registry.ping()
    _prepared(settings)
    trained = fit(settings, profile, progress)
    _show_windows(trained.windows)
    version = register(trained, settings)
    say(f"registered as version {version.version}; next: rossmann validate {version.version}")


def backtest(profile: ProfileOption = "full") -> None:
    """Forecast past windows as of their origins and print the errors; registers nothing.

    Example: rossmann backtest --profile quick
    """
    from rossmann.data.panel import open_panel
    from rossmann.models.train import backtest as run
    from rossmann.models.train import draw_examples
    from rossmann.settings import load_settings

    settings = load_settings()
    chosen = settings.profile(profile)
    panel = open_panel(_prepared(settings))
    examples = draw_examples(panel, settings.history_days, settings.seed)
    scores, _ = run(settings, panel, examples, chosen, progress)
    _show_windows(scores)


def _prepared(settings: "Settings") -> "DatasetInfo":
    from rossmann.data.make_dataset import make_dataset
    from rossmann.data.panel import build_panel

    info = make_dataset(settings, progress)
    build_panel(info, settings.thread_count, progress)
    return info


def _show_windows(scores: "list[WindowScore]") -> None:
    from rossmann.models.report import table_rows

    header, *rows = table_rows(scores)
    show_table(header, rows)
