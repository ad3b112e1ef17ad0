"""A W&B workspace for the runs of a project, made by code: `python -m lexalign.tracking.wandb_workspace --entity me --vary method.beta`.

Score by setting, parallel coordinates, what matters, learning curves; the runs grouped by sweep, or of one sweep with `--group`.
Needs `pip install -e '.[workspaces]'`.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lexalign.errors import ConfigError
from lexalign.tracking.wandb_session import choose_mode, end_session, shorten_error

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

CURVES = ("train/loss", "train/eval_loss", "train/rewards/margins", "train/rewards/accuracies", "train/grad_norm", "train/learning_rate")
INSTALL = "wandb-workspaces is not installed; type pip install -e '.[workspaces]'"


def make_workspace(*, entity: str, project: str, vary: Sequence[str], score: str, group: str | None, name: str) -> "Workspace":
    """The definition; nothing is sent. `vary` are dotted settings, `score` the summary to compare; `group` shows one sweep only."""
    from wandb_workspaces import expr
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    jobs = [expr.Metric("JobType") != "sweep", *([expr.Metric("Group") == group] if group else [])]
    target = wr.SummaryMetric(score)
    by_setting: list[Any] = [wr.ScatterPlot(title=f"{score} by {key}", x=wr.Config(key), y=target, regression=True) for key in vary]
    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), display_name=key) for key in vary]
    together = wr.ParallelCoordinatesPlot(
        title="All settings", columns=[*axes, wr.ParallelCoordinatesPlotColumn(target, display_name=score)]
    )
    curves: list[Any] = [wr.LinePlot(title=key, x="step", y=[key]) for key in CURVES]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(name="Score by setting", is_open=True, panels=[*by_setting, wr.ParameterImportancePlot(with_respect_to=score)]),
            ws.Section(name="Parallel coordinates", is_open=True, panels=[together]),
            ws.Section(name="Learning curves", is_open=True, panels=curves),
        ],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=jobs,
            # Grouped runs are one point a group on every panel: right across sweeps, useless within one.
            groupby=[] if group else [expr.Metric("Group")],
            order=[expr.Ordering(expr.Summary(score), ascending=False)],
            pinned_columns=[f"summary:{score}"],
        ),
    )


def main(words: Sequence[str] | None = None) -> int:
    """Save the workspace on W&B and print its address, or print its definition; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lexalign.tracking.wandb_workspace", description="A W&B workspace for the runs of a project."
    )
    parser.add_argument("--entity", help="W&B user or team; the account's own where it is left out")
    parser.add_argument("--project", default="lexalign", help="tracking.project of the runs (lexalign)")
    parser.add_argument(
        "--vary", nargs="+", default=["train.learning_rate"], metavar="KEY", help="the settings to look at: method.beta seed"
    )
    parser.add_argument("--score", default="score", help="the summary to compare: score, or after/belief_jsd")
    parser.add_argument("--group", help="show this sweep only")
    parser.add_argument("--name", default="LexAlign sweeps", help="what the workspace is called")
    parser.add_argument("--print", action="store_true", help="print the definition as JSON instead of saving it; dials nowhere")
    args = parser.parse_args(words)
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        print(INSTALL, file=sys.stderr)
        return 2
    options = {"project": args.project, "vary": args.vary, "score": args.score, "group": args.group, "name": args.name}
    if args.print:
        print(make_workspace(entity=args.entity or "me", **options)._to_model().model_dump_json(by_alias=True, indent=2))
        return 0
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        mode, why = choose_mode("auto")  # wandb.Api would dial without a key, too
        if mode != "online":
            raise ConfigError(f"W&B is {mode} ({why})")
        entity = args.entity or wandb.Api().default_entity
        if entity is None:
            raise ConfigError("W&B names no entity for this account; type --entity")
        workspace = make_workspace(entity=entity, **options)
        workspace.save()
        print(workspace.url)
    except (ConfigError, wandb.errors.Error, WandbApiFailedError) as error:
        print(f"{shorten_error(error)}; --print shows the definition instead", file=sys.stderr)
        return 2
    finally:
        end_session()
    return 0


if __name__ == "__main__":
    sys.exit(main())
