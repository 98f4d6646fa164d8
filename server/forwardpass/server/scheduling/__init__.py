"""What runs when.

    Job ─ queue.put ─► queue ─ queue.take ─► [Job, …] ─ batch ─► session.run ─► split ─► Answer

`admission` bounds what the server holds, `queue` what one model holds; `batch` makes one run of
several jobs and gives each its own rows back; `worker` is the thread that does so.
"""
