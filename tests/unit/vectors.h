/*
 * vectors: rows of a file in tests/vectors/. A row is words between blanks; lines that begin with # say where the rows
 * come from. A word is hex, or "-" for nothing; what it means is the test's business.
 */
#ifndef TESTS_UNIT_VECTORS_H
#define TESTS_UNIT_VECTORS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define VECTOR_MAX_WORDS 12

struct vector {
	FILE *file;
	char *line;
	size_t size;
	int number; /* of the line */
	int nwords;
	char *word[VECTOR_MAX_WORDS];
};

/* Opens tests/vectors/NAME; a test without its vectors must not pass: exits when it is not there. */
void vector_open(struct vector *v, const char *name);
/* 1: a row is in v->word; 0: no more (and all is freed). */
int vector_next(struct vector *v);
/* Word i as bytes into out (of size max); exits when it is not hex or too long. Returns the length. */
size_t vector_bytes(const struct vector *v, int i, uint8_t *out, size_t max);
/* Word i as an unsigned number (0x allowed). */
uint64_t vector_number(const struct vector *v, int i);

#endif
