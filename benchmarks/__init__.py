"""Measurements beside their peers, in one table: figure, peer, ratio, goal, met; and the machine that they are from.

    python -m benchmarks [PART ...] [--quick] [--runs N] [--cache FOLDER] [--peer-python FILE]

writes ``benchmarks/results/bench.json`` and, made from it, ``bench.md``. A run of some parts replaces the rows of these
and leaves the others; ``--quick`` (small models, one run) shows that everything works and writes ``quick.json``.

``python -m benchmarks.quote`` puts the table into docs/performance.md.

A part is a module here with one function, and a line in `benchmarks.parts.PARTS`::

    def rows(run: Conditions) -> Iterator[Row]:
        '''What is measured, and beside what.'''
        sides = {"ours": ..., "boto3": ...}                  # each: output path -> Sample (seconds, cpu)
        samples = running.alternate(sides, runs=run.runs(5), scratch=...)
        yield Row(
            "download through presigned S3, 190 MB",
            Figure.of(samples["ours"]),                       # median, CPU seconds, the smallest and the largest
            "s",
            Peer("boto3 with CRT", Figure.of(samples["boto3"])),
            Goal("at most", 1.3, of="ratio"),
        )

`Conditions` (`benchmarks.running`) says how: ``quick``, ``runs(usual)``, ``cache`` (a folder for models that several
parts share), ``python`` (that of the peers, or None). `Row`, `Figure`, `Peer` and `Goal` are in `benchmarks.rows`.
A ratio is always ours divided by the peer's, so a rate has goals "at least" and seconds have goals "at most". A
sample's ``cpu`` is user and system time of all processes that did the work. Sides take turns, and figures are medians.
"""
