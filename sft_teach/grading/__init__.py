"""What is this submission worth, safely?

`engine.grade_notebook` grades one notebook; `engine.Grader` keeps its processes warm for many.
The submission runs in process S (`worker.py`), the hidden tests in process T (`tester.py`), each in
a bubblewrap sandbox of its own (`sandbox.py`); between them travels data only (`protocol.py`).
"""
