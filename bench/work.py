# SPDX-License-Identifier: GPL-2.0-or-later
"""Strings, dictionaries, objects and a sieve; prints what came out."""


class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def turned(self):
        return Point(-self.y, self.x + 1)


def words(n):
    counts = {}
    for i in range(n):
        word = "w%d" % (i * 7919 % 5003)
        counts[word] = counts.get(word, 0) + len(word)
    return sum(hash_text(word) * count for word, count in sorted(counts.items())[:200])


def hash_text(text):
    value = 5381
    for char in text:
        value = (value * 33 + ord(char)) & 0xffffffff
    return value


def sieve(n):
    flags = [True] * n
    for i in range(2, int(n ** 0.5) + 1):
        if flags[i]:
            flags[i * i::i] = [False] * len(flags[i * i::i])
    return sum(flags) - 2


def queens(n, row=0, columns=0, left=0, right=0):
    if row == n:
        return 1
    found = 0
    for column in range(n):
        bit = 1 << column
        a, b = 1 << (row + column), 1 << (row - column + n)
        if not (columns & bit or left & a or right & b):
            found += queens(n, row + 1, columns | bit, left | a, right | b)
    return found


def points(n):
    point = Point(1, 2)
    for _ in range(n):
        point = point.turned()
    return point.x, point.y


print(words(1000000), sieve(2000000), queens(8), points(1500000))
print(sum(x * 0.5 + 1 / (x + 1) for x in range(2000000)))
