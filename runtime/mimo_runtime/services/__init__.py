"""Services around one loaded model: the core that they share, and the HTTP service in ``http`` (extra ``server``).

The core is free of HTTP: :class:`~.host.ModelHost` holds the model, :class:`~.store.ImageStore` the images, and
:class:`~.jobs.Jobs` decides who computes now. A service of another protocol is an adapter over these three.
"""
