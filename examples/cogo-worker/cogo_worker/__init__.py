"""The worker behind a COGO installation: tests projects, writes edits, runs commands.

The life of a run, and the module that owns each part:

    server       reads one HTTP request and writes one answer
    request      turns the body into a checked request, also for the other operations
    runs         joins, replays or starts the run of an idempotency key
    frame        gives the run a directory, a log, timed steps and a report
    build_test   a build-test, step by step:
        edits        reads edits.json (``EDITS.md``; unified diffs: ``diffs``)
        source       gets the tree: a directory, a git repository (``git``) or an
                     archive (``children/extract.py``)
        apply        applies the edits, all or none
        project      reads what the tree declares: test runner, requirements
        environment  makes the virtual environment that Python tests run in
        testing      runs Python tests; concludes what any results mean
        native       runs ``cargo test`` and ``npm test`` (``runner_output`` reads them)
    codegen      writes edits.json from the rules of ``spec``
    sandbox      runs a command in isolation, by ``children/confine.py``
    report       writes what a run leaves behind
    process      starts every child, under ``children/supervise.py``

``errors`` says how a failure is answered, ``settings`` holds the limits.

Invariant: nothing from a request, an archive, a repository or a test run is
trusted; code of the project runs only in children of ``process``, never here.
"""

__version__ = "0.1.0"
