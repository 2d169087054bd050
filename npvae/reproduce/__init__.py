"""The figures of the paper, each reproduced by one command.

`figures` has a table of them and of their models, `runner` trains these, `paper` has the curves of the paper, and
`drawing` draws.
"""
