"""What runs when.

`admission` bounds what the server holds, `queue` what waits for one model. `batch` makes one run of
several jobs and gives each its own rows back; `executor` is the threads that do so, and
`inline_executor` does it on the transport's own thread. `failure_detector` judges the model.
"""
