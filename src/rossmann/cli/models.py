"""Verbs on the registry: models, validate, promote, rollback."""

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from rossmann.cli.terminal import echo, show_table
from rossmann.installation import shell_command

if TYPE_CHECKING:
    from rossmann.models.gate.verdict import Verdict
    from rossmann.models.registry.model_version import ModelVersion
    from rossmann.models.registry.registry import Registry
    from rossmann.settings import Settings


app = typer.Typer(help="The registered versions.", no_args_is_help=True)

VersionArgument = Annotated[str, typer.Argument(help="a number, Production or Staging")]
ReasonOption = Annotated[str, typer.Option(help="kept with the version")]


def add_verbs(above: typer.Typer) -> None:
    """Add this module's verbs to the command line."""
    above.command()(validate)
    above.command()(promote)
    above.command()(rollback)


@app.command("list")
def list_versions(
    data: Annotated[
        str, typer.Option(help="made from this data version, or one that begins so")
    ] = "",
    code: Annotated[str, typer.Option(help="made by this release, commit or source digest")] = "",
    file: Annotated[
        str, typer.Option(help="made from a raw table with this SHA-256, or one that begins so")
    ] = "",
) -> None:
    """List every version, newest first, or those that come from some data, code or table.

    Example: rossmann models list --file 3f2a91
    """
    from rossmann.models.registry.lineage import filter_by_origin

    with _registry() as registry:
        versions = registry.versions()
    if not versions:
        echo(f"no version is registered yet; make one with: {shell_command('train')}")
        return
    found = filter_by_origin(versions, data, code, file)
    if not found:
        echo(f"none of the {len(versions)} versions was made from that")
        return
    header = ("version", "stage", "made", "profile", "data", "data version", "code")
    show_table(header, [_line(version) for version in found])


@app.command("show")
def show(version: VersionArgument = "Production") -> None:
    """Show one version: what it was made from, its verdict line by line, and its promotions.

    Example: rossmann models show 3
    """
    from rossmann.models.gate.verdict import format_stored_verdict
    from rossmann.models.registry.lineage import flatten_tags

    with _registry() as registry:
        found = registry.find(version)
        steps = [s for s in registry.history() if found.version in {s.version, s.replaced}]
    echo(f"version {found.version}, {found.stage}, made {found.created:%F %T} UTC")
    echo(f"run {found.run_id}")
    shown = flatten_tags(found.tags)
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        echo(f"  {name:<{width}}  {value}")
    for line in format_stored_verdict(found.tags.get("gate.table", "")):
        echo(f"  {line}")
    echo("promotions, the latest first:" if steps else "never promoted")
    for step in steps:
        left = "" if step.replaced is None else f" in place of {step.replaced}"
        why = f": {step.why}" if step.why else ""
        echo(f"  {step.at[:19]}  {step.action} {step.version}{left}, by {step.who}{why}")


@app.command("compare")
def compare(first: VersionArgument, second: VersionArgument) -> None:
    """Set two versions side by side: what they were made from, and which errs less.

    Example: rossmann models compare 3 Production
    """
    from rossmann.models.gate.gate import compare_versions

    with _registry() as registry:
        one, two = registry.find(first), registry.find(second)
        found = compare_versions(registry, one, two)
    names = (f"version {one.version}", f"version {two.version}")
    show_table(("made from", *names), [[n, a[:60], b[:60]] for n, a, b in found.lineage])
    if found.note:
        echo(f"not compared: {found.note}")
        return
    rows = [
        [
            o,
            f"{t.first_wape:.4f}",
            f"{t.second_wape:.4f}",
            f"{t.first_rmspe:.4f}",
            f"{t.second_rmspe:.4f}",
            f"{t.first_capped_rmspe:.4f}",
            f"{t.second_capped_rmspe:.4f}",
            f"{t.improvement:+.1%} ± {t.standard_error:.1%}",
            f"{t.share_of_stores_better:.0%}",
            f"{t.p_value:.4f}",
        ]
        for o, t in found.windows
    ]
    measures = [f"{measure} {n}" for measure in ("WAPE", "RMSPE", "capped RMSPE") for n in names]
    show_table(("from", *measures, "improvement", "stores better", "by chance"), rows)


def validate(version: VersionArgument) -> None:
    """Put a version through the gate; exit code 1 where it may not be promoted.

    Example: rossmann validate 3
    """
    from rossmann.errors import GateRejectedError
    from rossmann.settings import load_settings

    settings = load_settings()
    with _registry(settings) as registry:
        verdict = _judge(registry, registry.find(version), settings)
    if not verdict.passed:
        raise GateRejectedError(_refusal(verdict))
    echo(f"version {verdict.version} may be promoted: rossmann promote {verdict.version}")


def promote(
    version: VersionArgument,
    reason: ReasonOption = "",
    force: Annotated[bool, typer.Option(help="even if the gate rejects it")] = False,
) -> None:
    """Make a version the one in Production, if the gate lets it pass.

    Refused where another version became Production since the gate compared the two.

    Example: rossmann promote 3 --reason "new quarter"
    """
    from rossmann.errors import GateRejectedError
    from rossmann.settings import load_settings

    settings = load_settings()
    with _registry(settings) as registry:
        found = registry.find(version)
        verdict = _judge(registry, found, settings)
        if not verdict.passed and not force:
            raise GateRejectedError(_refusal(verdict))
        if not verdict.passed:
            echo("the gate refuses this version; promoted because of --force")
        done = registry.promote(
            found.version, reason, getpass.getuser(), expected=verdict.compared_to
        )
    echo(f"version {done.version} is {done.stage}")


def rollback(reason: ReasonOption = "") -> None:
    """Bring back the version that served before.

    Example: rossmann rollback --reason "sales of bakeries far off"
    """
    with _registry() as registry:
        done = registry.rollback(reason, getpass.getuser())
    echo(f"version {done.version} is {done.stage} again")


def _judge(registry: "Registry", found: "ModelVersion", settings: "Settings") -> "Verdict":
    from rossmann.models.gate.gate import validate as judge

    verdict = judge(registry, found.version, settings)
    echo(verdict.table())
    return verdict


def _refusal(verdict: "Verdict") -> str:
    return f"version {verdict.version} may not be promoted: see the table"


def _registry(settings: "Settings | None" = None) -> "Registry":
    from rossmann.models.registry.registry import Registry
    from rossmann.settings import load_settings

    return Registry.from_settings(settings or load_settings())


def _line(version: "ModelVersion") -> list[str]:
    from rossmann.models.registry.lineage import profile_label

    tags = version.tags
    return [
        str(version.version),
        str(version.stage),
        f"{version.created:%Y-%m-%d %H:%M}",
        profile_label(tags),
        tags.get("data.dataset", "?"),
        tags.get("data.version", "?"),
        tags.get("code.commit", tags.get("code.digest", "?"))[:12],
    ]
