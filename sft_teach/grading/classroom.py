"""Grade a whole class, into nbgrader's gradebook: what `sft-teach grade ASSIGNMENT` does.

The engine says what each submission is worth. nbgrader keeps the rest: its gradebook, late
penalties, grading by hand in formgrader, feedback pages, export. What it gets to see of a
submission is a notebook that was put together anew, see `pages`.

    grading/secret             the course's secret, made at the first run; keep it, tell nobody
    grading/ASSIGNMENT.json    what became of each submission
    grading/roster.csv         the roster that was used last
    grading/unreadable/        copies of what could not be graded
    submitted/, autograded/, feedback/, gradebook.db        as in any nbgrader course
    grades.csv                 one line per student and assignment

A run may be stopped at any moment and started again: a submission that is done is skipped as long
as neither it nor the master has changed.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sft_teach import exercises
from sft_teach.errors import SFTTeachError
from sft_teach.grading import engine, intake, notebook
from sft_teach.grading.course import Course
from sft_teach.grading.engine import Result
from sft_teach.grading.intake import Submission
from sft_teach.progress import bar


@dataclass
class Report:
    """What a run did.

    Attributes:
        failed: for each submission that got no grade, the reason; also from earlier runs.
        kept: for each submission older than the graded one, what was done.
        left_out: for each notebook that is nobody's, the reason.
        timeless: how many of the submissions have no known time of handing in.
        notes: what else the teacher should know.
    """

    assignment: str
    graded: dict[str, Result] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    flags: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    timeless: int = 0
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        """Whether all that was handed in has its grade."""
        return not self.failed and not self.left_out

    def __str__(self) -> str:
        lines = [
            f"{self.assignment}: {len(self.graded)} graded, {len(self.unchanged)} unchanged, "
            f"{len(self.failed)} failed, {len(self.missing)} missing"
        ]
        lines += [f"  FAILED   {student}: {why}" for student, why in sorted(self.failed.items())]
        lines += [f"  NOT TAKEN IN  {path}: {why}" for path, why in sorted(self.left_out.items())]
        lines += [f"  older    {student}: {what}" for student, what in sorted(self.kept.items())]
        lines += [f"  look at  {s}: {'; '.join(f)}" for s, f in sorted(self.flags.items())]
        if self.timeless:
            lines.append(
                f"  no time of handing in is known for {self.timeless}: they get no late penalty"
            )
        lines += [f"  note     {note}" for note in self.notes]
        if self.interrupted:
            lines.append("Interrupted. The same command goes on from here.")
        return "\n".join(lines)


def grade_class(
    assignment: str,
    root: Path,
    submissions: Path | None = None,
    *,
    roster: Path | None = None,
    jobs: int = 1,
    again: bool = False,
) -> Report:
    """Grade all submissions of an assignment that are new or have changed.

    Args:
        assignment: name of a folder in `root`/solutions.
        root: the course's folder.
        submissions: a folder or zip (see `intake`); None is `root`/submitted.
        roster: see `intake.read_roster`; None is the one that was used before, if any.
        jobs: how many submissions are graded at a time.
        again: grade also what has not changed, and what is older than what is graded.

    Raises:
        IntakeError: there are no submissions, or they cannot be taken in.
        SandboxUnavailable: nothing is graded without a sandbox.
        DataError: there is no such assignment.
        SFTTeachError: the hidden tests do not give their own master full points.
    """
    course = Course(root, assignment)
    students = course.use_roster(roster)
    where = submissions or course.root / "submitted"
    others = exercises.names(course.root)
    found = intake.take_in(where, course.assignment, students, others)
    report = Report(course.assignment, left_out=found.left_out, notes=course.warnings)
    todo = _sort_out(course, found.submissions, report, again)
    if todo and not course.is_master_sound():
        _require_sound_master(course)
    try:
        with bar(len(todo), f"grading {course.assignment}", unit="notebook") as progress:
            for submission, result in _graded(course, todo, max(1, min(jobs, len(todo)))):
                _enter(course, submission, result, report)
                progress.update()
    except KeyboardInterrupt:
        report.interrupted = True
    _complete(course, report)
    course.write_grades()
    return report


def _sort_out(
    course: Course, found: list[Submission], report: Report, again: bool
) -> list[Submission]:
    """What is to be graded; the rest goes into the report."""
    todo = []
    for submission in found:
        student = submission.student
        course.forget_strangers(submission)
        if again:
            course.settle(student)
        newer = None if again else course.graded_newer(submission)
        if newer is not None:
            words = f"handed in {submission.submitted:%Y-%m-%d %H:%M} UTC, older than the one "
            words += f"graded, of {newer:%Y-%m-%d %H:%M} UTC: kept the newer; --again takes it"
            report.kept[student] = words
            submission = course.kept(student)
            if submission is None:  # the grade is all that is left of the newer one
                report.unchanged.append(student)
                continue
        submission = course.timed(submission)
        problem = submission.problem or _unreadable(submission, course.assignment)
        if not problem:
            report.timeless += submission.submitted is None
        if problem:
            course.note_failure(submission, problem)
        elif not again and course.is_done(submission):
            report.unchanged.append(student)
        else:
            todo.append(submission)
    return todo


def _unreadable(submission: Submission, assignment: str) -> str:
    try:
        notebook.require(notebook.read(submission.notebook), assignment)
    except notebook.UnreadableNotebook as error:
        return str(error)
    return ""


def _require_sound_master(course: Course) -> None:
    """Refuse to grade with a hidden test that is itself wrong: everybody would lose its points."""
    with engine.Grader(course.master) as grader:
        result = grader.grade(notebook.as_submission(course.master))
    if wrong := faults(result):
        raise SFTTeachError(
            f"Nothing was graded: {course.master.relative_to(course.root)} does not get full "
            f"points from its own hidden tests. {'; '.join(wrong)}. Mend them, and try them with "
            f"`sft-teach grade-one {course.master.relative_to(course.root)}`."
        )
    course.note_sound_master()


def faults(result: Result) -> list[str]:
    """Where a master loses points, and the error of the hidden test."""
    if result.failed:
        return [result.failed]
    return [
        f"{task.name}: {task.points:g} of {task.max_points:g}, {task.error or 'partial points'}"
        for task in result.tasks
        if task.points < task.max_points
    ]


def _enter(course: Course, submission: Submission, result: Result, report: Report) -> None:
    """Put one result into the gradebook, or note why that was not possible."""
    reason = result.failed
    if reason is None:
        try:
            course.record(submission, result)
        except (Exception, SystemExit) as error:  # nbgrader's many kinds: one student, not all
            reason = f"nbgrader could not record it: {error}"
    if reason is None:
        report.graded[submission.student] = result
    else:
        course.note_failure(submission, reason)


def _complete(course: Course, report: Report) -> None:
    """What is known from this run and earlier ones."""
    report.failed = course.failures()
    report.missing = course.missing()
    for student in (*report.graded, *report.unchanged):
        if flags := course.flags(student):
            report.flags[student] = flags
    if course.students is not None:
        roster = {student.student for student in course.students}
        for student in sorted(course.state.keys() - roster - report.failed.keys()):
            report.notes.append(
                f"{student} is graded but not in the roster; `sft-teach grade {course.assignment} "
                f"--forget {student}` takes it out"
            )


def forget(assignment: str, root: Path, student: str) -> list[str]:
    """Take a student out of an assignment; returns where something was found.

    Raises:
        DataError: nothing is known of this student.
    """
    course = Course(root, assignment)
    course.use_roster(None)
    found = course.forget(student)
    course.write_grades()
    return found


def _graded(
    course: Course, todo: list[Submission], jobs: int
) -> Iterator[tuple[Submission, Result]]:
    """Results as they come, from so many graders side by side."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    done: queue.SimpleQueue = queue.SimpleQueue()
    stop = threading.Event()
    for submission in todo:
        waiting.put(submission)

    def work() -> None:
        try:
            with engine.Grader(course.master) as grader:
                while not stop.is_set():
                    submission = waiting.get_nowait()
                    student = submission.student
                    done.put(
                        (submission, grader.grade(submission.notebook, student, course.secret))
                    )
        except queue.Empty:
            pass
        except BaseException as error:  # of the engine itself: it ends the run, below
            done.put((None, error))

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    ended = 0
    try:
        for _ in todo:
            submission, result = done.get()
            if submission is None:
                raise result
            yield submission, result
            ended += 1
    finally:
        stop.set()
        if ended < len(todo):
            print("Stopping: waiting for the submission at work.", file=sys.stderr, flush=True)
        for thread in threads:
            thread.join()
