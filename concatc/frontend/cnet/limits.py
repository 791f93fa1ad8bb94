"""How much a source text may ask for.  Each limit ends in a clear error instead of a long wait or a crash."""

NESTING = 64  # open brackets, prefix operators and powers
SYNTAX_ERRORS = 20  # reported for one file
RECOVERY_BYTES = 250_000  # parsed again behind syntax errors: a large file reports fewer of them
DIGITS = 400  # of one number in the source
NUMBER_BITS = 8192  # of a number at compile time
STEPS = 200_000  # statements, iterations and calls of one elaboration
OPS = 100_000  # operations of one net
CALL_DEPTH = 32  # blocks inside blocks
DYNAMIC_DEPTH = 160  # expressions, statements and calls inside each other
LIST_ITEMS = 10_000
RANK = 8
ELEMENTS = 2**48  # of one blob
FILES = 200  # imported, directly or not
