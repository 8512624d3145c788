"""Sessions as a service: many clients, one process, over HTTP.

    manager  whose sessions there are, how many, how long       app      the routes
    session  one session: executions queue, are watched, end    bounds   what a request may be
    stream   one execution as events that can be resumed        server   listening, draining
    gate     who is next, fairly                                keys, ledger, database   what outlives the process

It knows sandboxes by their contract; the client is ``codeact.sandbox.remote``.
"""
