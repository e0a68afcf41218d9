"""A model of text, bit by bit: it counts which bit followed in the same context before.

A context is the last few bytes and the bits of the present byte so far. Two such models, which look back differently
far, can be mixed.
"""

ORDER = 1  # bytes of context of the first model
SECOND_ORDER = 1  # and of the second
MIX = 0.0  # weight of the second model
PRIOR = 1.0  # how often either bit is taken to have come before anything was seen
INCREMENT = 1.0  # what is counted for the bit that came
DECAY = 0.8  # what is left of the other bit's count


class Model:
    """Says how likely a 1 comes next, then is told what came."""

    def __init__(self):
        self.first, self.second = {}, {}  # context -> bits of the present byte so far -> counts of 0 and of 1
        self.start_byte(past=b"")

    def start_byte(self, past):
        """Find what either model knows about the context."""
        self.past = past[-8:]
        self.bits = 1  # the bits of the present byte so far, after a leading 1
        self.first_context = self.first.setdefault(self.past[-ORDER:] if ORDER else b"", {})
        self.second_context = self.second.setdefault(self.past[-SECOND_ORDER:] if SECOND_ORDER else b"", {})
        self.look_up()

    def look_up(self):
        """Find the counts for the next bit."""
        self.a = self.first_context.setdefault(self.bits, [0.0, 0.0])
        self.b = self.second_context.setdefault(self.bits, [0.0, 0.0])

    def predict(self):
        """The probability that the next bit is 1."""
        a = (self.a[1] + PRIOR) / (self.a[0] + self.a[1] + 2 * PRIOR)
        b = (self.b[1] + PRIOR) / (self.b[0] + self.b[1] + 2 * PRIOR)
        return (1 - MIX) * a + MIX * b

    def update(self, bit):
        """Count the bit that came, and move on."""
        for counts in (self.a, self.b):
            counts[bit] += INCREMENT
            counts[1 - bit] *= DECAY
        self.bits = self.bits * 2 + bit
        if self.bits < 256:
            self.look_up()
        else:
            self.start_byte(self.past + bytes([self.bits - 256]))
