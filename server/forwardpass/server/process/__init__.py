"""The process that serves: its memory, its threads, its cores, its log."""
