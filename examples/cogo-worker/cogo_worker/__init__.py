"""The worker behind a COGO installation: gets a project, runs its tests, reports.

The life of a run, and the module that owns each part:

    server       reads one HTTP request and writes one answer
    request      turns the body into a checked ``BuildTestRequest``
    runs         joins, replays or starts the run of an idempotency key
    build_test   the run itself, step by step:
        edits        downloads and checks the edits, later applies them
        source       gets the tree: a directory, a git repository (``git``) or an
                     archive (``archive``)
        project      reads what the tree declares: test runner, requirements
        environment  makes the virtual environment that the tests run in
        testing      runs the tests and reads the results
        report       writes report.json, junit.xml and log.txt
    process      starts every child, under ``children/supervise.py``

``errors`` says how a failure is answered, ``settings`` holds the limits.

Invariant: nothing from a request, an archive, a repository or a test run is
trusted; code of the project runs only in children of ``process``, never here.
"""

__version__ = "0.1.0"
