#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""project.py DIR: write a C program of some 50 files and its Makefile.

Always the same one: nothing in it is random.
"""
import sys
from pathlib import Path

FILES = 50
FUNCTIONS = 12

HEADER = """\
#ifndef PROJECT_H
#define PROJECT_H
#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node {
    struct node *left, *right;
    uint32_t key;
    char name[24];
};

struct node *node_add(struct node *root, uint32_t key);
"""

TREE = """\
struct node *node_add(struct node *root, uint32_t key)
{
    struct node **at = &root;

    while (*at)
        at = key < (*at)->key ? &(*at)->left : &(*at)->right;
    *at = calloc(1, sizeof(**at));
    if (!*at)
        abort();
    (*at)->key = key;
    snprintf((*at)->name, sizeof((*at)->name), "node %u", key);
    return root;
}
"""

FUNCTION = """\
static uint32_t step_{n}_{f}(struct node *root, const char *text, uint32_t seed)
{{
    uint32_t sum = seed * {a}u + {n}u;
    char copy[64];
    size_t length = strlen(text) % sizeof(copy);

    memcpy(copy, text, length);
    for (size_t i = 0; i < length; i++) {{
        if (isalpha((unsigned char)copy[i]))
            copy[i] = (char)toupper((unsigned char)copy[i]);
        switch ((copy[i] + sum) % {b}) {{
        case 0: sum ^= sum >> {c}; break;
        case 1: sum += (uint32_t)copy[i] << ({f} % 5); break;
        case 2: sum = sum * 31u + {f}u; break;
        default: sum -= (uint32_t)(i * {a}u); break;
        }}
    }}
    for (struct node *at = root; at; at = sum & 1 ? at->left : at->right)
        sum = (sum << 3 | sum >> 29) ^ (at->key + (uint32_t)at->name[{f} % 8]);
    return sum;
}}
"""


def unit(n):
    text = ['#include "project.h"\n']
    for f in range(FUNCTIONS):
        text.append(FUNCTION.format(n=n, f=f, a=2 * n + 3, b=4 + f, c=1 + (n + f) % 15))
    calls = "\n".join(f"    sum = step_{n}_{f}(root, text, sum);" for f in range(FUNCTIONS))
    text.append(f"uint32_t part_{n}(struct node *root, const char *text, uint32_t sum)\n{{\n"
                f"{calls}\n    return sum;\n}}\n")
    return "\n".join(text)


def main():
    where = Path(sys.argv[1])
    where.mkdir(parents=True)
    parts = range(FILES - 1)
    declared = "".join(f"uint32_t part_{n}(struct node *root, const char *text, uint32_t sum);\n"
                       for n in parts)
    (where / "project.h").write_text(HEADER + declared + "#endif\n")
    for n in parts:
        (where / f"part_{n}.c").write_text(unit(n))
    calls = "\n".join(f'    sum = part_{n}(root, "the text of part {n}", sum);' for n in parts)
    (where / "main.c").write_text(
        '#include "project.h"\n\n' + TREE + "\nint main(void)\n{\n    struct node *root = NULL;\n"
        "    uint32_t sum = 1;\n\n    for (uint32_t i = 0; i < 1000; i++)\n"
        "        root = node_add(root, i * 2654435761u);\n"
        f'{calls}\n    printf("%08x\\n", sum);\n    return 0;\n}}\n')
    (where / "Makefile").write_text(
        "CC = gcc\nCFLAGS = -O1 -Wall\nobjects = main.o "
        + " ".join(f"part_{n}.o" for n in parts)
        + "\n\nprogram: $(objects)\n\t$(CC) -o $@ $(objects)\n\n$(objects): project.h\n")


main()
