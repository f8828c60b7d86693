#include "tests/unit/vectors.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

void
vector_open(struct vector *v, const char *name)
{
	char path[256];

	memset(v, 0, sizeof(*v));
	snprintf(path, sizeof(path), "tests/vectors/%s", name);
	if ((v->file = fopen(path, "r")) == NULL) {
		printf("Bail out! no %s here: run this in the root of the tree\n", path);
		exit(1);
	}
}

int
vector_next(struct vector *v)
{
	while (getline(&v->line, &v->size, v->file) >= 0) {
		char *save = NULL;

		v->number++;
		v->nwords = 0;
		for (char *w = strtok_r(v->line, " \t\n", &save); w != NULL && v->nwords < VECTOR_MAX_WORDS;
		     w = strtok_r(NULL, " \t\n", &save))
			v->word[v->nwords++] = w;
		if (v->nwords > 0 && v->word[0][0] != '#')
			return 1;
	}
	fclose(v->file);
	free(v->line);
	memset(v, 0, sizeof(*v));
	return 0;
}

static void
bad_word(const struct vector *v, int i)
{
	printf("Bail out! vector line %d: word %d is not what it must be\n", v->number, i + 1);
	exit(1);
}

static int
digit(char c)
{
	return isdigit((unsigned char)c) ? c - '0'
	       : c >= 'a' && c <= 'f'    ? c - 'a' + 10
	       : c >= 'A' && c <= 'F'    ? c - 'A' + 10
	                                 : -1;
}

size_t
vector_bytes(const struct vector *v, int i, uint8_t *out, size_t max)
{
	const char *w = i < v->nwords ? v->word[i] : "?";
	size_t len = strlen(w) / 2;

	if (strcmp(w, "-") == 0)
		return 0;
	if (strlen(w) % 2 != 0 || len > max)
		bad_word(v, i);
	for (size_t k = 0; k < len; k++) {
		int hi = digit(w[2 * k]), lo = digit(w[2 * k + 1]);

		if (hi < 0 || lo < 0)
			bad_word(v, i);
		out[k] = (uint8_t)(hi << 4 | lo);
	}
	return len;
}

uint64_t
vector_number(const struct vector *v, int i)
{
	char *end = NULL;
	uint64_t n = i < v->nwords ? strtoull(v->word[i], &end, 0) : 0;

	if (end == NULL || *end != '\0')
		bad_word(v, i);
	return n;
}
