"""nbgrader's settings for this course: where things lie, and what a learner's stub looks like.

Masters are in solutions/, one folder an assignment; `sft-teach exercises` makes exercises/ of them.
"""

c = get_config()  # noqa: F821 (given by nbgrader)

c.CourseDirectory.course_id = "sft"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
# The notebook bears its assignment's name: solutions/ex03_cross_entropy/ex03_cross_entropy.ipynb.
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
c.ClearSolutions.text_stub = "*Write your answer here, in place of this line.*"
c.IncludeHeaderFooter.header = ""
# HTML in outputs is cleaned. Texts of students do not get this far: nbgrader's own pages show
# Markdown unsanitised, so sft_teach.grading.classroom hands them on as quoted plain text.
c.HTMLExporter.sanitize_html = True
# `nbgrader autograde`, and formgrader's button for it, run submissions unprotected: refused.
c.Autograde.pre_convert_hook = "sft_teach.grading.guard.refuse"
# `nbgrader export` would otherwise write over grades.csv, which `sft-teach grade` makes.
c.CsvExportPlugin.to = "export.csv"
