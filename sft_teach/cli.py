"""The command `sft-teach`: doctor, lab, run, exercises, grade, grade-one, experiment, results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from sft_teach import environment
from sft_teach.errors import SFTTeachError

app = typer.Typer(
    help="A course on supervised fine-tuning of language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def repository() -> Path:
    """The folder that holds the course, whose `notebooks/` the commands work on."""
    folder = environment.repository_root()
    if (folder / "notebooks").is_dir():
        return folder
    raise SFTTeachError(
        f"No course in {folder}: expected a folder notebooks/. "
        "Go to the folder that you cloned and try again."
    )


@app.command()
def doctor() -> None:
    """Say what works on this machine, and what to do about what does not."""
    from sft_teach import doctor

    findings = doctor.examine()
    print(doctor.as_text(findings))
    if doctor.essential_failures(findings):
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context) -> None:
    """Open the course in JupyterLab; options go to JupyterLab, as in --no-browser."""
    folder = repository()
    welcome = Path("notebooks", "00_welcome.ipynb")
    command = [sys.executable, "-m", "jupyterlab", str(welcome), *context.args]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # JupyterLab refuses root otherwise; containers run as root
    raise typer.Exit(subprocess.call(command, cwd=folder))


@app.command()
def run(
    notebooks: Annotated[
        list[Path] | None, typer.Argument(help="Notebooks to run; without any: all of the course.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Folder for one HTML page per notebook and an index.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Store the outputs, and the seconds in results/.")
    ] = False,
) -> None:
    """Run notebooks without a browser and print the seconds that each took."""
    from sft_teach import runner

    paths = notebooks or sorted((repository() / "notebooks").glob("*.ipynb"))
    if not runner.run_all(paths, html=html, in_place=in_place):
        raise typer.Exit(1)


@app.command()
def experiment(
    name: Annotated[str, typer.Argument(help="Which one; see sft_teach/experiments.py.")],
) -> None:
    """Repeat a full-scale run and write results/NAME.json; started again, it resumes."""
    from sft_teach import experiments

    experiments.run(name)


@app.command()
def exercises() -> None:
    """Make exercises/ from the masters in solutions/ (needs nbgrader, the extra "teach")."""
    from sft_teach import exercises

    changed = exercises.generate(repository())
    print(f"exercises/: {len(changed)} changed" if changed else "exercises/: up to date")


@app.command()
def grade(
    assignment: Annotated[str, typer.Argument(help="A folder of solutions/: ex03_cross_entropy.")],
    submissions: Annotated[
        Path | None,
        typer.Option(
            help="Folder or zip: nbgrader's tree, NAME.ipynb files, a Moodle or Canvas "
            "download. Without it: submitted/."
        ),
    ] = None,
    roster: Annotated[
        Path | None,
        typer.Option(help="CSV with the columns student, name, lms_id; remembered for later runs."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="So many at a time.")] = 1,
    again: Annotated[
        bool,
        typer.Option("--again", help="Also what has not changed, and what is older than graded."),
    ] = False,
    forget: Annotated[
        str | None, typer.Option(help="Grade nothing; take this student out of the assignment.")
    ] = None,
) -> None:
    """Grade a class into nbgrader's gradebook, with feedback pages and grades.csv."""
    from sft_teach.grading import classroom

    if forget is not None:
        found = classroom.forget(assignment, repository(), forget)
        print(f"{forget} is taken out of {', '.join(found)}; files are in grading/forgotten/.")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    report = classroom.grade_class(
        assignment, repository(), submissions, roster=roster, jobs=jobs, again=again
    )
    print(report)
    if report.interrupted:
        raise typer.Exit(130)
    if not report.complete:
        raise typer.Exit(1)


@app.command()
def grade_one(
    notebook: Annotated[Path, typer.Argument(help="A notebook that was handed in.")],
    assignment: Annotated[
        str | None, typer.Option(help="If neither its metadata nor its name say which.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Grade one notebook, without a gradebook, on hidden inputs that are new each time.

    A master of solutions/ must get full points: exit code 1 says that its hidden tests are wrong.
    """
    import json

    from sft_teach.grading import classroom, single

    result = single.grade_one(notebook, assignment)
    print(json.dumps(result.as_dict(), indent=1) if as_json else single.as_text(result))
    wrong = classroom.faults(result) if single.is_master(notebook) else []
    if wrong and not as_json:
        print("\n".join(["The hidden tests and this master disagree:", *wrong]))
    if result.failed or wrong:
        raise typer.Exit(1)


@app.command()
def results() -> None:
    """Rewrite the tables of README.md and docs/speed.md from results/*.json."""
    from sft_teach import readme

    changed = readme.refresh(repository())
    print(f"Rewritten: {', '.join(changed)}." if changed else "All tables are up to date.")


def main() -> None:
    """The `sft-teach` command: an error of ours is one line and exit code 2, not a traceback."""
    try:
        app()
    except SFTTeachError as error:
        print(f"sft-teach: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
