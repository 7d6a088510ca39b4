"""Fault spaces that are covered completely: each byte of an exchange is a case, each system call of the server is.

A case is named by what is swept, where and at which position: `wire/up/37` is a cut after 37 bytes upstream,
`syscall/kill/9` a kill at the tenth of the server's calls, `pairs/wire-kill/12+9` one after the other.
"""

TEXT = "hello"
"""What every message of a sweep says: they all have the same length."""
