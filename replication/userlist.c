#include "replication/userlist.h"

#include <stdlib.h>
#include <string.h>

#include "walcrypt/secmem.h"

/* PostgreSQL's names end at 63 bytes; a verifier with the longest salt is shorter than the rest. */
#define NAME_MAX_LEN 63
#define WORD_MAX 512

struct user {
	char name[NAME_MAX_LEN + 1];
	struct verifier verifier;
};

struct userlist {
	struct user *users;
	size_t n, cap;
};

/* A word in double quotes at p, before end; behind it, or NULL. */
static const char *
word(const char *p, const char *end, char out[static WORD_MAX])
{
	size_t n = 0;

	if (p == end || *p != '"')
		return NULL;
	for (p++; p < end; p++) {
		if (*p == '"' && (p + 1 == end || p[1] != '"')) {
			out[n] = '\0';
			return p + 1;
		}
		if (*p == '"')
			p++;
		if (n + 1 == WORD_MAX || *p == '\0')
			return NULL;
		out[n++] = *p;
	}
	return NULL;
}

static const char *
blanks(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\r'))
		p++;
	return p;
}

static struct user *
add(struct userlist *u, struct err *err)
{
	if (u->n == u->cap) {
		size_t cap = u->cap == 0 ? 16 : 2 * u->cap;
		struct user *grown = calloc(cap, sizeof(*grown));

		if (grown == NULL) {
			err_nomem(err);
			return NULL;
		}
		if (u->n > 0) {
			memcpy(grown, u->users, u->n * sizeof(*grown));
			secmem_wipe(u->users, u->n * sizeof(*grown));
		}
		free(u->users);
		u->users = grown;
		u->cap = cap;
	}
	return &u->users[u->n];
}

static int
line(struct userlist *u, const char *file, unsigned number, const char *p, const char *end, struct err *err)
{
	char name[WORD_MAX], secret[WORD_MAX];
	struct user *user;
	int rc = -1;

	p = blanks(p, end);
	if (p == end || *p == ';' || *p == '#')
		return 0;
	if ((p = word(p, end, name)) == NULL || (p = word(blanks(p, end), end, secret)) == NULL || blanks(p, end) != end) {
		err_set(err, ERR_USAGE, "%s:%u: not a name and a verifier, each in double quotes", file, number);
		goto out;
	}
	if (*name == '\0' || strlen(name) > NAME_MAX_LEN) {
		err_set(err, ERR_USAGE, "%s:%u: a name has 1 to %d bytes", file, number, NAME_MAX_LEN);
		goto out;
	}
	if (userlist_find(u, name) != NULL) {
		err_set(err, ERR_USAGE, "%s:%u: user \"%s\" is there already", file, number, name);
		goto out;
	}
	if ((user = add(u, err)) == NULL)
		goto out;
	if (verifier_parse(secret, &user->verifier, err) != 0) {
		err_context(err, "%s:%u", file, number);
		goto out;
	}
	memcpy(user->name, name, strlen(name) + 1);
	u->n++;
	rc = 0;
out:
	secmem_wipe(secret, sizeof(secret));
	return rc;
}

struct userlist *
userlist_parse(const char *file, const char *text, size_t len, struct err *err)
{
	struct userlist *u = calloc(1, sizeof(*u));
	const char *end = text + len;
	unsigned number = 0;

	if (u == NULL) {
		err_nomem(err);
		return NULL;
	}
	for (const char *p = text, *eol; p < end; p = eol + 1) {
		if ((eol = memchr(p, '\n', (size_t)(end - p))) == NULL)
			eol = end;
		if (line(u, file, ++number, p, eol, err) != 0) {
			userlist_free(u);
			return NULL;
		}
		if (eol == end)
			break;
	}
	return u;
}

void
userlist_free(struct userlist *u)
{
	if (u == NULL)
		return;
	if (u->users != NULL)
		secmem_wipe(u->users, u->cap * sizeof(*u->users));
	free(u->users);
	free(u);
}

size_t
userlist_len(const struct userlist *u)
{
	return u->n;
}

const struct verifier *
userlist_find(const struct userlist *u, const char *user)
{
	for (size_t i = 0; i < u->n; i++)
		if (strcmp(u->users[i].name, user) == 0)
			return &u->users[i].verifier;
	return NULL;
}

const struct verifier *
userlist_any(const struct userlist *u)
{
	return u->n > 0 ? &u->users[0].verifier : NULL;
}
