"""One question about many images: a ledger to resume from, a summary, failures that do not end the run (extra ``batch``).

:mod:`.items` and :mod:`.dicomweb` list the images, :class:`~.answering.Answerer` answers about one, :mod:`.local` and
:mod:`.ray_engine` say where, and :func:`.run.run_batch` keeps the :class:`~.ledger.Ledger` and writes the summary.
"""
