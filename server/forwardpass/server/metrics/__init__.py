"""Counters on the hot path, Prometheus series at scrape.

    a call ─► counters ─ recorded ─► numbers ─ at scrape ─► collector ─► Prometheus

A call records numbers, or adds to plain ones under a short lock; nothing of prometheus_client runs
until somebody scrapes. Labels come from the loaded models and the served methods only, never from a
caller.
"""
