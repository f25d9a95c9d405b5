"""The command line, `inferential`: one file a command.

Nothing here is needed by a program that uses the package.
"""
