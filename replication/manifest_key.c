#include "replication/manifest_key.h"

#include <stdio.h>
#include <string.h>

#define ID_LEN (2 * KEY_ID_LEN)

static bool
is_id(const char *text)
{
	return strspn(text, "0123456789abcdef") == ID_LEN && text[ID_LEN] == '"';
}

/* "Encoded-Path": two digits for each character. */
static bool
decode(const char *hex, char *out, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned byte;

		if (strspn(hex + 2 * i, "0123456789abcdefABCDEF") < 2 || sscanf(hex + 2 * i, "%2x", &byte) != 1)
			return false;
		out[i] = (char)byte;
	}
	return true;
}

static void
take(struct manifest_key *k, const char *id)
{
	k->several = k->several || (k->id[0] != '\0' && memcmp(k->id, id, ID_LEN) != 0);
	memcpy(k->id, id, ID_LEN);
	k->id[ID_LEN] = '\0';
}

static void
look(struct manifest_key *k)
{
	static const char plain[] = "{ \"Path\": \"" MANIFEST_KEY_PATH, encoded[] = "{ \"Encoded-Path\": \"";
	char path[sizeof(MANIFEST_KEY_PATH) + ID_LEN + 1];
	const size_t len = sizeof(MANIFEST_KEY_PATH) - 1 + ID_LEN;

	k->head[k->n] = '\0';
	if (strncmp(k->head, plain, sizeof(plain) - 1) == 0) {
		if (is_id(k->head + sizeof(plain) - 1))
			take(k, k->head + sizeof(plain) - 1);
	} else if (strncmp(k->head, encoded, sizeof(encoded) - 1) == 0 && strlen(k->head) > sizeof(encoded) - 1 + 2 * len &&
	           k->head[sizeof(encoded) - 1 + 2 * len] == '"' && decode(k->head + sizeof(encoded) - 1, path, len) &&
	           memcmp(path, MANIFEST_KEY_PATH, sizeof(MANIFEST_KEY_PATH) - 1) == 0) {
		path[len] = '"';
		path[len + 1] = '\0';
		if (is_id(path + sizeof(MANIFEST_KEY_PATH) - 1))
			take(k, path + sizeof(MANIFEST_KEY_PATH) - 1);
	}
}

void
manifest_key_push(struct manifest_key *k, const uint8_t *data, size_t len)
{
	const uint8_t *end = data + len;

	while (data < end) {
		const uint8_t *newline = memchr(data, '\n', (size_t)(end - data));
		size_t n = (size_t)((newline != NULL ? newline : end) - data);
		size_t room = sizeof(k->head) - 1 - k->n;

		memcpy(k->head + k->n, data, n < room ? n : room);
		k->n += n < room ? n : room;
		data += n;
		if (newline == NULL)
			return;
		look(k);
		k->n = 0;
		data++;
	}
}
