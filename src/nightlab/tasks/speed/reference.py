"""The reference: solution.py as it was at the start. What is right, and how long it took. Frozen."""


def distance(a, b):
    """How many letters to insert, delete or replace to make b of a."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) + 1):
        table[i][0] = i
    for j in range(len(b) + 1):
        table[0][j] = j
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            cost = 0 if a[i - 1] == b[j - 1] else 1
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + cost)
    return table[len(a)][len(b)]


def correct(words, vocabulary):
    """The nearest word of the vocabulary for each word; among equally near ones the first."""
    corrected = []
    for word in words:
        best, nearest = None, None
        for candidate in vocabulary:
            found = distance(word.lower().strip(), candidate.lower().strip())
            if best is None or found < best:
                best, nearest = found, candidate
        corrected.append(nearest)
    return corrected
