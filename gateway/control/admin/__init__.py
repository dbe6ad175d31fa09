"""The admin listener: its pages, who may change what through it, and a client of it for the commands."""
