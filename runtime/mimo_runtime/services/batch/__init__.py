"""One question about many images: a ledger to resume from, a summary, failures that do not end the run (extra ``batch``).

``items`` and ``dicomweb`` list the images, :class:`~.answering.Answerer` answers about one in threads (``local``) or in
processes of a cluster (``ray_engine``), and :func:`~.run.run_batch` keeps the :class:`~.ledger.Ledger` and writes the summary.
"""
